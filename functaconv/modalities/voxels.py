"""Voxels: volumes of occupancy between 0 and 1."""

from collections.abc import Sequence

import numpy as np

from functaconv.data.items import Item
from functaconv.errors import ItemError, UsageError
from functaconv.modalities.array import MOST_CHANNELS
from functaconv.modalities.modality import Axes, ChannelAxis, Modality


class Voxels(Modality):
    """Volumes that hold nothing but 0 and 1 are voxels, unless all of the first ones are empty."""

    name = "voxels"
    plural = "voxels"
    one = "voxels"

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
