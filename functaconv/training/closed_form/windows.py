"""Closed form for spatial latents seen through overlapping windows: alternating least squares.

Given the readout A, the latents of all items solve one common linear system; given the latents, A solves a linear
system in the second moments of neighbouring latents. Both are quadratic in turn, so a dozen rounds are enough. A ridge
that grows with the fourth power of a cosine's frequency keeps the functions smooth between the pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.base import Base
from functaconv.networks import Fourier
from functaconv.training.closed_form.domain import Mean
from functaconv.training.closed_form.layout import Between, Layout
from functaconv.training.closed_form.sample import Sample

MOST_FACTORED = 4608
"""unknowns of A per channel up to which their matrix is factored"""
STEPS = 60
"""of conjugate gradients for A in each round: the next round begins where this one ended"""
ENOUGH = 1e-3
"""residual, relative to the right-hand side, at which they end"""
MOST_WEIGHT = 100.0

BEYOND = 0.6
"""over-relaxation: how much further a round goes than its least squares says; at 1.2 it does not converge"""
RIDGE = 1e-5
TINY = 1e-12


class _Moments:
    """What the data say of A, given latents: sums over items and the cells of each kind."""

    def __init__(self, layout: Layout, channels: int, numbers: int) -> None:
        self.layout = layout
        kinds, points, _ = layout.basis.shape
        assert layout.placement.corners is not None
        read = layout.placement.corners.shape[1] * numbers
        self.latents = layout.basis.new_zeros(kinds, read, read)
        """`[kind, corner_number, corner_number]`, second moments"""
        self.products = layout.basis.new_zeros(kinds, points * channels, read)
        """`[kind, value, corner_number]`, values times latents"""

    def add(self, residual: Tensor, latents: Tensor, weights: Tensor) -> None:
        """Items' values `[item, point, channel]`, latents and weights `[item]`."""
        for kind in range(len(self.layout.cells)):
            seen = self.layout.at_corners(latents, kind)
            weighted = (seen * weights[:, None, None]).flatten(0, 1)
            self.latents[kind] += weighted.mT @ seen.flatten(0, 1)
            self.products[kind] += self.layout.rows(residual, kind).flatten(0, 1).mT @ weighted

    def divide(self, total: float) -> None:
        self.latents /= total
        self.products /= total


class WindowedFit:
    """Improves a windowed linear base, in place, round by round.

    `ridge` is what a feature's weights cost, relative to the mean of the diagonal of their normal matrix.
    """

    def __init__(
        self, base: Base, sample: Sample, mean: Mean, ridge: Float[Tensor, " feature"], between: float
    ) -> None:
        network = base.field.network
        assert isinstance(network, Fourier)
        self.base, self.network, self.sample = base, network, sample
        network.mean_frequencies.copy_(mean.frequencies)
        network.mean.copy_(mean.weights)
        self.mean = mean
        self._layouts = []
        for group in sample.groups:
            share = torch.ones(group.grid.points, device=base.device) if group.weights is None else group.weights
            self._layouts.append(Layout.of(base, group.grid, share / share.sum()))
        self._between = [Between.of(base, group, between) for group in sample.groups]
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
            blocks = layout.gram.reshape(-1, self.corners, count, self.corners, count)
            # what each window weighs its own points by, not by what it shares with the others
            counts = torch.tensor([len(cells) for cells in layout.cells], device=gram.device).to(gram)
            gram += share * torch.einsum("gafah,g->fh", blocks, counts)
            for residual in self.sample.residuals(group, self.mean):
                local = _seen_by_sites(layout, residual, self.corners, count).flatten(0, 1).flatten(1)
                second += local.mT @ local / (self.sample.items * len(layout.whole_sites))
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
        sizes = (self.network.channels, self.base.latent + 1)
        moments = [_Moments(layout, *sizes) for layout in self._layouts]
        finer = [None if between is None else _Moments(between.layout, *sizes) for between in self._between]
        total = 0.0
        spread: Tensor | None = None
        self.sample = self.sample.filled_again(self.base)
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
                    fine.add(between.transform.synthesise(residual), ones, weights)
                total += float(weights.sum())
                flat = (ones * weights[:, None, None]).flatten(0, 1).double()
                part = flat.mT @ ones.flatten(0, 1).double()
                spread = part if spread is None else spread + part
        assert spread is not None
        moments += [fine for fine in finer if fine is not None]
        for own in moments:
            own.divide(total)
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
        """A, its last number a constant: a linear system that all channels share."""
        system = _System.of(moments, self.corners)
        ridge = (self.ridge * system.level())[:, None].expand(-1, system.numbers)
        if system.features * system.numbers <= MOST_FACTORED:
            return system.solved(ridge)
        return system.solved_by_steps(ridge, self._weights_and_constant())

    def _weights_and_constant(self) -> Float[Tensor, "feature channel number"]:
        """A, and beside it the constant."""
        parts = (self.base.field.latent_map.weight, self.network.readout[:, None])
        return torch.cat(parts, 1).reshape(self.network.width, self.network.channels, -1)

    def _set(self, weights: Float[Tensor, "feature channel number"], constant: Tensor | None) -> None:
        self.base.field.latent_map.weight.copy_(weights.flatten(0, 1))
        if constant is not None:
            self.network.readout.copy_(constant.flatten())


