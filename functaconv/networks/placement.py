"""Points sorted into the cells that read the same sites: dense `[item, cell, point, channel]` arithmetic."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from functaconv.networks.reads import NO_POLES, Poles, Reads
from functaconv.shapes import CellCoords, CellFeatures
from functaconv.transfer import sent


@dataclass(frozen=True)
class Placement:
    """Points sorted into cells. Slots that hold no point repeat point 0 and are not `valid`."""

    coords: CellCoords
    index: Int[Tensor, "cell point"]
    """position of each slot's point in the grid's own order"""
    valid: Float[Tensor, "cell point 1"] | None
    """1 where a slot holds a point, 0 where it is padding; None when nothing is padded"""
    corners: Int[Tensor, "cell corner"] | None
    """the sites a cell reads, or poles; None when cell i reads site i only, for all sites"""
    blend: Float[Tensor, "cell point corner"] | None
    """how much a point takes from each corner; None for the nearest site"""
    sites: int
    first: int = 0
    """number of the first cell, in a piece of a larger placement"""
    is_uniform: bool = False
    """all cells see the same coordinates: one may stand for all where they read the same latents"""
    by_corner: Float[Tensor, "cell corner point coord"] | None = None
    """windows: coordinates as the network sees them from each corner's site"""
    poles: Poles = NO_POLES
    is_window: bool = False
    """each cell is there once for each of the sites that see it: `blended` adds them up"""
    _pieces: dict[int, list["Placement"]] = field(default_factory=dict, repr=False, compare=False)
    _around: list[Reads] = field(default_factory=list, repr=False, compare=False)

    @property
    def covered(self) -> int:
        """How many sites have points of their own: all, unless cells of the nearest site are left out or empty."""
        return self.sites if self.blend is not None else len(self.index)

    @cached_property
    def reads(self) -> Reads | None:
        """The corners as what cells read; None when cell i reads site i only, for all sites."""
        if self.corners is None:
            return None
        is_distinct = self.blend is None and not self.is_window
        return Reads(self.corners, self.sites, is_distinct=is_distinct, poles=self.poles)

    def reads_around(self, neighbourhood: Int[Tensor, "site neighbour"]) -> Reads:
        """What cells read where each site's modulation depends on its neighbours too: always those of one base."""
        if not self._around:
            index = neighbourhood if self.corners is None else neighbourhood[self.corners].flatten(1)
            self._around.append(Reads(index, self.sites))
        return self._around[0]

    def split(self, most: int) -> list["Placement"]:
        """The same points in pieces of at most `most` slots: whole cells where they are smaller than that."""
        if self.index.numel() <= most:
            return [self]
        if most not in self._pieces:
            self._pieces[most] = self._split(most)
        return self._pieces[most]

    def _split(self, most: int) -> list["Placement"]:
        cells, slots = self.index.shape
        height, width = max(1, most // slots), min(slots, most)
        corners = self.corners
        if corners is None and cells > 1:
            corners = torch.arange(cells, device=self.index.device)[:, None]
        return [
            Placement(
                coords=self.coords[rows, columns],
                index=self.index[rows, columns],
                valid=None if self.valid is None else self.valid[rows, columns],
                corners=None if corners is None else corners[rows],
                blend=None if self.blend is None else self.blend[rows, columns],
                sites=self.sites,
                first=self.first + top,
                is_uniform=self.is_uniform,
                poles=self.poles,
                by_corner=None if self.by_corner is None else self.by_corner[rows, :, columns],
            )
            for top in range(0, cells, height)
            for left in range(0, slots, width)
            for rows, columns in [(slice(top, top + height), slice(left, left + width))]
        ]

    def first_cell(self) -> "Placement":
        """One cell by itself, with a site of its own."""
        return Placement(self.coords[:1], self.index[:1], None, None, None, 1)

    @cached_property
    def windows(self) -> "Placement":
        """Each cell once for each of its corners, as if it read that site alone: `[cell * corner, point]`."""
        assert self.by_corner is not None
        assert self.corners is not None
        count = self.corners.shape[1]
        return Placement(
            coords=self.by_corner.flatten(0, 1),
            index=self.index.repeat_interleave(count, 0),
            valid=None if self.valid is None else self.valid.repeat_interleave(count, 0),
            corners=self.corners.reshape(-1, 1),
            blend=None,
            sites=self.sites,
            first=self.first,
            poles=self.poles,
            is_window=True,
        )

    def blended(self, values: Float[Tensor, "item window point channel"]) -> CellFeatures:
        """What the points see through all their `windows`, weighted."""
        assert self.blend is not None
        return torch.einsum(
            "cpk,ickpw->icpw", self.blend, values.reshape(len(values), len(self.index), -1, *values.shape[2:])
        )

    def parted(self, values: CellFeatures) -> Float[Tensor, "item window point channel"]:
        """The adjoint of `blended`."""
        assert self.blend is not None
        return torch.einsum("cpk,icpw->ickpw", self.blend, values).flatten(1, 2)

    def spread(self, values: Float[Tensor, "item site *rest"]) -> Float[Tensor, "item cell _ *rest"]:
        """Values at the sites, as each cell's points read them (one for a whole cell with the nearest site)."""
        if self.corners is None:
            return values.unsqueeze(2)
        values = self.poles.extended(values)
        if self.blend is None:
            return values[:, self.corners[:, 0]].unsqueeze(2)
        return torch.einsum("cpk,ick...->icp...", self.blend, values[:, self.corners])

    def gather(self, values: Float[Tensor, "item cell point channel"]) -> Float[Tensor, "item site channel"]:
        """The adjoint of `spread`: what the points of all cells say about each site, summed."""
        if self.reads is None:
            return values.sum(2)
        if self.blend is None:
            return self.reads.onto_sites(values.sum(2))
        return self.reads.onto_sites(torch.einsum("cpk,icpw->ickw", self.blend, values).flatten(1, 2))

    def to(self, device: torch.device) -> "Placement":
        """The same on a device."""
        tensors: dict[str, Any] = {
            name: sent(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors, _pieces={}, _around=[])

    def scatter(
        self, values: CellFeatures, out: Float[Tensor, "item any channel"]
    ) -> Float[Tensor, "item any channel"]:
        """Put values where they belong in the grid's own order; returns `out`."""
        flat = values.flatten(1, 2)
        index = self.index.flatten()
        if self.valid is not None:
            kept = self.valid.flatten() > 0
            flat, index = flat[:, kept], index[kept]
        out[:, index] = flat
        return out
