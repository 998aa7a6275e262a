"""Items that were cut into tiles, decoded as one function: where tiles overlap, they are blended."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.decoding import DECODED_TOGETHER
from functaconv.functaset.reader import Functaset

# parts of a tile's side: what neighbours share where there are no sites, and the most that they share
GLOBAL_SHARE, MOST_SHARE = 8, 4


def overlap_of(base: Base, tile: int) -> tuple[int, ...]:
    """How many points neighbouring tiles share along each axis: one site, an eighth of a tile for global latents.

    Empty, for no overlap, with the nearest site, whose cells have borders everywhere.
    """
    sites = base.field.sites
    if sites.count > 1 and sites.interpolation == "nearest":
        return ()
    parts = sites.shape if sites.count > 1 else (GLOBAL_SHARE,) * base.axes.dims
    return tuple(math.ceil(tile / max(MOST_SHARE, count)) for count in parts)


@dataclass(frozen=True, eq=False)
class Joined:
    """An item in tiles."""

    base: Base
    origins: np.ndarray
    """int `[tile, axis]`: the first point of each tile, in row-major order"""
    shapes: np.ndarray
    """int `[tile, axis]`"""
    whole: tuple[int, ...]
    """points of the item along each axis"""
    overlap: tuple[int, ...]
    """points that neighbours share along each axis; empty for none"""
    latents: Callable[[slice], np.ndarray]
    """float32 `[tile, *sites, latent]` of some of the tiles"""

    @classmethod
    def stored(cls, base: Base, functaset: Functaset, first: int, rows: int) -> "Joined":
        """The item of a functaset whose tiles are `rows` rows from `first` on."""
        tiles, axes = functaset.tiles, functaset.shapes.shape[1]
        assert tiles is not None
        row_range = slice(first, first + rows)
        return cls(
            base, tiles[row_range, :axes], functaset.shapes[row_range], tuple(tiles[first, axes:].tolist()),
            functaset.layout.overlap, lambda some: functaset.latents(slice(first + some.start, first + some.stop)),
        )  # fmt: skip

    def kept(self, numbers: int) -> "Joined":
        """The same with only the first so many numbers of each site; the others are 0, the middle of their range."""
        is_kept = np.arange(self.base.latent) < numbers
        return replace(self, latents=lambda some: np.where(is_kept, self.latents(some), np.float32(0)))

    def bands(self, places: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
        """Features at all points of a grid with `places` (ascending, in the unit interval) along each axis: some of
        its rows at a time, `[row, ..., channel]` on the CPU.
        """
        rows = max(1, DECODED_TOGETHER // math.prod(map(len, places[1:])))
        for first in range(0, len(places[0]), rows):
            band = slice(first, first + rows)
            yield band, self._decoded([places[0][band], *places[1:]])

    def _decoded(self, places: Sequence[Tensor]) -> Tensor:
        out, total = torch.zeros(*map(len, places), self.base.axes.channels), torch.zeros(*map(len, places), 1)
        for tiles, near, boxes in self._alike(places):
            coords = torch.stack(torch.meshgrid(*near, indexing="ij"), -1).reshape(-1, len(near))
            # tiles follow each other in a functaset
            latents = torch.from_numpy(self.latents(slice(tiles[0], tiles[-1] + 1)))[np.array(tiles) - tiles[0]]
            latents = latents.reshape(len(tiles), -1, self.base.latent).to(self.base.device)
            decoded = self.base.decode(latents, coords).cpu().reshape(len(tiles), *map(len, near), -1)
            for features, box in zip(decoded, boxes, strict=True):
                weight = torch.ones(1)
                for axis, one in enumerate(box):
                    weight = weight * one.weight.reshape(-1, *(1,) * (len(box) - axis))
                points = tuple(one.points for one in box)
                out[points] += features * weight
                total[points] += weight
        return out / total

    def _alike(self, places: Sequence[Tensor]) -> Iterator[tuple[list[int], list[Tensor], list[tuple["_Seen", ...]]]]:
        """Tiles that see the same points of their own, which are decoded together: their numbers, the points along
        each axis, and what each sees along them.
        """
        known: dict[tuple[int, int, int], _Seen] = {}
        alike: dict[tuple[bytes, ...], dict[int, tuple[_Seen, ...]]] = {}
        for tile, (origin, shape) in enumerate(zip(self.origins.tolist(), self.shapes.tolist(), strict=True)):
            spans = [(axis, start, start + size) for axis, (start, size) in enumerate(zip(origin, shape, strict=True))]
            for span in spans:
                if span not in known:
                    known[span] = self._seen(places[span[0]], *span)
            box = tuple(known[span] for span in spans)
            if all(len(one.near) for one in box):
                alike.setdefault(tuple(one.name for one in box), {})[tile] = box
        for boxes in alike.values():
            boxes_alike = list(boxes.values())
            yield list(boxes), [one.near for one in boxes_alike[0]], boxes_alike

    def _seen(self, places: Tensor, axis: int, start: int, stop: int) -> "_Seen":
        """What a tile from `start` to `stop` sees of the places along an axis."""
        whole, overlap = self.whole[axis], self.overlap[axis] if self.overlap else 0
        at = places.double() * whole
        # the outermost tiles reach beyond the border: there one extrapolates
        first = 0 if start == 0 else int(torch.searchsorted(at, start))
        last = len(at) if stop >= whole else int(torch.searchsorted(at, stop))
        at = at[first:last]
        weight = torch.ones_like(at)
        if overlap and start > 0:
            weight *= _risen((at - start) / overlap)
        if overlap and stop < whole:
            weight *= _risen((stop - at) / overlap)
        near = ((at - start) / (stop - start)).float()
        return _Seen(slice(first, last), near, weight.float(), near.numpy().tobytes())


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a tile sees along an axis."""

    points: slice
    """which places"""
    near: Tensor
    """where they lie in the tile's own unit interval"""
    weight: Tensor
    """how much they take from it"""
    name: bytes
    """equal for equal `near`"""


def _risen(share: Tensor) -> Tensor:
    """From 0 to 1 as `share` does, without a slope at either end."""
    return (share.clamp(0, 1) * (math.pi / 2)).sin().square()
