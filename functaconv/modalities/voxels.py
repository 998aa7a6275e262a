"""Voxels: volumes of occupancy between 0 and 1."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from functaconv.data.items import Item
from functaconv.errors import ItemError, UsageError
from functaconv.modalities.array import MOST_CHANNELS
from functaconv.modalities.modality import Axes, ChannelAxis, Measure, Modality

if TYPE_CHECKING:
    from torch import Tensor

    from functaconv.modalities.compared import Compared

# occupancy above which a voxel is full
OCCUPIED = 0.5
ACCURACY = Measure("accuracy", "voxel_accuracy", "voxels")
IOU = Measure("iou", "iou")

# seen from off the axes and diagonals, so that the three sides of a box differ; one row each: right, away and up
_TURN, _TILT = math.radians(35), math.radians(28)
_RIGHT = (math.cos(_TURN), math.sin(_TURN), 0.0)
_AWAY = (-math.sin(_TURN) * math.cos(_TILT), math.cos(_TURN) * math.cos(_TILT), -math.sin(_TILT))
_VIEW = np.array((_RIGHT, _AWAY, np.cross(_RIGHT, _AWAY)))
_COLOUR = np.array((150, 196, 242))
_MARGIN = 0.03
# along an axis: more voxels would be smaller than a pixel
_MOST_VOXELS = 128


class Voxels(Modality):
    """Volumes that hold nothing but 0 and 1 are voxels, unless all of the first ones are empty."""

    name = "voxels"
    plural = "voxels"
    one = "voxels"
    dims = (3,)
    preset = "voxels"
    # the last one points up
    mirrored_axis = 0
    has_code_range = True
    own_formats = ("binvox", "obj")
    measures = agreement_measures = (ACCURACY, IOU)

    def axes(self, items: Sequence[Item], channel_axis: ChannelAxis, asked: str) -> Axes | None:
        if asked != self.name and not (asked == channel_axis == "auto" and _are_voxels(items)):
            return None
        array = items[0].array
        if len(_volume(array).shape) != 3:
            raise UsageError(f"voxels have three axes, the arrays {array.shape}", hint="--set data.modality=array")
        return Axes(self.name, 3, 1, "none", array.dtype.itemsize)

    def channels_last(self, array: np.ndarray, axes: Axes) -> np.ndarray:  # noqa: ARG002 - there are none
        return _volume(array)[..., None]

    def check_values(self, array: np.ndarray) -> None:
        if not (array.min() >= 0 and array.max() <= 1):
            raise ItemError(f"occupancy lies between 0 and 1, found {array.min():g} to {array.max():g}")

    def compare(self, compared: "Compared") -> "dict[str, Tensor]":
        return self.agreement(compared.decoded, compared.features)

    def agreement(self, decoded: "Tensor", features: "Tensor") -> "dict[str, Tensor]":
        """The share of voxels that are right, and intersection over union of what is full: 1 for two empty volumes."""
        is_full, was_full = decoded.flatten(1) > OCCUPIED, features.flatten(1) > OCCUPIED
        both, either = (is_full & was_full).sum(1), (is_full | was_full).sum(1)
        iou = (both / either.clamp(min=1)).masked_fill(either == 0, 1.0)
        accuracy = (is_full == was_full).sum(1).double() / is_full.shape[1]
        return {ACCURACY.name: accuracy, IOU.name: iou.double()}

    def can_draw(self, axes: int, channels: int) -> bool:
        return axes == 3 and channels == 1

    def drawn(self, features: np.ndarray) -> np.ndarray:
        """The occupied voxels as seen from a corner."""
        return voxel_preview(features[..., 0])

    def lines(self, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if text := self.agreement_text(summary):
            yield "voxels", text

    def agreement_text(self, summary: Mapping[str, Any]) -> str:
        accuracy, iou = (summary.get(measure.report) for measure in (ACCURACY, IOU))
        return "" if accuracy is None or iou is None else f"{100 * accuracy:.2f}% right at {OCCUPIED}, IoU {iou:.4f}"


def _are_voxels(items: Sequence[Item]) -> bool:
    """All are volumes of 0 and 1, and something is in them."""
    return all(not item.has_bands and _is_occupancy(item.array) for item in items) and any(
        item.array.any() for item in items
    )


def _is_occupancy(array: np.ndarray) -> bool:
    """A volume that holds nothing but 0 and 1."""
    volume = _volume(array)
    # three axes with few along the last are an image with channels
    is_volume = volume.ndim == 3 and (array.ndim == 4 or min(volume.shape) > MOST_CHANNELS)
    return is_volume and bool(((volume == 0) | (volume == 1)).all())


def _volume(array: np.ndarray) -> np.ndarray:
    """Without a channel axis of length one, wherever it stands."""
    if array.ndim == 4 and 1 in (array.shape[0], array.shape[-1]):
        return array[..., 0] if array.shape[-1] == 1 else array[0]
    return array


def voxel_preview(occupancy: np.ndarray, size: int = 256) -> np.ndarray:
    """RGB, uint8 `[size, size, 3]`: where occupancy `[x, y, z]` is over 0.5, obliquely from above, on white; z is up.

    What is nearer is brighter. The scale depends on the shape of the grid alone, so that pictures of two items compare.
    """
    # the fullest voxel of each block, so that thin walls stay
    step = -(-max(occupancy.shape) // _MOST_VOXELS)
    padded = np.pad(occupancy > 0.5, [(0, -length % step) for length in occupancy.shape])
    x, y, z = (length // step for length in padded.shape)
    solid = np.asarray(padded.reshape(x, step, y, step, z, step).any(axis=(1, 3, 5)))
    half_width, half_depth, half_height = np.abs(_VIEW) @ solid.shape / 2
    reach = max(half_width, half_height) / (1 - 2 * _MARGIN)
    across = ((np.arange(size) + 0.5) / size * 2 - 1) * reach
    plane = across[None, :, None] * _VIEW[0] - across[:, None, None] * _VIEW[2] + np.array(solid.shape) / 2
    depth = np.full((size, size), np.inf)
    # from the farthest plane to the nearest, which covers what is behind it; no wall is thinner than the step
    for away in np.arange(half_depth, -half_depth - 0.5, -0.5):
        place = np.floor(plane + away * _VIEW[1]).astype(int)
        inside = ((place >= 0) & (place < solid.shape)).all(-1)
        inside[inside] = solid[tuple(place[inside].T)]
        depth[inside] = away
    is_seen = np.isfinite(depth)
    shade = 0.65 - 0.35 * np.where(is_seen, depth, 0) / half_depth
    return np.rint(np.where(is_seen[..., None], shade[..., None] * _COLOUR, 255)).astype(np.uint8)
