"""Cosines over the whole domain of a dataset: values on grids to coefficients and back, axis by axis; and the mean.

All grids are products of axes, so a transform is one small product per axis, whatever the number of points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.construction import closure_of
from functaconv.networks.cosines import OPEN, Closure, axis_cosines
from functaconv.signals.geometry import Geometry
from functaconv.signals.grid import AnyGrid, Grid

MOST_COEFFICIENTS = 1 << 16
"""of a transform, per channel: beyond it the highest frequencies are left out"""
ROUGHNESS = 1e-9
"""weight of the squared curvature of the mean, where no value says what it is"""
PORTION = 1 << 12
"""points whose functions are computed at a time"""
STEPS = 60
"""of conjugate gradients"""
DROPPED = 1e-6
"""share of the items' variance that the mean may lose with its smallest coefficients"""


@dataclass(frozen=True)
class Transform:
    """One grid's points and the functions along each axis: `tables[a]` is `[point of axis a, function]`."""

    tables: tuple[Tensor, ...]

    @classmethod
    def of(cls, grid: AnyGrid, geometry: Geometry, counts: Sequence[int], device: torch.device) -> "Transform":
        """Of `counts[a]` functions along axis a."""
        tables = []
        for axis, (place, count) in enumerate(zip(axis_places(grid, geometry), counts, strict=True)):
            closure = closure_of(geometry).along(axis, len(counts))
            tables.append(axis_cosines(place.to(device), torch.arange(count, device=device), closure))
        return cls(tuple(table.float() for table in tables))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(table) for table in self.tables)

    def analyse(self, values: Float[Tensor, "item point channel"]) -> Float[Tensor, "item coefficient channel"]:
        """Products with every function, summed over the points: the adjoint of `synthesise`."""
        return Transform(tuple(table.mT for table in self.tables)).synthesise(values)

    def synthesise(
        self, coefficients: Float[Tensor, "item coefficient channel"]
    ) -> Float[Tensor, "item point channel"]:
        """Sums of the functions."""
        values = coefficients.reshape(len(coefficients), *(table.shape[1] for table in self.tables), -1)
        for axis, table in enumerate(self.tables):
            values = torch.tensordot(values, table, dims=([1 + axis], [1])).movedim(-1, 1 + axis)
        return values.flatten(1, len(self.tables))

    def gram(self, chosen: Float[Tensor, "feature axis"], weights: Tensor | None) -> Float[Tensor, "feature feature"]:
        """Mean products of the chosen functions with each other, float64; weighted by `weights` `[point]`."""
        index = chosen.long()
        if weights is None:
            parts = [
                (table.double().mT @ table.double() / len(table))[index[:, axis]][:, index[:, axis]]
                for axis, table in enumerate(self.tables)
            ]
            return reduce(torch.mul, parts)
        gram = torch.zeros(len(index), len(index), dtype=torch.float64, device=index.device)
        rows = torch.cartesian_prod(*[torch.arange(size, device=index.device) for size in self.shape])
        rows = rows.reshape(len(weights), -1)
        for part in torch.split(weights.nonzero()[:, 0], PORTION):
            values = reduce(torch.mul, [table[rows[part, axis]][:, index[:, axis]]
                                        for axis, table in enumerate(self.tables)])  # fmt: skip
            gram += (values * weights[part, None]).mT @ values
        return gram / weights.sum()


def axis_places(grid: AnyGrid, geometry: Geometry) -> list[Tensor]:
    """Where the points of a grid lie along each axis, float64, in the unit interval."""
    if isinstance(grid, Grid):
        return [grid.axis(axis) for axis in range(len(grid.shape))]
    places = geometry.points(grid).site_coords.double().reshape(*grid.shape, -1)
    return [places[:, 0, 0], places[0, :, 1]]


def counts_of(
    shapes: Sequence[tuple[int, ...]], most: int = MOST_COEFFICIENTS, closure: Closure = OPEN
) -> tuple[int, ...]:
    """How many functions along each axis: as many as the smallest grid has points, in proportion where that is more
    than `most` in all; twice as many along an axis that reaches poles, where half of all products are used.
    """
    least = [min(sizes) for sizes in zip(*shapes, strict=True)]
    share = min(1.0, (most / math.prod(least)) ** (1 / len(least)))
    counts = [max(1, math.floor(size * share)) for size in least]
    if any(closure.reaches_poles):
        counts[0] *= 2
    return tuple(counts)


def numbered(counts: Sequence[int], device: torch.device) -> Float[Tensor, "coefficient axis"]:
    """Which function along each axis a coefficient stands for, in the order of `analyse`."""
    axes = [torch.arange(count, device=device) for count in counts]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(counts)).float()


@dataclass(frozen=True)
class Mean:
    """The mean of a dataset as cosines."""

    frequencies: Float[Tensor, "feature axis"]
    weights: Float[Tensor, "feature channel"]


@dataclass(frozen=True)
class Average:
    """The mean of the items on one grid."""

    transform: Transform
    values: Float[Tensor, "point channel"]
    weights: Float[Tensor, "point channel"]
    """how many items have a value there"""
    variance: float


def fit_mean(averages: Sequence[Average], counts: Sequence[int], most: int, closure: Closure = OPEN) -> Mean:
    """Least squares over all grids, the smoothest where there are no values (conjugate gradients); then only the
    largest coefficients, `most` at most.
    """
    device = averages[0].values.device
    frequencies = numbered(counts, device)
    total = sum(float(average.weights.sum()) for average in averages)
    half_waves = closure.half_waves(frequencies)
    penalty = ROUGHNESS * half_waves.square().sum(1).square()[None, :, None] * total / len(averages)
    allowed = closure.allows(frequencies)[:, None]

    def normal(coefficients: Tensor) -> Tensor:
        applied = penalty * coefficients
        for average in averages:
            applied = applied + average.transform.analyse(average.transform.synthesise(coefficients) * average.weights)
        return applied * allowed

    aim = sum(average.transform.analyse((average.values * average.weights)[None]) for average in averages)
    assert isinstance(aim, Tensor)
    aim = aim * allowed
    weights = torch.zeros_like(aim)
    residual = along = aim
    energy = residual.square().sum()
    for _ in range(STEPS):
        if not energy > 1e-14 * aim.square().sum():
            break
        applied = normal(along)
        length = energy / (along * applied).sum()
        weights, residual = weights + length * along, residual - length * applied
        energy, before = residual.square().sum(), energy
        along = residual + energy / before * along
    size = weights[0].square().sum(1)
    order = size.argsort(descending=True, stable=True)
    variance = max(average.variance for average in averages)
    lost = size[order].sum() - size[order].cumsum(0)
    kept = min(most, 1 + int((lost > DROPPED * variance).sum()), len(order))
    chosen = order[:kept]
    return Mean(frequencies[chosen], weights[0][chosen])
