"""Products of cosines along the axes of a grid, and sums of them, computed axis by axis where that is less work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# how many times as many points as there are may be computed to have a whole grid
MOST_BESIDE = 4
# how many times as many products of the functions along the axes as there are features are computed, not picked
MOST_PRODUCTS = 4


@dataclass(frozen=True)
class Closure:
    """How a domain meets itself."""

    is_closed: bool = False
    """along the last axis, whose end is its beginning"""
    reaches_poles: tuple[bool, bool] = (False, False)
    """where the first axis begins, and where it ends, all of the last one is a single place"""

    def along(self, axis: int, axes: int) -> "Closure":
        """Of one axis of so many."""
        poles = self.reaches_poles if axis == 0 < axes - 1 else (False, False)
        return Closure(self.is_closed and axis == axes - 1, poles)

    def allows(self, frequencies: Float[Tensor, "feature axis"]) -> Bool[Tensor, " feature"]:
        """Which products of `axis_cosines` have one value at each pole: those that do not change along the last axis,
        and those that vanish there.
        """
        if not any(self.reaches_poles):
            return torch.ones(len(frequencies), dtype=torch.bool, device=frequencies.device)
        return (frequencies[:, 0] % 2 > 0) == (frequencies[:, -1] > 0)

    def half_waves(self, frequencies: Float[Tensor, "feature axis"]) -> Float[Tensor, "feature axis"]:
        """Of products of `axis_cosines`, or nearly so: an axis that reaches poles has two numbers for each."""
        share = [0.5 if any(self.along(axis, frequencies.shape[1]).reaches_poles) else 1.0
                 for axis in range(frequencies.shape[1])]  # fmt: skip
        return frequencies * torch.tensor(share, device=frequencies.device)


OPEN = Closure()


def waves(
    coords: Float[Tensor, "*point coord"],
    frequencies: Float[Tensor, "feature coord"],
    phases: Float[Tensor, " feature"],
) -> Float[Tensor, "*point feature"]:
    """Learned Fourier features in any direction (Rahimi and Recht 2007), of mean square one."""
    return math.sqrt(2) * torch.cos(coords @ (2 * math.pi * frequencies).mT + phases)


def lowest(count: int, axes: int, closure: Closure = OPEN) -> Float[Tensor, "feature axis"]:
    """The `count` products of the fewest half-waves, as numbers of `axis_cosines`."""
    side = math.ceil(2 * count ** (1 / axes)) + 1
    if any(closure.reaches_poles):
        # half of all products are used
        side *= 2
    every = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float32)] * axes).reshape(-1, axes)
    every = every[closure.allows(every)]
    return every[closure.half_waves(every).square().sum(1).argsort(stable=True)[:count]]


def weighed(
    coords: Float[Tensor, "*point axis"],
    frequencies: Float[Tensor, "feature axis"],
    weights: Float[Tensor, "feature column"],
    closure: Closure = OPEN,
) -> Float[Tensor, "*point column"]:
    """`cosines(coords, frequencies) @ weights`; where the points form a grid, or nearly so, axis by axis."""
    grid = PointGrid.of(coords)
    if grid is None:
        return cosines(coords, frequencies, closure) @ weights
    return weighed_on_grid(grid, frequencies, weights, closure)


def weighed_on_grid(
    grid: "PointGrid",
    frequencies: Float[Tensor, "feature axis"],
    weights: Float[Tensor, "feature column"],
    closure: Closure = OPEN,
) -> Float[Tensor, "*point column"]:
    """The same, of points that are known to form a grid."""
    counts, axes = counts_of(frequencies), len(grid.axes)
    sums = by_axis(frequencies, counts, weights).reshape(*counts, -1)
    for axis, (values, count) in enumerate(zip(grid.axes, counts, strict=True)):
        which = torch.arange(count, device=values.device)
        table = axis_cosines(values, which, closure.along(axis, axes))
        sums = torch.tensordot(table, sums, dims=([1], [axis])).movedim(0, axis)
    return sums.flatten(0, axes - 1)[grid.places]


@dataclass(frozen=True)
class PointGrid:
    """Points that are all or most of those of a grid, in any order."""

    axes: tuple[Tensor, ...]
    """the coordinates along each axis, rising"""
    places: Tensor
    """`[*point]`: which point of the grid each of them is"""

    @classmethod
    def of(cls, coords: Float[Tensor, "*point axis"]) -> "PointGrid | None":
        """None where the points are too few of those that share a coordinate along each axis with one of them."""
        distinct, places = zip(*(torch.unique(along, return_inverse=True) for along in coords.unbind(-1)), strict=True)
        counts = [len(values) for values in distinct]
        if math.prod(counts) > MOST_BESIDE * places[0].numel():
            return None
        return cls(distinct, ravelled(places, counts))


def counts_of(frequencies: Float[Tensor, "feature axis"]) -> list[int]:
    """How many functions there are along each axis."""
    return [int(most) + 1 for most in frequencies.amax(0).tolist()]


def by_axis(
    frequencies: Float[Tensor, "feature axis"], counts: Sequence[int], weights: Float[Tensor, "*any feature column"]
) -> Float[Tensor, "*any product column"]:
    """Weights of all products of so many functions along the axes, zero where no feature is."""
    every = weights.new_zeros(*weights.shape[:-2], math.prod(counts), weights.shape[-1])
    return every.index_add(-2, ravelled(frequencies.long().unbind(1), counts), weights)


def ravelled(places: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The number of each place of a grid of `counts`, from its numbers along the axes."""
    index = torch.zeros_like(places[0])
    for place, count in zip(places, counts, strict=True):
        index = index * count + place
    return index