def _seen_by_sites(
    layout: Layout, residual: Float[Tensor, "item point channel"], corners: int, count: int
) -> Float[Tensor, "item site feature channel"]:
    """Products of the values with the windowed features of each site whose cells are all there."""
    items, _, channels = residual.shape
    assert layout.placement.corners is not None
    places = layout.placement.sites + layout.placement.poles.count
    on_sites = residual.new_zeros(items, places, count, channels)
    for kind, cells in enumerate(layout.cells):
        values = layout.rows(residual, kind).reshape(items, len(cells), -1, channels)
        basis = (layout.basis[kind] * layout.weights[kind][:, None]).reshape(-1, corners, count)
        own = torch.einsum("paf,icph->icafh", basis, values)
        on_sites.index_add_(1, layout.placement.corners[cells].flatten(), own.flatten(1, 2))
    return on_sites[:, layout.whole_sites]


@dataclass(frozen=True)
class _System:
    """`sum over kinds and pairs of corners of G[a, b] A Z[a, b]' = aim`, G the products of the features at two corners,
    Z those of the latents there.
    """

    grams: Sequence[Float[Tensor, "kind corner feature corner feature"]]
    seconds: Sequence[Float[Tensor, "kind corner number corner number"]]
    aim: Float[Tensor, "feature channel number"]

    @classmethod
    def of(cls, moments: Sequence[_Moments], corners: int) -> "_System":
        grams, seconds = [], []
        aims: list[Tensor] = []
        for own in moments:
            layout = own.layout
            kinds, points, _ = layout.basis.shape
            grams.append(layout.gram.reshape(kinds, corners, -1, corners, layout.gram.shape[1] // corners))
            seconds.append(own.latents.reshape(kinds, corners, -1, corners, own.latents.shape[1] // corners))
            products = own.products.reshape(kinds, points, -1, corners, own.latents.shape[1] // corners)
            basis = (layout.basis * layout.weights[..., None]).reshape(kinds, points, corners, -1)
            aims.append(torch.einsum("gpaf,gpcak->fck", basis, products))
        return cls(grams, seconds, torch.stack(aims).sum(0))

    @property
    def features(self) -> int:
        return len(self.aim)

    @property
    def numbers(self) -> int:
        return self.aim.shape[2]

    def level(self) -> float:
        """The mean of the diagonal."""
        total = sum(
            float((torch.einsum("gafaf->ga", gram) * torch.einsum("gakak->ga", second)).sum())
            for gram, second in zip(self.grams, self.seconds, strict=True)
        )
        return total / (self.features * self.numbers)

    def solved(self, ridge: Float[Tensor, "feature number"]) -> Float[Tensor, "feature channel number"]:
        """By Cholesky."""
        features, numbers = self.features, self.numbers
        products = self.aim.new_zeros(features**2, numbers**2)
        for gram, second in zip(self.grams, self.seconds, strict=True):
            for own, beside in zip(gram, second, strict=True):
                left = own.permute(1, 3, 0, 2).reshape(features**2, -1)
                products.addmm_(left, beside.permute(0, 2, 1, 3).reshape(-1, numbers**2))
        matrix = products.reshape(features, features, numbers, numbers).transpose(1, 2).reshape(features * numbers, -1)
        matrix.diagonal().add_(ridge.flatten())
        columns = self.aim.transpose(1, 2).reshape(features * numbers, -1)
        solved = torch.cholesky_solve(columns, torch.linalg.cholesky(matrix))
        weights: Tensor = solved.reshape(features, numbers, -1).transpose(1, 2)
        return weights

    def solved_by_steps(
        self, ridge: Float[Tensor, "feature number"], begin: Float[Tensor, "feature channel number"]
    ) -> Float[Tensor, "feature channel number"]:
        """By conjugate gradients (Hestenes and Stiefel 1952) from `begin`; the preconditioner is a Kronecker product,
        exact where latents at different corners are uncorrelated.
        """
        of_features = torch.stack([torch.einsum("gafah->fh", gram) for gram in self.grams]).sum(0)
        of_numbers = torch.stack([torch.einsum("gakal->kl", second) for second in self.seconds]).sum(0)
        level = self.level()
        # such that the product has the diagonal's mean
        of_features = of_features * (level / (of_features.diagonal().mean() * of_numbers.diagonal().mean()))
        own = ridge[:, 0] / of_numbers.diagonal().mean()
        left, right = _inverse(of_features + torch.diag(own)), _inverse(of_numbers)

        def precondition(residual: Tensor) -> Tensor:
            return torch.einsum("fg,gck,kl->fcl", left, residual, right)

        weights = begin
        residual = self.aim - self._times(weights, ridge)
        along = turned = precondition(residual)
        energy = (residual * turned).sum()
        for _ in range(STEPS):
            if not residual.norm() > ENOUGH * self.aim.norm():
                break
            applied = self._times(along, ridge)
            length = energy / (along * applied).sum()
            weights, residual = weights + length * along, residual - length * applied
            turned = precondition(residual)
            before, energy = energy, (residual * turned).sum()
            along = turned + energy / before * along
        return weights

    def _times(self, weights: Tensor, ridge: Tensor) -> Tensor:
        applied = ridge[:, None] * weights
        for gram, second in zip(self.grams, self.seconds, strict=True):
            kinds, corners = gram.shape[:2]
            turned = gram.reshape(-1, self.features) @ weights.flatten(1)
            turned = turned.reshape(kinds, corners, self.features, corners, -1, self.numbers)
            applied = applied + torch.einsum("gafbck,galbk->fcl", turned, second)
        return applied


def _inverse(matrix: Tensor) -> Tensor:
    """With a ridge that keeps it from being singular."""
    eye = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    inverse: Tensor = torch.linalg.inv(matrix.double() + RIDGE * matrix.diagonal().mean() * eye)
    return inverse.float()
