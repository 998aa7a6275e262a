"""Products of cosines along the axes of a grid, and sums of them, computed axis by axis where that is less work."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

# how many times as many points as there are may be computed to have a whole grid
MOST_BESIDE = 4
# how many times as many products of the functions along the axes as there are features are computed, not picked
MOST_PRODUCTS = 4


def lowest(count: int, axes: int) -> Float[Tensor, "feature axis"]:
    """The `count` products of the fewest half-waves, as numbers of `axis_cosines`."""
    side = math.ceil(2 * count ** (1 / axes)) + 1
    every = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float32)] * axes).reshape(-1, axes)
    return every[every.square().sum(1).argsort(stable=True)[:count]]


def weighed(
    coords: Float[Tensor, "*point axis"],
    frequencies: Float[Tensor, "feature axis"],
    weights: Float[Tensor, "feature column"],
    *,
    is_closed: bool = False,
) -> Float[Tensor, "*point column"]:
    """`cosines(coords, frequencies) @ weights`; where the points form a grid, or nearly so, axis by axis."""
    axes = coords.shape[-1]
    distinct, places = zip(*(torch.unique(coords[..., axis], return_inverse=True) for axis in range(axes)), strict=True)
    if math.prod(map(len, distinct)) > MOST_BESIDE * coords[..., 0].numel():
        return cosines(coords, frequencies, is_closed=is_closed) @ weights
    counts = [int(most) + 1 for most in frequencies.amax(0).tolist()]
    sums = weights.new_zeros(math.prod(counts), weights.shape[1])
    sums = sums.index_add(0, _ravelled(frequencies.long().unbind(1), counts), weights).reshape(*counts, -1)
    for axis, (values, count) in enumerate(zip(distinct, counts, strict=True)):
        which = torch.arange(count, device=values.device)
        table = axis_cosines(values, which, is_closed=is_closed and axis == axes - 1)
        sums = torch.tensordot(table, sums, dims=([1], [axis])).movedim(0, axis)
    return sums.flatten(0, axes - 1)[_ravelled(places, [len(values) for values in distinct])]


def _ravelled(places: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    index = torch.zeros_like(places[0])
    for place, count in zip(places, counts, strict=True):
        index = index * count + place
    return index


def cosines(
    coords: Float[Tensor, "*point axis"], frequencies: Float[Tensor, "feature axis"], *, is_closed: bool = False
) -> Float[Tensor, "*point feature"]:
    """Products over the axes of `axis_cosines`, one for each row of `frequencies`."""
    last = coords.shape[-1] - 1
    tables, places = [], []
    for axis in range(last + 1):
        # each function is computed once, however many features it is part of
        distinct, place = torch.unique(frequencies[:, axis].long(), return_inverse=True)
        tables.append(axis_cosines(coords[..., axis], distinct, is_closed=is_closed and axis == last))
        places.append(place)
    counts = [table.shape[-1] for table in tables]
    if math.prod(counts) > MOST_PRODUCTS * len(frequencies):
        return reduce(torch.mul, [table[..., place] for table, place in zip(tables, places, strict=True)])
    # nearly all products are wanted: to compute them all is less work than to pick factors
    products = tables[0]
    for table in tables[1:]:
        products = (products[..., None] * table[..., None, :]).flatten(-2)
    return products[..., _ravelled(places, counts)]


def axis_cosines(
    coords: Float[Tensor, "*point"], which: Tensor, *, is_closed: bool = False
) -> Float[Tensor, "*point feature"]:
    """Functions along one axis, of mean square one over the unit interval.

    Number k is `cos(pi k v)`: k half-waves. On a closed axis numbers 2m - 1 and 2m are cosine and sine of m turns.
    """
    which = which.to(coords)
    if is_closed:
        turns = ((which + 1) / 2).floor()
        phase = torch.where((which > 0) & (which % 2 == 0), math.pi / 2, 0.0)
        angle = 2 * math.pi * coords[..., None] * turns - phase
    else:
        angle = math.pi * coords[..., None] * which
    return angle.cos() * torch.where(which > 0, math.sqrt(2), 1.0)