def cosines(
    coords: Float[Tensor, "*point axis"], frequencies: Float[Tensor, "feature axis"], closure: Closure = OPEN
) -> Float[Tensor, "*point feature"]:
    """Products over the axes of `axis_cosines`, one for each row of `frequencies`."""
    axes = coords.shape[-1]
    tables, places = [], []
    for axis in range(axes):
        # each function is computed once, however many features it is part of
        distinct, place = torch.unique(frequencies[:, axis].long(), return_inverse=True)
        tables.append(axis_cosines(coords[..., axis], distinct, closure.along(axis, axes)))
        places.append(place)
    counts = [table.shape[-1] for table in tables]
    if math.prod(counts) > MOST_PRODUCTS * len(frequencies):
        return reduce(torch.mul, [table[..., place] for table, place in zip(tables, places, strict=True)])
    # nearly all products are wanted: to compute them all is less work than to pick factors
    products = tables[0]
    for table in tables[1:]:
        products = (products[..., None] * table[..., None, :]).flatten(-2)
    return products[..., ravelled(places, counts)]


def axis_cosines(
    coords: Float[Tensor, "*point"], which: Tensor, closure: Closure = OPEN
) -> Float[Tensor, "*point feature"]:
    """Functions along one axis, of mean square one over the unit interval.

    Number k is `cos(pi k v)`: k half-waves. On a closed axis numbers 2m - 1 and 2m are cosine and sine of m turns. On
    an axis that reaches poles number 2k is `cos(pi k v)`, and 2k + 1 a wave that vanishes there: with both poles
    `sin(pi (k + 1) v)`.
    """
    which = which.to(coords)
    if any(closure.reaches_poles):
        begins, ends = closure.reaches_poles
        vanishes = which % 2
        half_waves = (which / 2).floor() + vanishes * (begins + ends) / 2
        angle = math.pi * (coords[..., None] * half_waves - vanishes * begins / 2)
    elif closure.is_closed:
        turns = ((which + 1) / 2).floor()
        phase = torch.where((which > 0) & (which % 2 == 0), math.pi / 2, 0.0)
        angle = 2 * math.pi * coords[..., None] * turns - phase
    else:
        angle = math.pi * coords[..., None] * which
    return angle.cos() * torch.where(which > 0, math.sqrt(2), 1.0)
