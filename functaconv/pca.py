"""Principal component analysis: the best linear code of as many numbers, which a learned one has to beat.

Exact up to rounding, from the covariance of the values or from the products of the items, whichever is smaller.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MOST_BYTES = 4 << 30
"""what an analysis may take; one that needs more is not made"""
PORTION = 1024
"""rows that enter the covariance at a time: it is large, and passes through the memory once per portion"""
DENSE = 4096
"""larger matrices are not diagonalised whole when a few leading vectors are wanted: minutes against seconds"""
MOST_ROUNDS = 200
PRECISION = 1e-7


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


class Analysis(Protocol):
    """Takes rows in any portions; then gives the components."""

    rows: int

    def add(self, rows: Tensor) -> None:
        """Float32 `[row, value]`."""

    def pca(self, numbers: int) -> Pca:
        """The leading `numbers` components; fewer where there are not so many."""


def analysis(values: int, rows: int | None, numbers: int, device: torch.device | str = "cpu") -> Analysis | None:
    """The cheaper way to `numbers` components of rows of `values` values; None when both take too much memory.

    `rows` is how many there are at most, None when nobody knows.
    """
    by_rows = math.inf if rows is None else 4 * values * rows + _solving(rows, numbers)
    by_values = 4 * values**2 + _solving(values, numbers)
    if min(by_rows, by_values) > MOST_BYTES:
        return None
    return _Products(device) if rows is not None and by_rows < by_values else _Covariance(device)


def cells_of(features: Tensor, shape: tuple[int, ...], sites: tuple[int, ...]) -> Tensor | None:
    """Items `[item, point, channel]` cut into one cell per site, `[item * site, value]`; None if none is whole."""
    if len(shape) != len(sites) or any(size % count for size, count in zip(shape, sites, strict=True)):
        return None
    items, _, channels = features.shape
    split = [part for size, count in zip(shape, sites, strict=True) for part in (count, size // count)]
    axes = range(1, 1 + len(split))
    cut = features.reshape(items, *split, channels).permute(0, *axes[::2], *axes[1::2], len(split) + 1)
    return cut.reshape(items * math.prod(sites), -1)


class _Covariance:
    """Adds up the covariance of the values: memory does not depend on the number of rows."""

    def __init__(self, device: torch.device | str) -> None:
        self.rows = 0
        self._device = device
        self._shift: Tensor | None = None
        self._sum = self._products = torch.zeros(0)
        self._waiting: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        self.rows += len(rows)
        self._waiting.append(rows.to(self._device, torch.float32))
        if sum(map(len, self._waiting)) >= PORTION:
            self._take()

    def pca(self, numbers: int) -> Pca:
        self._take()
        mean = self._sum / max(1, self.rows)
        covariance = self._products / max(1, self.rows) - torch.outer(mean, mean)
        components = leading(covariance, numbers)
        shift = 0 if self._shift is None else self._shift
        return Pca((mean + shift).float(), components.float(), self.rows)

    def _take(self) -> None:
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


class _Products:
    """Keeps the rows and diagonalises their products: for few rows of many values."""

    def __init__(self, device: torch.device | str) -> None:
        self.rows = 0
        self._device = device
        self._kept: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        self.rows += len(rows)
        self._kept.append(rows.to(self._device, torch.float32))

    def pca(self, numbers: int) -> Pca:
        rows = torch.cat(self._kept)
        self._kept = []
        mean = rows.mean(0, dtype=torch.float64).float()
        rows -= mean
        products = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        for start in range(0, rows.shape[1], PORTION):
            part = rows[:, start : start + PORTION].double()
            products += part @ part.mT
        # n centred rows span n - 1 directions at most
        vectors = leading(products, min(numbers, len(rows) - 1))
        spanned = (rows.mT @ vectors.float()).double()
        return Pca(mean, torch.linalg.qr(spanned).Q.float(), self.rows)


def leading(matrix: Tensor, count: int, *, dense: int = DENSE) -> Tensor:
    """The eigenvectors of the `count` largest eigenvalues of a symmetric positive matrix, as columns, largest first.

    Matrices up to `dense` rows are diagonalised whole.
    """
    size = len(matrix)
    count = min(count, size)
    if _is_dense(size, count, dense):
        vectors: Tensor = torch.linalg.eigh(matrix).eigenvectors
        return vectors[:, size - count :].flip(1)
    # subspace iteration; a few more vectors than wanted make the last ones converge too
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, count + max(16, count // 8), generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(matrix @ start.to(matrix)).Q
    captured = 0.0
    for _ in range(MOST_ROUNDS):
        image = matrix @ basis
        values, turned = torch.linalg.eigh(basis.mT @ image)
        total = float(values[-count:].sum())
        if total - captured <= PRECISION * total:
            rotation: Tensor = turned[:, -count:].flip(1)
            return basis @ rotation
        captured = total
        basis = torch.linalg.qr(image).Q
    return basis[:, :count]


def _is_dense(size: int, count: int, dense: int = DENSE) -> bool:
    return size <= dense or 4 * count > size


def _solving(size: int, count: int) -> int:
    """Bytes that `leading` takes for a matrix of this side, its own included."""
    return 32 * size**2 if _is_dense(size, count) else 8 * size**2 + 32 * size * count
