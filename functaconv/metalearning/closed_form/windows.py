"""Closed form for spatial latents seen through overlapping windows: alternating least squares.

Given the readout A, the latents of all items solve one common linear system; given the latents, A solves a linear
system in the second moments of neighbouring latents. Both are quadratic in turn, so a dozen rounds are enough. A ridge
that grows with the fourth power of a cosine's frequency keeps the functions smooth between the pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from functaconv.base import Base
from functaconv.metalearning.closed_form.domain import Mean
from functaconv.metalearning.closed_form.sample import Group, Sample
from functaconv.networks import Fourier, Placement
from functaconv.shapes import Latents
from functaconv.signals.grid import AnyGrid, GlobeGrid, Grid

ALIKE = 1e-4
LOBES = 3
MOST_FACTORED = 4608
"""unknowns of A per channel up to which their matrix is factored"""
STEPS = 60
"""of conjugate gradients for A in each round: the next round begins where this one ended"""
ENOUGH = 1e-3
"""residual, relative to the right-hand side, at which they end"""
WEIGHTED_FROM = 2
"""round from which items count by the inverse of their error: the headline is a mean of logarithms"""
MOST_WEIGHT = 100.0

BEYOND = 0.6
"""over-relaxation: how much further a round goes than its least squares says; at 1.2 it does not converge"""
GAIN = 0.01
"""dB that a round must bring, or else it was the last"""
RIDGE = 1e-5
TINY = 1e-12


@dataclass(frozen=True)
class _Layout:
    """The cells of one grid: where cells see the same coordinates, one matrix serves them all."""

    placement: Placement
    weights: Float[Tensor, "cell point"]
    basis: Float[Tensor, "kind point corner_feature"]
    """windowed features of one cell of each kind"""
    kind: Int[Tensor, " cell"]
    gram: Float[Tensor, "kind corner_feature corner_feature"]

    @classmethod
    def of(cls, base: Base, grid: AnyGrid, share: Float[Tensor, " point"]) -> "_Layout":
        """`share` is what each point counts."""
        network = base.field.network
        assert isinstance(network, Fourier)
        placement = base.place(base.points(grid))
        assert placement.by_corner is not None and placement.blend is not None
        weights = share[placement.index]
        if placement.valid is not None:
            weights = weights * placement.valid[..., 0]
        local = placement.by_corner[..., : network.axes]
        signature = torch.cat([local.flatten(1) / ALIKE, weights / weights.max() / ALIKE], 1).round()
        _, kind = torch.unique(signature, dim=0, return_inverse=True)
        count = int(kind.max()) + 1
        # the first cell of each kind
        cells = torch.arange(len(kind), device=kind.device)
        first = torch.full((count,), len(kind), device=kind.device).scatter_reduce(0, kind, cells, "amin")
        features = network.features(placement.by_corner[first])
        blended = torch.einsum("cpk,ckpf->cpkf", placement.blend[first], features).flatten(2)
        gram = (blended * weights[first][..., None]).mT @ blended
        return cls(placement, weights, blended, kind, gram)

    def in_cells(self, values: Float[Tensor, "item point channel"]) -> Float[Tensor, "item cell point channel"]:
        return values[:, self.placement.index]

    def at_corners(self, latents: Latents) -> Float[Tensor, "item cell corner_number"]:
        assert self.placement.corners is not None
        return latents[:, self.placement.corners].flatten(2)


@dataclass(frozen=True)
class _Between:
    """A grid twice as fine, and values there as Lanczos interpolation of the items gives them: what the functions are
    to do between the points, where the items say nothing.
    """

    layout: _Layout
    shape: tuple[int, ...]
    matrices: tuple[Float[Tensor, "fine coarse"], ...]
    """one per axis"""

    @classmethod
    def of(cls, base: Base, group: Group, weight: float) -> "_Between | None":
        """None where it does not count, or where values are missing beside the points."""
        if not weight or group.weights is not None:
            return None
        shape = group.grid.shape
        closed = [base.geometry.is_closed and axis == len(shape) - 1 for axis in range(len(shape))]
        matrices = tuple(_lanczos(size, around).to(base.device) for size, around in zip(shape, closed, strict=True))
        if isinstance(group.grid, GlobeGrid):
            latitude, longitude = (
                tuple(_halved(places)) for places in (group.grid.latitude, group.grid.longitude)
            )
            finer: AnyGrid = GlobeGrid(latitude, longitude)
        else:
            finer = Grid(tuple(2 * size for size in shape))
        share = torch.full((finer.points,), weight / finer.points, device=base.device)
        return cls(_Layout.of(base, finer, share), shape, matrices)

    def interpolated(self, values: Float[Tensor, "item point channel"]) -> Float[Tensor, "item fine channel"]:
        found = values.unflatten(1, self.shape)
        for axis, matrix in enumerate(self.matrices):
            found = torch.tensordot(found, matrix, dims=([1 + axis], [1])).movedim(-1, 1 + axis)
        return found.flatten(1, len(self.shape))


def _halved(places: Sequence[float]) -> list[float]:
    """A quarter of the way to either neighbour of each place along an axis."""
    steps = [(after - before) / 4 for before, after in pairwise(places)] or [0.25]
    return [place + shift for place, back, ahead in zip(places, [steps[0], *steps], [*steps, steps[-1]], strict=True)
            for shift in (-back, ahead)]  # fmt: skip


def _lanczos(size: int, is_closed: bool) -> Float[Tensor, "fine coarse"]:
    """Interpolation at the centres of half cells, three lobes; beyond the ends the outermost value goes on."""
    place = (torch.arange(2 * size, dtype=torch.float64) + 0.5) / 2 - 0.5
    matrix = torch.zeros(2 * size, size, dtype=torch.float64)
    for offset in range(-LOBES, LOBES + 1):
        neighbour = place.round() + offset
        distance = place - neighbour
        weight = torch.where(distance.abs() < LOBES, torch.sinc(distance) * torch.sinc(distance / LOBES), 0.0)
        column = (neighbour % size if is_closed else neighbour.clamp(0, size - 1)).long()
        matrix.scatter_add_(1, column[:, None], weight[:, None])
    return (matrix / matrix.sum(1, keepdim=True)).float()


@dataclass
class _Moments:
    """What the data say of A, given latents: sums over items."""

    layout: _Layout
    latents: Tensor = field(default_factory=lambda: torch.zeros(0))
    """`[kind, corner * number, corner * number]`, second moments"""
    products: Tensor = field(default_factory=lambda: torch.zeros(0))
    """`[cell, point * channel, corner * number]`, values times latents"""

    def add(self, residual: Tensor, latents: Tensor, weights: Tensor) -> None:
        layout = self.layout
        cells = layout.in_cells(residual)
        seen = layout.at_corners(latents).transpose(0, 1)
        weighted = seen * weights[None, :, None]
        second = weighted.mT @ seen
        values = cells.flatten(2).transpose(0, 1)
        products = values.mT @ weighted
        summed = second.new_zeros(len(layout.gram), *second.shape[1:]).index_add(0, layout.kind, second)
        self.latents = summed if not len(self.latents) else self.latents + summed
        self.products = products if not len(self.products) else self.products + products


class WindowedFit:
    """Improves a windowed linear base, in place, round by round.

    `ridge` is what a feature's weights cost, relative to the mean of the diagonal of their normal matrix.
    """

    def __init__(self, base: Base, sample: Sample, mean: Mean, ridge: Float[Tensor, " feature"], between: float) -> None:
        network = base.field.network
        assert isinstance(network, Fourier)
        self.base, self.network, self.sample = base, network, sample
        network.mean_frequencies.copy_(mean.frequencies)
        network.mean.copy_(mean.weights)
        self.mean = mean
        self._layouts = []
        for group in sample.groups:
            share = torch.ones(group.grid.points, device=base.device) if group.weights is None else group.weights
            self._layouts.append(_Layout.of(base, group.grid, share / share.sum()))
        self._between = [_Between.of(base, group, between) for group in sample.groups]
        self.corners = 2**network.axes
        self.ridge = RIDGE + ridge

    @torch.no_grad()
    def start(self) -> None:
        """Principal components of what each site sees in its window, as the features give it."""
        network, numbers = self.network, self.base.latent
        count = network.width
        gram = torch.zeros(count, count, device=self.base.device)
        size = count * network.channels
        second = torch.zeros(size, size, device=self.base.device)
        for group, layout in zip(self.sample.groups, self._layouts, strict=True):
            share = group.items / self.sample.items
            blocks = layout.gram.unflatten(1, (self.corners, count)).unflatten(3, (self.corners, count))
            # what each window weighs its own points by, not by what it shares with the others
            own = torch.einsum("gafah->gfh", blocks)
            gram += share * own[layout.kind].sum(0)
            for residual in self.sample.residuals(group, self.mean):
                local = _seen_by_sites(layout, layout.in_cells(residual), self.corners, count, self.base.field.sites.count)
                local = local.flatten(0, 1).flatten(1)
                second += local.mT @ local / (self.sample.items * self.base.field.sites.count)
        eye = torch.diag(RIDGE + self.ridge) * gram.diagonal().mean()
        lower = torch.linalg.cholesky((gram + eye).double())
        # coefficients of features that are orthonormal over a window
        white = second.double().reshape(count, -1)
        white = torch.linalg.solve_triangular(lower, white, upper=False).reshape(count, network.channels, count, -1)
        white = white.permute(2, 3, 0, 1).reshape(count, -1)
        white = torch.linalg.solve_triangular(lower, white, upper=False).reshape(size, size)
        vectors = torch.linalg.eigh((white + white.mT) / 2).eigenvectors.flip(1)[:, :numbers]
        weights = torch.linalg.solve_triangular(lower.mT, vectors.reshape(count, -1), upper=True)
        self._set(weights.reshape(count, network.channels, -1).float(), None)

    @torch.no_grad()
    def round(self, *, is_weighted: bool) -> None:
        """Latents given A, then A given the latents; items weighted by the inverse of their error, or all alike."""
        moments = [_Moments(layout) for layout in self._layouts]
        finer = [None if between is None else _Moments(between.layout) for between in self._between]
        total = 0.0
        spread: Tensor | None = None
        for group, between, own, fine in zip(self.sample.groups, self._between, moments, finer, strict=True):
            for batch, residual in zip(group.batches, self.sample.residuals(group, self.mean), strict=True):
                fit = self.base.encode(batch, steps=1)
                latents, weights = fit.latents, torch.ones(len(batch), device=self.base.device)
                if is_weighted:
                    error = fit.error
                    weights = 1 / error.clamp(min=TINY + float(error.mean()) / MOST_WEIGHT)
                ones = torch.cat([latents, torch.ones_like(latents[..., :1])], -1)
                own.add(residual, ones, weights)
                if between is not None and fine is not None:
                    fine.add(between.interpolated(residual), ones, weights)
                total += float(weights.sum())
                flat = (ones * weights[:, None, None]).flatten(0, 1).double()
                part = flat.mT @ ones.flatten(0, 1).double()
                spread = part if spread is None else spread + part
        assert spread is not None
        moments += [fine for fine in finer if fine is not None]
        for own in moments:
            own.latents, own.products = own.latents / total, own.products / total
        weights = self._solve(moments)
        if is_weighted:
            weights = weights + BEYOND * (weights - self._weights_and_constant())
        numbers = self.base.latent
        # latents of mean zero and unit spread, or the ridge on A would be no objective
        spread = spread / spread[-1, -1]
        middle = spread[-1, :numbers]
        lower = torch.linalg.cholesky(
            spread[:numbers, :numbers] - torch.outer(middle, middle) + TINY * torch.eye(numbers, device=spread.device)
        )
        constant = weights[..., -1].double() + weights[..., :numbers].double() @ middle
        self._set((weights[..., :numbers].double() @ lower).float(), constant.float())

    def _solve(self, moments: Sequence[_Moments]) -> Float[Tensor, "feature channel number"]:
        """A, its last number a constant, by conjugate gradients."""
        count, channels, corners = self.network.width, self.network.channels, self.corners
        aim: Tensor | None = None
        diagonals = []
        for own in moments:
            layout = own.layout
            products = own.products * layout.weights.repeat_interleave(channels, 1)[..., None]
            summed = products.new_zeros(len(layout.gram), *products.shape[1:]).index_add(0, layout.kind, products)
            found = torch.einsum(
                "gpaf,gpcak->fck",
                layout.basis.unflatten(2, (corners, count)),
                summed.unflatten(1, (-1, channels)).unflatten(3, (corners, -1)),
            )
            aim = found if aim is None else aim + found
            gram = layout.gram.unflatten(1, (corners, count)).unflatten(3, (corners, count))
            second = own.latents.unflatten(1, (corners, -1)).unflatten(3, (corners, -1))
            diagonals.append((torch.einsum("gafah->gafh", gram), torch.einsum("gakal->gakl", second)))
        assert aim is not None
        of_features = sum(gram.sum((0, 1)) for gram, _ in diagonals)
        of_numbers = sum(second.sum((0, 1)) for _, second in diagonals)
        assert isinstance(of_features, Tensor) and isinstance(of_numbers, Tensor)
        mean_diagonal = sum(
            float((g.diagonal(dim1=-2, dim2=-1).sum(-1) * s.diagonal(dim1=-2, dim2=-1).sum(-1)).sum())
            for g, s in diagonals
        ) / (count * len(of_numbers))  # fmt: skip
        ridge = (self.ridge * mean_diagonal)[:, None, None]

        def normal(weights: Tensor) -> Tensor:
            image = ridge * weights
            flat = weights.flatten(1)
            for own in moments:
                gram = own.layout.gram
                kinds = len(gram)
                # [kind, corner, feature, corner', channel, number]
                turned = gram.reshape(-1, count) @ flat
                turned = turned.reshape(kinds, corners, count, corners, channels, -1)
                second = own.latents.unflatten(1, (corners, -1)).unflatten(3, (corners, -1))
                image = image + torch.einsum("gafbck,galbk->fcl", turned, second)
            return image

        size = count * len(of_numbers)
        if size <= MOST_FACTORED:
            products = torch.zeros(count * count, len(of_numbers) ** 2, device=aim.device)
            for own in moments:
                gram = own.layout.gram.unflatten(1, (corners, count)).unflatten(3, (corners, count))
                second = own.latents.unflatten(1, (corners, -1)).unflatten(3, (corners, -1))
                products += (
                    gram.permute(2, 4, 0, 1, 3).reshape(count * count, -1)
                    @ second.permute(0, 1, 3, 2, 4).reshape(-1, len(of_numbers) ** 2)
                )
            matrix = products.reshape(count, count, len(of_numbers), -1).transpose(1, 2).reshape(size, size)
            matrix.diagonal().add_(ridge.expand(-1, -1, len(of_numbers)).flatten())
            columns = aim.transpose(1, 2).reshape(size, channels)
            lower = torch.linalg.cholesky(matrix)
            return torch.cholesky_solve(columns, lower).reshape(count, -1, channels).transpose(1, 2)
        scale = mean_diagonal * len(of_numbers) * count / (of_features.trace() * of_numbers.trace())
        left = _inverse(of_features * scale.sqrt(), self.ridge * mean_diagonal / (of_numbers.diagonal().mean() * scale.sqrt()))
        right = _inverse(of_numbers * scale.sqrt(), None)

        def precondition(residual: Tensor) -> Tensor:
            return torch.einsum("fg,gck,kl->fcl", left, residual, right)

        return _conjugate_gradients(normal, precondition, aim, self._weights_and_constant())

    def _weights_and_constant(self) -> Float[Tensor, "feature channel number"]:
        """A, and beside it the constant."""
        parts = (self.base.field.latent_map.weight, self.network.readout[:, None])
        return torch.cat(parts, 1).reshape(self.network.width, self.network.channels, -1)

    def _set(self, weights: Float[Tensor, "feature channel number"], constant: Tensor | None) -> None:
        self.base.field.latent_map.weight.copy_(weights.flatten(0, 1))
        if constant is not None:
            self.network.readout.copy_(constant.flatten())


def _seen_by_sites(
    layout: _Layout, cells: Tensor, corners: int, count: int, sites: int
) -> Float[Tensor, "item site feature channel"]:
    """Products of the values with the windowed features of each site."""
    weighted = cells * layout.weights[..., None]
    basis = layout.basis.unflatten(2, (corners, count))
    own = torch.einsum("cpaf,icph->icafh", basis[layout.kind], weighted)
    assert layout.placement.corners is not None
    found = own.new_zeros(len(own), sites, count, own.shape[-1])
    return found.index_add(1, layout.placement.corners.flatten(), own.flatten(1, 2))


def _inverse(matrix: Tensor, ridge: Tensor | None) -> Tensor:
    matrix = matrix.double()
    added = RIDGE * matrix.diagonal().mean()
    matrix = matrix + torch.eye(len(matrix), device=matrix.device) * added
    if ridge is not None:
        matrix = matrix + torch.diag(ridge.double())
    return torch.linalg.inv(matrix).float()


def _conjugate_gradients(
    normal: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor], aim: Tensor, begin: Tensor
) -> Tensor:
    """Preconditioned (Hestenes and Stiefel 1952), from `begin`."""
    found = begin
    residual = aim - normal(found)
    along = turned = precondition(residual)
    energy = (residual * turned).sum()
    for _ in range(STEPS):
        if not residual.norm() > ENOUGH * aim.norm():
            break
        image = normal(along)
        length = energy / (along * image).sum()
        found, residual = found + length * along, residual - length * image
        turned = precondition(residual)
        before, energy = energy, (residual * turned).sum()
        along = turned + energy / before * along
    return found
