"""Closed form for one global latent per item: the principal components of the items within the span of cosines.

Reduced-rank regression: an item's least-squares coefficients, in a basis in which their length is the size of the
function, then the directions in which the items vary most. With as many cosines as points that is PCA; with fewer the
components are smooth, which on few items does better on others.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from functaconv.construction import closure_of
from functaconv.networks.cosines import ravelled
from functaconv.training.closed_form.domain import Mean, Transform, counts_of, fit_mean, numbered
from functaconv.training.closed_form.sample import Sample

MOST_FEATURES = 4096
MOST_PRODUCTS = 1 << 38
"""multiply-adds that the products of features at the points of a mask may take"""
LEAST_SHARE = 16
"""the fewest features that are tried are this many times fewer than the most"""
MOST_MEAN = 8192
RIDGE = 1e-6
"""of the mean square of a feature: grids smaller than others do not determine all coefficients"""
ROUNDS = 2
"""of weighting each item by the inverse of its error: the headline is a mean of logarithms"""
MOST_WEIGHT = 100
"""times the weight of an item of mean error"""
# larger matrices are not diagonalised whole when a few leading vectors are wanted: minutes against seconds
DENSE = 1024
MOST_ITERATIONS = 200
PRECISION = 1e-7
ENOUGH_ITEMS, FOLDS = 1000, 4
"""of fewer items each fold is left out in turn to choose the number of features: the held-out ones are too few"""
TINY = 1e-12


@dataclass(frozen=True)
class Basis:
    """What a global linear base consists of."""

    mean: Mean
    frequencies: Float[Tensor, "feature axis"]
    weights: Float[Tensor, "feature channel number"]


@dataclass(frozen=True)
class _Coefficients:
    """Items in an orthonormal basis whose first functions span the first features."""

    values: Float[Tensor, "item feature channel"]
    energy: Float[Tensor, " item"]
    """mean square of what differs from the dataset's mean"""
    position: Int[Tensor, " item"]
    """neighbours may be near copies, equal ones are"""

    def of_items(self, chosen: Tensor) -> "_Coefficients":
        return _Coefficients(self.values[chosen], self.energy[chosen], self.position[chosen])


def fit_whole(sample: Sample, held_out: Sample, numbers: int, *, features: int | None = None) -> Basis:
    """The best base of `numbers` numbers; how many features it has is chosen on held-out items unless given."""
    shapes = [group.grid.shape for group in sample.groups]
    closure = closure_of(sample.geometry)
    counts = counts_of(shapes, closure=closure)
    averages = sample.averages(counts)
    mean = fit_mean(averages, counts, MOST_MEAN, closure)
    everything = numbered(counts, sample.device)
    order = _by_energy(sample, mean, counts)
    order = order[closure.allows(everything)[order]]
    points = max(group.grid.points for group in sample.groups)
    most = min(MOST_FEATURES, len(order)) if features is None else min(features, len(order))
    if any(group.weights is not None for group in sample.groups):
        most = min(most, int((MOST_PRODUCTS / points) ** 0.5))
    chosen = everything[order[:most]]
    lower = torch.linalg.cholesky(_gram(sample, chosen, counts))
    training = _coefficients(sample, mean, chosen, counts, lower)
    others = _coefficients(held_out, mean, chosen, counts, lower) if held_out.items else training
    best: tuple[float, int] | None = None
    tried = most
    trials = _folds(training) if len(training.energy) < ENOUGH_ITEMS else [(training, others)]
    while best is None or (features is None and tried * LEAST_SHARE >= most):
        qualities = [_components(some, rest, tried, numbers)[1] for some, rest in trials]
        quality = sum(qualities) / len(qualities)
        if best is None or quality > best[0]:
            best = quality, tried
        tried //= 2
    components, _ = _components(training, others, best[1], numbers)
    count = best[1]
    weights = torch.linalg.solve_triangular(
        lower[:count, :count].mT, components.double().reshape(count, -1), upper=True
    )
    return Basis(mean, chosen[:count], weights.float().reshape(components.shape))


def _folds(items: _Coefficients) -> list[tuple[_Coefficients, _Coefficients]]:
    """Runs of items, each left out once: neighbours in time are near copies."""
    parts = [part for part in torch.unique(items.position).tensor_split(FOLDS) if len(part)]
    if len(parts) < 2:
        return [(items, items)]
    left_out = [torch.isin(items.position, part) for part in parts]
    return [(items.of_items(~chosen), items.of_items(chosen)) for chosen in left_out]


def _by_energy(sample: Sample, mean: Mean, counts: tuple[int, ...]) -> Tensor:
    """Coefficients in the order of how much of the items is in them."""
    energy: Tensor | None = None
    for group in sample.groups:
        transform = Transform.of(group.grid, sample.geometry, counts, sample.device)
        for residual in sample.residuals(group, mean):
            if group.weights is not None:
                residual = residual * group.weights[:, None]
            part = transform.analyse(residual).square().sum((0, 2)) / residual.shape[1] ** 2
            energy = part if energy is None else energy + part
    assert energy is not None
    return energy.argsort(descending=True, stable=True)


