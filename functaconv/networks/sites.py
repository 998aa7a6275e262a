"""Where latents live: a grid of sites, the cells around them, and how a cell reads its sites.

Points that read the same sites form a cell. With the nearest site a cell is the site's own box and reads one
site; with (bi/tri)linear interpolation cells lie between site centres and read 2**dims of them. So they do with
windows, where a point sees each of these sites through coordinates of its own, and what it sees is blended (the local
ensemble of LIIF, Chen et al. 2021). A global latent is the grid with a single site. Sorting the points by cell, once
per grid, turns every layout into dense `[item, cell, point, channel]` arithmetic.
"""

import itertools
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from functaconv.networks.reads import Reads
from functaconv.shapes import CellCoords, CellFeatures, Coords, Places
from functaconv.transfer import sent

ALIKE = 1e-4
"""of a cell's side: less is rounding"""

Interpolation = Literal["nearest", "linear", "window"]
Frame = Literal["local", "global", "both"]


@dataclass(frozen=True)
class Placement:
    """Points sorted into cells. Slots that hold no point repeat point 0 and are not `valid`."""

    coords: CellCoords
    index: Int[Tensor, "cell point"]
    """position of each slot's point in the grid's own order"""
    valid: Float[Tensor, "cell point 1"] | None
    """1 where a slot holds a point, 0 where it is padding; None when nothing is padded"""
    corners: Int[Tensor, "cell corner"] | None
    """the sites a cell reads; None when cell i reads site i only, for all sites"""
    blend: Float[Tensor, "cell point corner"] | None
    """how much a point takes from each corner; None for the nearest site"""
    sites: int
    first: int = 0
    """number of the first cell, in a piece of a larger placement"""
    is_uniform: bool = False
    """all cells see the same coordinates: one may stand for all where they read the same latents"""
    by_corner: Float[Tensor, "cell corner point coord"] | None = None
    """windows: coordinates as the network sees them from each corner's site"""
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
        return Reads(self.corners, self.sites, is_distinct=self.blend is None and not self.is_window)

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


