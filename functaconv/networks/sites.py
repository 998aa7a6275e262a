"""Where latents live: a grid of sites, the cells around them, and how a cell reads its sites.

Points that read the same sites form a cell. With the nearest site a cell is the site's own box and reads one
site; with (bi/tri)linear interpolation cells lie between site centres and read 2**dims of them. So they do with
windows, where a point sees each of these sites through coordinates of its own, and what it sees is blended (the local
ensemble of LIIF, Chen et al. 2021). A global latent is the grid with a single site. Sorting the points by cell, once
per grid, turns every layout into dense `[item, cell, point, channel]` arithmetic.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from functaconv.networks.placement import Placement
from functaconv.shapes import Coords, Positions

# of a cell's side: less is rounding
ALIKE = 1e-4

Interpolation = Literal["nearest", "linear", "window"]
Frame = Literal["local", "global", "both"]


@dataclass(frozen=True)
class SiteGrid:
    """A regular grid of sites over the unit interval, square or cube; `shape` is all ones for a global latent."""

    shape: tuple[int, ...]
    interpolation: Interpolation = "nearest"
    frame: Frame = "local"
    """local: coordinates start anew in each cell (with windows: in the two cells around a site); global: they run on,
    in units of a cell's side; both: the place within the cell, and beside it the coordinates as they are"""
    is_closed: bool = False
    """along the last axis the end is a neighbour of the beginning, as around the globe"""

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def place(self, coords: Coords, positions: Positions | None = None) -> Placement:
        """Sort points into cells. Points outside the unit cube belong to the cell at the border next to them.

        `positions` says where they lie among the sites when that is not what the network sees.
        """
        if self.count == 1:
            # one cell holds all: nothing to sort, nothing to wait for on a GPU
            index = torch.arange(len(coords), device=coords.device)[None]
            return Placement(coords[None], index, None, None, None, 1)
        extent = torch.tensor(self.shape, device=coords.device)
        scaled = (coords if positions is None else positions) * extent
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

        network_coords = self._network_coords(coords, scaled, local, positions is not None)
        if self.interpolation == "nearest":
            corners = None if len(names) == self.count else names[:, None]
            coords = network_coords[index]
            uniform = valid is None and bool(((coords - coords[:1]).abs() < ALIKE).all())
            return Placement(coords, index, valid, corners, None, self.count, is_uniform=uniform)
        fraction = local.clamp(0, 1)
        if self.interpolation == "linear":
            corners, blend = self._corners(names, cells_per_axis, fraction)
            return Placement(network_coords[index], index, valid, corners, blend[index], self.count)
        # sin^2 and cos^2 add up to one, and both leave and arrive without a slope
        corners, blend = self._corners(names, cells_per_axis, (fraction * (math.pi / 2)).sin().square())
        offsets = torch.tensor(list(itertools.product((0, 1), repeat=len(self.shape))), device=local.device)
        # from -1 to 1 around a site's centre, brought to the unit interval
        around = (local - offsets[:, None] + 1) / 2
        by_corner = torch.stack([self._network_coords(coords, scaled, own, positions is not None) for own in around])
        return Placement(
            network_coords[index], index, valid, corners, blend[index], self.count,
            by_corner=by_corner[:, index].transpose(0, 1).contiguous(),
        )  # fmt: skip

    def _network_coords(self, coords: Coords, scaled: Positions, local: Positions, has_positions: bool) -> Tensor:
        """Coordinates of each point as the network sees them."""
        if self.frame == "local":
            return local
        if self.frame == "both":
            return torch.cat([local, coords], -1)
        return coords * max(self.shape) if has_positions else scaled

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