def _gram(sample: Sample, chosen: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Mean products of the features over the grids, float64."""
    gram = torch.zeros(len(chosen), len(chosen), dtype=torch.float64, device=sample.device)
    for group in sample.groups:
        transform = Transform.of(group.grid, sample.geometry, counts, sample.device)
        gram += transform.gram(chosen, group.weights) * (group.items / sample.items)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return gram


def _coefficients(sample: Sample, mean: Mean, chosen: Tensor, counts: tuple[int, ...], lower: Tensor) -> _Coefficients:
    values, energies = [], []
    index = ravelled(chosen.long().unbind(1), counts)
    is_alone = len(sample.groups) == 1
    for group in sample.groups:
        transform = Transform.of(group.grid, sample.geometry, counts, sample.device)
        own = lower
        if not is_alone:
            gram = transform.gram(chosen, group.weights)
            gram.diagonal().add_(RIDGE * gram.diagonal().mean())
            own = torch.linalg.cholesky(gram)
        total = group.grid.points if group.weights is None else float(group.weights.sum())
        for residual in sample.residuals(group, mean):
            weighted = residual if group.weights is None else residual * group.weights[:, None]
            products = transform.analyse(weighted)[:, index] / total
            items, _, channels = products.shape
            columns = products.permute(1, 0, 2).reshape(len(index), -1).double()
            columns = torch.linalg.solve_triangular(own, columns, upper=False)
            if not is_alone:
                columns = lower.mT @ torch.linalg.solve_triangular(own.mT, columns, upper=True)
            values.append(columns.reshape(len(index), items, channels).permute(1, 0, 2).float())
            energies.append((weighted * residual).sum((1, 2)) / (total * channels))
    position = [position for group in sample.groups for batch in group.batches for position in batch.positions]
    return _Coefficients(torch.cat(values), torch.cat(energies), torch.tensor(position, device=sample.device))


def _components(training: _Coefficients, others: _Coefficients, features: int, numbers: int) -> tuple[Tensor, float]:
    """The leading directions of the first `features` coefficients, and dB of the others along them."""
    rows = training.values[:, :features].flatten(1)
    aims = others.values[:, :features].flatten(1)
    channels = training.values.shape[2]
    weights = torch.ones(len(rows), device=rows.device)
    best: tuple[Tensor, float] | None = None
    for _ in range(1 + ROUNDS):
        basis = _leading_rows(rows * weights.sqrt()[:, None], numbers)
        quality = _psnr(aims, others.energy, basis, channels)
        if best is not None and not quality > best[1]:
            break
        best = basis, quality
        # rounding leaves a little less than nothing of items that are all alike
        error = (training.energy - (rows @ basis).square().sum(1) / channels).clamp(min=0)
        weights = 1 / error.clamp(min=TINY + float(error.mean()) / MOST_WEIGHT)
        weights = weights / weights.mean()
    assert best is not None
    return best[0].reshape(features, channels, -1), best[1]


def _leading_rows(rows: Tensor, numbers: int) -> Tensor:
    """The directions in which rows are longest, `[value, number]`, orthonormal."""
    if len(rows) < rows.shape[1]:
        vectors = leading(rows.double() @ rows.double().mT, min(numbers, len(rows)))
        spanned: Tensor = torch.linalg.qr(rows.mT.double() @ vectors).Q.float()
    else:
        spanned = leading(rows.mT @ rows, numbers)
    if spanned.shape[1] == numbers:
        return spanned
    # fewer items than numbers: the others are directions of no item
    padded = torch.cat([spanned, torch.zeros(len(spanned), numbers - spanned.shape[1], device=rows.device)], 1)
    rest = torch.eye(len(spanned), numbers - spanned.shape[1], device=rows.device)
    padded[:, spanned.shape[1] :] = rest - spanned @ (spanned.mT @ rest)
    orthonormal: Tensor = torch.linalg.qr(padded).Q
    return orthonormal


def leading(matrix: Tensor, count: int, *, dense: int = DENSE) -> Tensor:
    """The eigenvectors of the `count` largest eigenvalues of a symmetric positive matrix, as columns, largest first.

    Matrices up to `dense` rows are diagonalised whole.
    """
    size = len(matrix)
    count = min(count, size)
    if size <= dense or 4 * count > size:
        vectors: Tensor = torch.linalg.eigh(matrix).eigenvectors
        return vectors[:, size - count :].flip(1)
    # subspace iteration; a few more vectors than wanted make the last ones converge too
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, count + max(16, count // 8), generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(matrix @ start.to(matrix)).Q
    captured = 0.0
    for _ in range(MOST_ITERATIONS):
        applied = matrix @ basis
        values, turned = torch.linalg.eigh(basis.mT @ applied)
        total = float(values[-count:].sum())
        if total - captured <= PRECISION * total:
            rotation: Tensor = turned[:, -count:].flip(1)
            return basis @ rotation
        captured = total
        basis = torch.linalg.qr(applied).Q
    return basis[:, :count]


def _psnr(rows: Tensor, energy: Tensor, directions: Tensor, channels: int) -> float:
    error = energy - (rows @ directions).square().sum(1) / channels
    return float(-10 * torch.log10(error.clamp(min=TINY)).mean()) if len(rows) else float("nan")
