"""From rows of a functaset to arrays, batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.checkpoint import base_of
from functaconv.decoding import DECODED_TOGETHER
from functaconv.errors import UsageError
from functaconv.functaset.reader import Functaset
from functaconv.joining import Joined
from functaconv.modalities import MODALITIES
from functaconv.signals.device import device_of
from functaconv.signals.grid import MOST_VALUES, SMALLER, AnyGrid, Grid, View
from functaconv.summary import Items

BATCH_VALUES = 1 << 24
"""of the items rendered together: 64 MiB"""
MOST_TOGETHER = 256


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded item."""

    key: str
    array: np.ndarray
    """float32 `[*grid, channel]`"""
    grid: AnyGrid
    row: int
    """of the functaset; the first one of an item in tiles"""


def arrays(
    functaset: Functaset,
    chosen: Sequence[int] | None = None,
    *,
    view: View | None = None,
    device: str = "auto",
) -> Iterator[tuple[str, np.ndarray]]:
    """Key and float32 array (channels last) of items, in order, decoded in batches.

    Values are fractions of a code range where there is one, others in their own units. What a grid's own mask leaves
    out is NaN.
    """
    for picture in pictures(functaset, chosen, view=view, device=device):
        yield picture.key, picture.array


def pictures(
    functaset: Functaset,
    chosen: Sequence[int] | None = None,
    *,
    view: View | None = None,
    device: str = "auto",
    index: Items | None = None,
    features: bool = False,
    masked: bool = True,
) -> Iterator[Picture]:
    """Items, in order, decoded in batches: `features` (scaled to 0..1 by the training range) or values as of `arrays`;
    grids with their masks unless they are not to be `masked`.
    """
    view = view or View()
    index = index or Items.of(functaset.keys, functaset.shapes, functaset.tiles, functaset.views)
    base = base_of(functaset, device_of(device))
    numbers = range(len(index)) if chosen is None else chosen
    kind = functaset.layout.kind
    places = _Places(functaset, index, view, base.axes.channels)
    for group in _alike(index, numbers, places, base.axes.channels):
        grid = places.grid(group[0])
        rows = index.first[group]
        if index.rows[group[0]] > 1:
            assert isinstance(grid, Grid)
            decoded = _joined(base, functaset, index, group[0], grid)[None]
        else:
            latents = torch.from_numpy(functaset.latents(rows)).reshape(len(rows), -1, base.latent)
            decoded = _decoded(base, latents, grid)
        levels = (
            tuple(base.axes.modality.level(functaset.meta(int(row)) or {}) for row in rows)
            if base.normalizer.levels
            else ()
        )
        if not features:
            _to_values(base, decoded, levels)
        for number, row, array in zip(group, rows, decoded.numpy(), strict=True):
            array = array.reshape(*grid.shape, base.axes.channels)
            if masked and kind.has_coordinates and (missing := functaset.grid_of(int(row))[1]) is not None:
                kind.blank(array, grid, functaset.native_grid(int(row)), missing)
            yield Picture(str(index.keys[number]), array, grid, int(row))


class _Places:
    """Where the points of items are to be, each grid worked out once."""

    def __init__(self, functaset: Functaset, index: Items, view: View, channels: int) -> None:
        self._functaset, self._index, self._view, self._channels = functaset, index, view, channels
        self._known: dict[int, AnyGrid] = {}

    def kind(self, number: int) -> tuple[int, ...]:
        """Equal for items whose points lie at the same places."""
        shape = tuple(self._index.shape[number].tolist())
        if not self._functaset.layout.kind.has_coordinates:
            return shape
        return (*shape, int(self._functaset.measure("grid")[self._index.first[number]]))

    def grid(self, number: int) -> AnyGrid:
        if not self._functaset.layout.kind.has_coordinates:
            if self._view.like is not None:
                names = " and ".join(kind.in_full for kind in MODALITIES.values() if kind.has_coordinates)
                raise UsageError(f"--like is for {names}", hint="--size or --scale")
            return self._possible(Grid(tuple(self._index.shape[number].tolist())).resampled(self._view))
        row = int(self._index.first[number])
        which = int(self._functaset.measure("grid")[row])
        if which not in self._known:
            self._known[which] = self._possible(self._functaset.native_grid(row).resampled(self._view))
        return self._known[which]

    def _possible(self, grid: AnyGrid) -> AnyGrid:
        if grid.points * self._channels > MOST_VALUES:
            raise UsageError(
                f"{'x'.join(map(str, grid.shape))} points of {self._channels} channels are too much for one item: "
                f"{grid.points * self._channels} numbers, at most {MOST_VALUES} are possible",
                hint=SMALLER,
            )
        return grid


def _alike(index: Items, numbers: Sequence[int], places: _Places, channels: int) -> Iterator[list[int]]:
    """Neighbours whose points lie alike together, as many as memory bears; an item in tiles stays alone."""
    for (_, is_tiled), run in groupby(numbers, lambda number: (places.kind(number), bool(index.rows[number] > 1))):
        alike = list(run)
        fitting = 1 if is_tiled else BATCH_VALUES // (places.grid(alike[0]).points * channels)
        together = max(1, min(MOST_TOGETHER, fitting))
        yield from (alike[at : at + together] for at in range(0, len(alike), together))


def _decoded(base: Base, latents: Tensor, grid: AnyGrid) -> Tensor:
    """The features of items on a grid, on the CPU: some rows of it at a time, as the places of all its points take more
    room than their values.
    """
    latents, row = latents.to(base.device), grid.points // grid.shape[0]
    out = torch.empty(len(latents), grid.points, base.axes.channels)
    together = max(1, DECODED_TOGETHER // row)
    for first in range(0, grid.shape[0], together):
        rows = slice(first, first + together)
        points = base.geometry.points(grid, (rows,))
        out[:, first * row : first * row + len(points)] = base.decode(latents, points).cpu()
    return out


def _to_values(base: Base, decoded: Tensor, levels: tuple[str | None, ...]) -> None:
    """Raw units in place of features."""
    for start in range(0, decoded.shape[1], DECODED_TOGETHER):
        part = decoded[:, start : start + DECODED_TOGETHER]
        part.copy_(base.normalizer.values(part, levels))


def _joined(base: Base, functaset: Functaset, index: Items, number: int, grid: Grid) -> Tensor:
    """An item in tiles, decoded on one grid."""
    out = torch.empty(*grid.shape, base.axes.channels)
    joined = Joined.stored(base, functaset, int(index.first[number]), int(index.rows[number]))
    for rows, features in joined.bands([grid.axis(axis) for axis in range(len(grid.shape))]):
        out[rows] = features
    return out.reshape(-1, base.axes.channels)