@dataclass(frozen=True)
class SiteGrid:
    """A regular grid of sites over the unit interval, square or cube; `shape` is all ones for a global latent."""

    shape: tuple[int, ...]
    interpolation: Interpolation = "nearest"
    frame: Frame = "local"
    """local: coordinates start anew in each cell (with windows: in the two cells around a site); global: they run on,
    in units of a cell's side; both: the place within the cell, and beside it the coordinates as they are"""
    is_closed: bool = False
    """along the last axis the end is a neighbour of the beginning, as longitudes are around the globe"""

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def place(self, coords: Coords, places: Places | None = None) -> Placement:
        """Sort points into cells. Points outside the unit cube belong to the cell at the border next to them.

        `places` says where they lie among the sites when that is not what the network sees.
        """
        if self.count == 1:
            # one cell holds all: nothing to sort, nothing to wait for on a GPU
            index = torch.arange(len(coords), device=coords.device)[None]
            return Placement(coords[None], index, None, None, None, 1)
        extent = torch.tensor(self.shape, device=coords.device)
        scaled = (coords if places is None else places) * extent
        if self.is_closed:
            scaled = torch.cat([scaled[:, :-1], scaled[:, -1:] % extent[-1]], -1)
        if self.interpolation == "nearest":
            low = torch.minimum(scaled.floor().long().clamp(min=0), extent - 1)
            cells_per_axis, local = extent, scaled - low
            cell_of_axis = low
        else:
            centred = scaled - 0.5
            # cells begin half a side before the first site's centre; around the globe that one is the last one too
            low = torch.minimum(centred.floor().long().clamp(min=-1), extent - 1)
            cells_per_axis, local = extent + 1, centred - low
            cell_of_axis = low + 1
        cell = _ravel(cell_of_axis, cells_per_axis)
        names, cell, counts = torch.unique(cell, return_inverse=True, return_counts=True)

        order = torch.argsort(cell, stable=True)
        starts = counts.cumsum(0) - counts
        slot = torch.arange(len(order), device=coords.device) - starts[cell[order]]
        most = int(counts.max())
        index = torch.zeros(len(names), most, dtype=torch.long, device=coords.device)
        index[cell[order], slot] = order
        valid = None
        if bool((counts != most).any()):
            valid = (torch.arange(most, device=coords.device) < counts[:, None]).to(coords.dtype)[..., None]

        seen = self._seen(coords, scaled, local, is_apart=places is not None)
        if self.interpolation == "nearest":
            corners = None if len(names) == self.count else names[:, None]
            coords = seen[index]
            uniform = valid is None and bool(((coords - coords[:1]).abs() < ALIKE).all())
            return Placement(coords, index, valid, corners, None, self.count, is_uniform=uniform)
        fraction = local.clamp(0, 1)
        if self.interpolation == "linear":
            corners, blend = self._corners(names, cells_per_axis, fraction)
            return Placement(seen[index], index, valid, corners, blend[index], self.count)
        # sin^2 and cos^2 add up to one, and both leave and arrive without a slope
        corners, blend = self._corners(names, cells_per_axis, (fraction * (math.pi / 2)).sin().square())
        offsets = torch.tensor(list(itertools.product((0, 1), repeat=len(self.shape))), device=local.device)
        # from -1 to 1 around a site's centre, brought to the unit interval
        around = (local - offsets[:, None] + 1) / 2
        by_corner = torch.stack([self._seen(coords, scaled, own, is_apart=places is not None) for own in around])
        return Placement(
            seen[index], index, valid, corners, blend[index], self.count,
            by_corner=by_corner[:, index].transpose(0, 1).contiguous(),
        )  # fmt: skip

    def _seen(self, coords: Coords, scaled: Places, local: Places, *, is_apart: bool) -> Tensor:
        """What the network is given of each point."""
        if self.frame == "local":
            return local
        if self.frame == "both":
            return torch.cat([local, coords], -1)
        return coords * max(self.shape) if is_apart else scaled

    def _corners(
        self, cells: Int[Tensor, " cell"], cells_per_axis: Int[Tensor, " axis"], fraction: Coords
    ) -> tuple[Int[Tensor, "cell corner"], Float[Tensor, "point corner"]]:
        extent = torch.tensor(self.shape, device=cells.device)
        low = _unravel(cells, cells_per_axis) - 1
        corners, weights = [], []
        for offset in itertools.product((0, 1), repeat=len(self.shape)):
            step = torch.tensor(offset, device=cells.device)
            # beyond the outermost site centres the nearest site holds
            site = low + step
            if self.is_closed:
                site = torch.cat([site[:, :-1], site[:, -1:] % extent[-1]], -1)
            site = torch.minimum(site.clamp(min=0), extent - 1)
            corners.append(_ravel(site, extent))
            weights.append(torch.where(step.bool(), fraction, 1 - fraction).prod(-1))
        return torch.stack(corners, -1), torch.stack(weights, -1)


def neighbours(shape: tuple[int, ...], reach: int, *, is_closed: bool = False) -> Int[Tensor, "site neighbour"]:
    """Index of each site's neighbours within `reach` along every axis; the number of sites stands for "none".

    Where the last axis is closed, its end is a neighbour of its beginning.
    """
    extent = torch.tensor(shape)
    sites = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1).reshape(-1, len(shape))
    columns = []
    for offset in itertools.product(range(-reach, reach + 1), repeat=len(shape)):
        moved = sites + torch.tensor(offset)
        if is_closed:
            moved[:, -1] %= extent[-1]
        inside = ((moved >= 0) & (moved < extent)).all(-1)
        columns.append(torch.where(inside, _ravel(moved, extent), len(sites)))
    return torch.stack(columns, -1)


def _ravel(position: Int[Tensor, "n axis"], extent: Int[Tensor, " axis"]) -> Int[Tensor, " n"]:
    index = torch.zeros_like(position[:, 0])
    for axis in range(position.shape[1]):
        index = index * extent[axis] + position[:, axis]
    return index


def _unravel(index: Int[Tensor, " n"], extent: Int[Tensor, " axis"]) -> Int[Tensor, "n axis"]:
    columns = []
    for axis in reversed(range(len(extent))):
        columns.append(index % extent[axis])
        index = index // extent[axis]
    return torch.stack(columns[::-1], -1)
