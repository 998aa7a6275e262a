"""What the points of a grid see through windows, axis by axis.

A window is a product over the axes, and so are the cosines that a site's numbers weigh: what all points of a row have
in common is computed once. A point of an enlarged picture then takes a few products, in place of all features of each
of the 2**dims sites that it sees.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.networks.cosines import PointGrid, axis_cosines, by_axis, counts_of
from functaconv.networks.sites import SEEN_FROM, SiteGrid
from functaconv.shapes import Features

# numbers that are held at a time
MOST_SUMS = 1 << 24


def through_windows(
    weights: Float[Tensor, "item site feature channel"],
    frequencies: Float[Tensor, "feature axis"],
    sites: SiteGrid,
    grid: PointGrid,
) -> Features | None:
    """Sums of each site's weighted cosines, over the sites that a point sees; None where what points see along an axis
    is too much to be held.
    """
    counts = counts_of(frequencies)
    if max(map(math.prod, zip(map(len, grid.axes), sites.shape, counts, strict=True))) > MOST_SUMS:
        return None
    tables = [_table(sites, axis, along, counts[axis]) for axis, along in enumerate(grid.axes)]
    # numbers of an item once so many axes are points
    sizes = [
        math.prod(len(table) for table in tables[:axis]) * math.prod(table[0].numel() for table in tables[axis:])
        for axis in range(len(tables) + 1)
    ]
    together = max(1, MOST_SUMS // (max(sizes) * weights.shape[-1]))
    seen = []
    for part in torch.split(weights, together):
        sums = by_axis(frequencies, counts, part).reshape(len(part), *sites.shape, *counts, -1)
        seen.append(_summed(_with_poles(sums, sites), tables).flatten(2)[..., grid.places])
    return torch.cat(seen).mT


def _table(
    sites: SiteGrid, axis: int, coords: Float[Tensor, " point"], count: int
) -> Float[Tensor, "point site function"]:
    """How much a point along an axis sees of each function of each site."""
    read, share, around = sites.along(axis, coords)
    functions = share[..., None] * axis_cosines(around, torch.arange(count, device=coords.device))
    rows = sites.shape[axis] + (sites.poles.count if axis == 0 else 0)
    table = functions.new_zeros(len(coords), rows, count)
    return table.scatter_add(1, read[..., None].expand_as(functions), functions)


def _with_poles(sums: Tensor, sites: SiteGrid) -> Tensor:
    """`[item, row, column, function, function, channel]` with a row for every pole after those of the sites: the mean
    of the row around it, as seen from one place wherever a point lies along it.
    """
    if not (count := sites.poles.count):
        return sums
    polar = sites.poles.extended(sums.flatten(1, 2))[:, -count:]
    seen = axis_cosines(sums.new_full((), SEEN_FROM), torch.arange(sums.shape[4], device=sums.device))
    rows = sums.new_zeros(len(sums), count, *sums.shape[2:])
    # the first function is one everywhere
    rows[..., 0, :] = torch.einsum("ipfgk,g->ipfk", polar, seen)[:, :, None]
    return torch.cat([sums, rows], 1)


def _summed(sums: Tensor, tables: list[Tensor]) -> Tensor:
    """`[item, *site, *function, channel]` to `[item, channel, *point]`, one axis after the other."""
    for axis, table in enumerate(tables):
        sums = torch.tensordot(sums, table, dims=([1, 1 + len(tables) - axis], [1, 2]))
    return sums
