"""Principal component analysis: the best linear code of as many numbers, which a learned one has to beat.

Exact up to rounding, from the covariance of the values or from the products of the items, whichever is smaller.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# memory of an analysis, in bytes: half of it for rows, of which the first are taken, half for their products; one whose
# products need more is left out
MOST_BYTES = 4 << 30
# rows, or values, that enter the products at a time
PORTION = 1024
# of values that rows miss: rounds at most, and the share of the variance that the last one changes
ROUNDS, SETTLED = 50, 1e-5
# of the coordinates of a row that misses values, as of a latent
DAMPING = 1e-5


@dataclass(frozen=True)
class Pca:
    """A mean and the directions of largest variance."""

    mean: Tensor
    """`[value]`"""
    components: Tensor
    """`[value, number]`, orthonormal columns"""
    items: int
    """how many rows it was made from"""

    def reconstruct(self, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """Rows, `[row, value]`, when only their coordinates along the components are kept; with `valid`, likewise, the
        coordinates that suit the valid values best.
        """
        centred = rows.to(self.mean.dtype) - self.mean
        if valid is None:
            return self.mean + centred @ self.components @ self.components.mT
        coordinates = torch.stack([self._coordinates(*pair) for pair in zip(centred, valid, strict=True)])
        return self.mean + coordinates @ self.components.mT

    def _coordinates(self, row: Tensor, valid: Tensor) -> Tensor:
        known = self.components[valid]
        matrix = (known.mT @ known).double()
        matrix.diagonal().add_(DAMPING * matrix.diagonal().mean())
        coordinates: Tensor = torch.linalg.solve(matrix, (known.mT @ row[valid]).double())
        return coordinates.to(row.dtype)

    def error(self, rows: Tensor) -> Tensor:
        """Mean squared error of each row, `[row, value]`, after `reconstruct`."""
        return (rows.to(self.mean.dtype) - self.reconstruct(rows)).square().mean(-1)


class Analysis:
    """Takes rows in any portions, as many as there is room for; then gives the components."""

    def __init__(self, most: int, device: torch.device | str) -> None:
        """Of at most so many rows."""
        self.rows = 0
        self._most, self._device = most, device
        self._portions: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Float32 `[row, value]`."""
        rows = rows[: self._most - self.rows]
        self.rows += len(rows)
        self._portions.append(rows.to(self._device, torch.float32))

    def pca(self, numbers: int) -> Pca:
        """The leading `numbers` components; fewer where there are not so many."""
        rows = torch.cat(self._portions)
        self._portions = []
        mean = rows.mean(0, dtype=torch.float64).float()
        rows -= mean
        if len(rows) < rows.shape[1]:
            # n centred rows span n - 1 directions at most
            vectors = _leading(_products(rows.mT, torch.float64), min(numbers, len(rows) - 1))
            components = torch.linalg.qr((rows.mT @ vectors.float()).double()).Q
        else:
            components = _leading(_products(rows, torch.float32), numbers)
        return Pca(mean, components.float(), self.rows)


def _products(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of the products (in `dtype`) of all pairs of values over the rows, float64 `[value, value]`."""
    products = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), PORTION):
        part = rows[start : start + PORTION].to(dtype)
        products += part.mT @ part
    return products


def analysis(values: int, rows: int | None, device: torch.device | str = "cpu") -> Analysis | None:
    """Of rows of `values` values; None where their products take too much memory.

    `rows` is how many there are at most, None when that is not known.
    """
    most = MOST_BYTES // 2 // (4 * values)
    most = most if rows is None else min(most, rows)
    # a matrix in float64, its eigenvectors, and what computing them takes
    return None if 32 * min(most, values) ** 2 > MOST_BYTES else Analysis(most, device)


def of_incomplete(rows: Tensor, valid: Tensor, numbers: int) -> Pca | None:
    """The components of rows that miss values, `[row, value]` both: what is missing is what the components of the
    round before say. None when that takes too much memory.
    """
    mean = (rows * valid).sum(0) / valid.sum(0).clamp(min=1)
    filled = torch.where(valid, rows, mean)
    found: Pca | None = None
    for _ in range(ROUNDS):
        one = analysis(rows.shape[1], len(rows), rows.device)
        if one is None:
            return None
        one.add(filled)
        found = one.pca(numbers)
        before, filled = filled, torch.where(valid, rows, found.reconstruct(filled))
        if not (filled - before).square().sum() > SETTLED * (filled - mean).square().sum():
            break
    return found


def cells_of(features: Tensor, shape: tuple[int, ...], sites: tuple[int, ...]) -> Tensor | None:
    """Items `[item, point, channel]` cut into one cell per site, `[item * site, value]`; None if none is whole."""
    if len(shape) != len(sites) or any(size % count for size, count in zip(shape, sites, strict=True)):
        return None
    items, _, channels = features.shape
    split = [part for size, count in zip(shape, sites, strict=True) for part in (count, size // count)]
    axes = range(1, 1 + len(split))
    cut = features.reshape(items, *split, channels).permute(0, *axes[::2], *axes[1::2], len(split) + 1)
    return cut.reshape(items * math.prod(sites), -1)


def _leading(matrix: Tensor, count: int) -> Tensor:
    """The eigenvectors of the `count` largest eigenvalues of a symmetric matrix, as columns, largest first."""
    vectors: Tensor = torch.linalg.eigh(matrix).eigenvectors
    return vectors[:, max(0, len(matrix) - count) :].flip(1)
