"""Principal component analysis: the best linear code of as many numbers, which a learned one has to beat.

Exact up to rounding, from the covariance of the values or from the products of the items, whichever is smaller.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# memory of an analysis, in bytes; one that needs more is left out
MOST_BYTES = 4 << 30
# rows that enter the covariance at a time: it is large, and passes through the memory once per portion
PORTION = 1024


@dataclass(frozen=True)
class Pca:
    """A mean and the directions of largest variance."""

    mean: Tensor
    """`[value]`"""
    components: Tensor
    """`[value, number]`, orthonormal columns"""
    items: int
    """how many rows it was made from"""

    def reconstruct(self, rows: Tensor) -> Tensor:
        """Rows, `[row, value]`, when only their coordinates along the components are kept."""
        centred = rows.to(self.mean.dtype) - self.mean
        return self.mean + centred @ self.components @ self.components.mT

    def error(self, rows: Tensor) -> Tensor:
        """Mean squared error of each row, `[row, value]`, after `reconstruct`."""
        return (rows.to(self.mean.dtype) - self.reconstruct(rows)).square().mean(-1)


class Analysis:
    """Takes rows in any portions; then gives the components."""

    def __init__(self, device: torch.device | str, *, keeps_rows: bool) -> None:
        """Of the rows themselves, or of their covariance, whose memory does not depend on how many there are."""
        self.rows = 0
        self._device, self._keeps_rows = device, keeps_rows
        self._waiting: list[Tensor] = []
        self._shift: Tensor | None = None
        self._sum = self._products = torch.zeros(0)

    def add(self, rows: Tensor) -> None:
        """Float32 `[row, value]`."""
        self.rows += len(rows)
        self._waiting.append(rows.to(self._device, torch.float32))
        if not self._keeps_rows and sum(map(len, self._waiting)) >= PORTION:
            self._add_products()

    def pca(self, numbers: int) -> Pca:
        """The leading `numbers` components; fewer where there are not so many."""
        return self._of_rows(numbers) if self._keeps_rows else self._of_covariance(numbers)

    def _of_covariance(self, numbers: int) -> Pca:
        self._add_products()
        mean = self._sum / max(1, self.rows)
        components = _leading(self._products / max(1, self.rows) - torch.outer(mean, mean), numbers)
        shift = 0 if self._shift is None else self._shift
        return Pca((mean + shift).float(), components.float(), self.rows)

    def _add_products(self) -> None:
        if not self._waiting:
            return
        rows = torch.cat(self._waiting)
        self._waiting = []
        if self._shift is None:
            # values near their mean: then the products do not cancel
            self._shift = rows.mean(0)
            self._sum = torch.zeros_like(self._shift, dtype=torch.float64)
            self._products = torch.outer(self._sum, self._sum)
        rows = rows - self._shift
        self._sum += rows.sum(0, dtype=torch.float64)
        self._products += rows.mT @ rows

    def _of_rows(self, numbers: int) -> Pca:
        rows = torch.cat(self._waiting)
        self._waiting = []
        mean = rows.mean(0, dtype=torch.float64).float()
        rows -= mean
        products = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        for start in range(0, rows.shape[1], PORTION):
            part = rows[:, start : start + PORTION].double()
            products += part @ part.mT
        # n centred rows span n - 1 directions at most
        vectors = _leading(products, min(numbers, len(rows) - 1))
        spanned = (rows.mT @ vectors.float()).double()
        return Pca(mean, torch.linalg.qr(spanned).Q.float(), self.rows)


def analysis(values: int, rows: int | None, device: torch.device | str = "cpu") -> Analysis | None:
    """The cheaper way to components of rows of `values` values; None when both take too much memory.

    `rows` is how many there are at most, None when that is not known.
    """
    # a matrix in float64, its eigenvectors, and what computing them takes
    by_values = 32 * values**2
    by_rows = math.inf if rows is None else 4 * values * rows + 32 * rows**2
    return None if min(by_rows, by_values) > MOST_BYTES else Analysis(device, keeps_rows=by_rows < by_values)


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
