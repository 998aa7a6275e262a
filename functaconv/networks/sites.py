"""Where latents live: a grid of sites, the cells around them, and how a cell reads its sites.

Points that read the same sites form a cell. With the nearest site a cell is the site's own box and reads one
site; with (bi/tri)linear interpolation cells lie between site centres and read 2**dims of them. So they do with
windows, where a point sees each of these sites through coordinates of its own, and what it sees is blended (the local
ensemble of LIIF, Chen et al. 2021). Between a pole and the row of sites around it cells read the pole in place of a
site: the mean of that row, seen from one place, so that what is blended has one value at the pole. A global latent is
the grid with a single site. Sorting the points by cell, once per grid, turns every layout into dense `[item, cell,
point, channel]` arithmetic.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from functaconv.networks.cosines import ravelled
from functaconv.networks.placement import Placement
from functaconv.networks.reads import Poles
from functaconv.shapes import Coords, Positions

# of a cell's side: less is rounding
ALIKE = 1e-4
# where along a row of sites a pole is seen from
SEEN_FROM = 0.5

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
    reaches_poles: tuple[bool, bool] = (False, False)
    """at the beginning, and at the end, of the first axis all of the last one is a single place; seen with
    interpolation or windows only"""

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def poles(self) -> Poles:
        return Poles(self.shape, self.reaches_poles)

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
            scaled = _wrapped(scaled, extent)
        if self.interpolation == "nearest":
            low = torch.minimum(scaled.floor().long().clamp(min=0), extent - 1)
            cells, cell_of_axis, local = self.shape, low, scaled - low
        else:
            low, local = _between(scaled, extent)
            cells, cell_of_axis = tuple(count + 1 for count in self.shape), low + 1
        cell = ravelled(cell_of_axis.unbind(-1), cells)
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
        fraction = _window(local) if self.interpolation == "window" else local.clamp(0, 1)
        # from -1 to 1 around the centre of each corner's site, brought to the unit interval
        around = (local - self._offsets(local.device)[:, None] + 1) / 2
        for pole in (0, 1):
            if self.reaches_poles[pole]:
                is_beside = self._meet(pole, low[:, 0], local[:, 0], fraction[:, 0])
                corners = self._offsets(low.device)[:, 0] == pole
                # all see the pole from one place
                around[corners.nonzero(), is_beside.nonzero()[:, 0], 1:] = SEEN_FROM
        corners, blend = self._corners(names, fraction)
        placement = Placement(
            network_coords[index], index, valid, corners, blend[index], self.count, poles=self.poles
        )  # fmt: skip
        if self.interpolation == "linear":
            return placement
        by_corner = torch.stack([self._network_coords(coords, scaled, own, positions is not None) for own in around])
        return replace(placement, by_corner=by_corner[:, index].transpose(0, 1).contiguous())

    def along(
        self, axis: int, coords: Float[Tensor, " point"]
    ) -> tuple[Int[Tensor, "point 2"], Float[Tensor, "point 2"], Float[Tensor, "point 2"]]:
        """Windows along one axis: the two sites that each point sees, how much it takes of each, and where it lies in
        the cells around each, in 0..1. Along the first axis poles follow the sites.
        """
        extent = torch.tensor(self.shape[axis], device=coords.device)
        is_closed = self.is_closed and axis == len(self.shape) - 1
        scaled = coords * extent
        low, local = _between(scaled % extent if is_closed else scaled, extent)
        step, share = torch.arange(2, device=coords.device), _window(local)
        beyond = low[:, None] + step
        sites = beyond % extent if is_closed else torch.minimum(beyond.clamp(min=0), extent - 1)
        if axis == 0:
            for pole in (0, 1):
                if self.reaches_poles[pole]:
                    self._meet(pole, low, local, share)
            sites = self._or_poles(beyond, sites, self.shape[0])
        return sites, torch.stack([1 - share, share], 1), (local[:, None] - step + 1) / 2

    def _offsets(self, device: torch.device) -> Int[Tensor, "corner axis"]:
        """Which of the two sites along each axis each corner of a cell is."""
        return torch.tensor(list(itertools.product((0, 1), repeat=len(self.shape))), device=device)

    def _meet(
        self,
        pole: int,
        low: Int[Tensor, " point"],
        local: Float[Tensor, " point"],
        share: Float[Tensor, " point"],
    ) -> Bool[Tensor, " point"]:
        """What points between a pole and the sites around it take from either, in place, and which points these are.
        All is along the first axis.
        """
        is_beside = low == (-1 if pole == 0 else self.shape[0] - 1)
        # from 0 at the pole to 1 at the sites
        distance = (local[is_beside] * 2 - 1 if pole == 0 else 1 - local[is_beside] * 2).clamp(0, 1)
        # it leaves the pole with a slope: so does a smooth field along a meridian, one way down and the other up
        own = (distance * (math.pi / 2)).sin() if self.interpolation == "window" else distance
        share[is_beside] = own if pole == 0 else 1 - own
        return is_beside

    def _or_poles(self, row: Tensor, number: Tensor, count: int) -> Tensor:
        """Numbers of sites in so many rows of the first axis, or of the poles, which follow the `count` sites."""
        if self.reaches_poles[0]:
            number = torch.where(row < 0, count, number)
        if self.reaches_poles[1]:
            number = torch.where(row == self.shape[0], count + self.poles.count - 1, number)
        return number

    def _network_coords(self, coords: Coords, scaled: Positions, local: Positions, has_positions: bool) -> Tensor:
        """Coordinates of each point as the network sees them."""
        if self.frame == "local":
            return local
        if self.frame == "both":
            return torch.cat([local, coords], -1)
        return coords * max(self.shape) if has_positions else scaled

    def _corners(
        self, cells: Int[Tensor, " cell"], fraction: Coords
    ) -> tuple[Int[Tensor, "cell corner"], Float[Tensor, "point corner"]]:
        extent = torch.tensor(self.shape, device=cells.device)
        low = _unravelled(cells, [count + 1 for count in self.shape]) - 1
        corners, weights = [], []
        for step in self._offsets(cells.device):
            # beyond the outermost site centres the nearest site holds
            site = low + step
            if self.is_closed:
                site = _wrapped(site, extent)
            inside = torch.minimum(site.clamp(min=0), extent - 1)
            corners.append(self._or_poles(site[:, 0], ravelled(inside.unbind(-1), self.shape), self.count))
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
        columns.append(torch.where(inside, ravelled(moved.unbind(-1), shape), len(sites)))
    return torch.stack(columns, -1)


def _between(scaled: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """The site at or before each point along each axis, and how far it is from there to the point, in sites."""
    centred = scaled - 0.5
    # cells begin half a side before the first site's centre; around the globe that one is the last one too
    low = torch.minimum(centred.floor().long().clamp(min=-1), extent - 1)
    return low, centred - low


def _window(local: Tensor) -> Tensor:
    """What a point takes of the site after it: sin^2 and cos^2 add up to one, and leave and arrive without a slope."""
    return (local.clamp(0, 1) * (math.pi / 2)).sin().square()


def _unravelled(number: Int[Tensor, " n"], counts: Sequence[int]) -> Int[Tensor, "n axis"]:
    """The inverse of `ravelled`, without the tensor of counts that torch's own would send to the device."""
    columns = []
    for count in reversed(counts):
        columns.append(number % count)
        number = number // count
    return torch.stack(columns[::-1], -1)


def _wrapped(places: Tensor, extent: Int[Tensor, " axis"]) -> Tensor:
    """Places along the axes, on the last one around the globe."""
    return torch.cat([places[:, :-1], places[:, -1:] % extent[-1]], -1)
