"""What the points of a grid see through windows, axis by axis.

A window is a product over the axes, and so are the cosines that a site's numbers weigh: what all points of a row have
in common is computed once. A point of an enlarged picture then takes a few products, in place of all features of each
of the 2**dims sites that it sees.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.networks.cosines import as_grid, axis_cosines, by_axis, counts_of
from functaconv.networks.sites import SiteGrid
from functaconv.shapes import Coords

# sums of all items that are computed together
MOST_SUMS = 1 << 24


def through_windows(
    weights: Float[Tensor, "item site feature channel"],
    frequencies: Float[Tensor, "feature axis"],
    sites: SiteGrid,
    coords: Coords,
) -> Float[Tensor, "item point channel"] | None:
    """Sums of each site's weighted cosines, over the sites that a point sees; None where the points are no grid."""
    grid = as_grid(coords)
    if grid is None:
        return None
    distinct, places = grid
    counts = counts_of(frequencies)
    tables = [_table(sites, axis, *both) for axis, both in enumerate(zip(distinct, counts, strict=True))]
    # of each item, when so many axes have become points
    sizes = [
        math.prod(len(table) for table in tables[:axis]) * math.prod(table[0].numel() for table in tables[axis:])
        for axis in range(len(tables) + 1)
    ]
    together = max(1, MOST_SUMS // (max(sizes) * weights.shape[-1]))
    seen = []
    for part in torch.split(weights, together):
        sums = by_axis(frequencies, counts, part).reshape(len(part), *sites.shape, *counts, -1)
        seen.append(_summed(sums, tables).flatten(2)[..., places])
    return torch.cat(seen).mT


def _table(
    sites: SiteGrid, axis: int, coords: Float[Tensor, " point"], count: int
) -> Float[Tensor, "point site function"]:
    """How much a point along an axis sees of each function of each site."""
    read, share, around = sites.along(axis, coords)
    functions = share[..., None] * axis_cosines(around, torch.arange(count, device=coords.device))
    table = functions.new_zeros(len(coords), sites.shape[axis], count)
    return table.scatter_add(1, read[..., None].expand_as(functions), functions)


def _summed(sums: Tensor, tables: list[Tensor]) -> Tensor:
    """`[item, *site, *function, channel]` to `[item, channel, *point]`, one axis after the other."""
    for axis, table in enumerate(tables):
        sums = torch.tensordot(sums, table, dims=([1, 1 + len(tables) - axis], [1, 2]))
    return sums
