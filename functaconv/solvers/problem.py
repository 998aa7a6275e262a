"""A batch of items to fit latents to: all that a solver sees of the data and the network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor

from functaconv.networks import Placement
from functaconv.networks.reads import Reads
from functaconv.shapes import (
    CellFeatures,
    Features,
    Latents,
    PerItem,
    StartFeatures,
    Validity,
)
from functaconv.solvers.field import Field
from functaconv.solvers.linearization import Gradient, Linearization, NormalEquations, along, onto_sites
from functaconv.solvers.normal_matrix import CellMatrixSum
from functaconv.solvers.piece import Piece

# share of the error at the start below which float32 has lost too much of an error that is a difference
CANCELLED = 1e-3


@dataclass(frozen=True)
class Problem:
    """The error of latents, its gradient and its normal equations, for a batch of items on a common grid.

    Pieces are chunks of points: they bound the memory and do not change the result.
    """

    field: Field
    pieces: tuple[Piece, ...]
    reads: Reads | None
    """whose latents the cells of all pieces read; None when cell i reads site i only"""
    sites: int
    """how many sites the pieces cover: the gradient is that of the mean over a site's own points"""
    differentiable: bool = True
    """False: the gradient is a number, not a function, to an outer derivative (first-order MAML)"""
    linearization: Linearization | None = None
    """the network linearized at the latent where all items begin"""
    cells_alike: bool = False
    """at that latent all cells are the same: same coordinates, same weights, same latents"""

    @property
    def items(self) -> int:
        return len(self.pieces[0].targets)

    @property
    def values(self) -> int:
        """How many values an item has, padding included."""
        return sum(piece.targets[0].numel() for piece in self.pieces)

    @property
    def is_clipped(self) -> bool:
        """Features are clipped to 0..1, and errors are those of `Piece.residual`."""
        return self.pieces[0].is_clipped

    @property
    def is_shared(self) -> bool:
        """All items have the same points with the same weights: what depends on them alone is computed once."""
        return len(self.pieces[0].weights) == 1

    def as_numbers(self) -> "Problem":
        """The same problem, constant to an outer derivative."""
        linearization = None if self.linearization is None else self.linearization.detached()
        return replace(self, differentiable=False, linearization=linearization)

    def select(self, chosen: Tensor) -> "Problem":
        """Some of the items."""
        pieces = [
            replace(
                piece,
                targets=piece.targets[chosen],
                weights=piece.weights if self.is_shared else piece.weights[chosen],
            )
            for piece in self.pieces
        ]
        linearization = self.linearization
        if linearization is not None and not self.is_shared:
            own = linearization.normal_matrix.select(chosen)
            linearization = replace(linearization, normal_matrix=own, _factors=[])
        return replace(self, pieces=tuple(pieces), linearization=linearization)

    @property
    def _known(self) -> Linearization | None:
        """What features at any latents follow from, but for what a refinement adds."""
        return self.linearization if self.field.keeps_derivatives else None

    def features(self, latents: Latents) -> Iterator[CellFeatures]:
        """Those of every point, piece by piece; from the derivatives of what is linear, where they are known."""
        if (known := self._known) is None:
            yield from (self.field(latents, piece.placement) for piece in self.pieces)
            return
        for piece, features, rows in zip(self.pieces, known.features, known.rows, strict=True):
            linear = features + along(rows, latents - known.latents, self.field.reads(piece.placement))
            yield self.field.refined(linear, latents, piece.placement)

    def error(self, latents: Latents) -> PerItem:
        """Mean squared error of each item over its valid points and channels."""
        is_quadratic = self.field.is_linear and not self.is_clipped
        if is_quadratic and self.linearization is not None and not torch.is_grad_enabled():
            return self._quadratic_error(latents, self.linearization)
        return self._decoded_error(latents)

    def _quadratic_error(self, latents: Latents, linearization: Linearization) -> PerItem:
        """The error without decoding, for a linear network: `e - 2 s'd + d'(J'WJ)d` with the error e and s = J'W(y - f)
        where d is zero.

        Computed in float64, since the terms nearly cancel. Items that fit so well that the rounding of e and s to
        float32 shows are decoded.
        """
        start, change = self._start, (latents - linearization.latents).double()
        curved = linearization.precise.times(change)
        error = start.error.double() + ((curved - 2 * start.jt_residual.double()) * change).sum((1, 2))
        close = error < CANCELLED * start.error
        if bool(close.any()):
            chosen = close.nonzero()[:, 0]
            error[chosen] = self.select(chosen)._decoded_error(latents[chosen]).double()
        return error.to(start.error.dtype)

    @cached_property
    def _start(self) -> Gradient:
        """Gradient at the linearization's latents."""
        assert self.linearization is not None
        return self._gradient_along(self.linearization)

    def _decoded_error(self, latents: Latents) -> PerItem:
        parts = zip(self.pieces, self.features(latents), strict=True)
        return _total(piece.error(piece.residual(features)) for piece, features in parts)

    def steepest_descent(self, view: Gradient) -> Latents:
        """Minus the derivative of `sites * error`: of the mean over a site's own points."""
        return 2 * self.sites * view.jt_residual

    def gradient(self, latents: Latents) -> Gradient:
        """J'W(y - f) and the error.

        Differentiable in its turn: the outer loop of meta-learning goes through it.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            linearization = self._linearization_at(latents)
            if linearization is not None:
                return self._gradient_along(linearization)
            if (known := self._known) is not None:
                return self._gradient_along(known, self.features(latents))
            return Gradient(*_summed(self._pulled_back(piece, latents) for piece in self.pieces))

    def normal_equations(self, latents: Latents) -> NormalEquations:
        """The fit linearized at `latents`: C reverse sweeps through the network, accumulated piece by piece.

        With one latent for all items, and weights they share, there is one normal matrix for all. Differentiable.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            linearization = self._linearization_at(latents)
            if linearization is not None:
                start = self._gradient_along(linearization) if torch.is_grad_enabled() else self._start
                return NormalEquations(start.jt_residual, start.error, linearization.normal_matrix)
            matrices = CellMatrixSum()
            jt_residual, error = _summed(self._linearized(piece, latents, matrices) for piece in self.pieces)
            if self.field.is_corrected and not self.field.keeps_derivatives and latents.any():
                # of a correction, which is zero at zero, the Jacobian knows nothing, the gradient does
                jt_residual, error = _summed(self._pulled_back(piece, latents) for piece in self.pieces)
            return NormalEquations(jt_residual, error, matrices.total(self.reads, self._count))

    def at(self, latents: Latents) -> "Problem":
        """The same problem with the network linearized at one latent for all items (`[1, site, latent]`)."""
        return replace(self, linearization=self.linearized(latents))

    def linearized(self, latents: Latents) -> Linearization:
        """The network linearized at one latent for all items (`[1, site, latent]`).

        Where the items share their weights too, there is one normal matrix for all.
        """
        features: list[StartFeatures] = []
        rows: list[Tensor] = []
        matrices = CellMatrixSum()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            for piece in self.pieces:
                one, at = (piece.first_cell(), latents[:, :1]) if self.cells_alike else (piece, latents)
                start, jacobian = self.field.jacobian(at, one.placement)
                weighted = one.rows(jacobian)
                matrix = weighted.mT @ jacobian.flatten(2, 3)
                cells = len(piece.placement.index)
                matrices.add(piece.placement.first, matrix.expand(-1, cells, -1, -1))
                features.append(start)
                rows.append(weighted if self.is_shared and not self.field.keeps_derivatives else jacobian)
            normal_matrix = matrices.total(self.reads, self._count, is_common=self.is_shared)
        return Linearization(latents, features, rows, normal_matrix)

    @property
    def _count(self) -> int:
        return self.pieces[0].placement.sites

    def _linearization_at(self, latents: Latents) -> Linearization | None:
        """The linearization, when these are the latents it was made at."""
        return self.linearization if self.linearization is not None and latents is self.linearization.latents else None

    def _gradient_along(self, known: Linearization, features: Iterable[Tensor] | None = None) -> Gradient:
        """With derivatives that are known, one product with the residuals per piece: at the linearization's latents, or
        at those of other features.
        """

        def part(piece: Piece, features: StartFeatures, rows: Tensor) -> tuple[Latents, PerItem]:
            return self._jt_residual_of(piece, features, rows, self.field.reads(piece.placement))

        return Gradient(*_summed(map(part, self.pieces, known.features if features is None else features, known.rows)))

    def _pulled_back(self, piece: Piece, latents: Latents) -> tuple[Latents, PerItem]:
        """J'W(y - f) and error of a piece, by one reverse sweep."""
        features, pullback = self.field.vjp(latents, piece.placement)
        residual = piece.residual(features)
        return pullback(piece.weights * residual), piece.error(residual)

    def _linearized(self, piece: Piece, latents: Latents, matrices: CellMatrixSum) -> tuple[Latents, PerItem]:
        """J'W(y - f) and error of a piece; its normal matrices are added to `matrices`."""
        features, jacobian = self.field.jacobian(latents, piece.placement)
        reads = self.field.reads(piece.placement)
        weighted = piece.rows(jacobian)
        matrices.add(piece.placement.first, weighted.mT @ jacobian.flatten(2, 3))
        return self._jt_residual_of(piece, features, weighted if self.is_shared else jacobian, reads)

    def _jt_residual_of(
        self, piece: Piece, features: StartFeatures, rows: Tensor, reads: Reads | None
    ) -> tuple[Latents, PerItem]:
        """J'W(y - f) from derivatives, weighted already where all items share them, and the error."""
        residual = piece.residual(features)
        if rows.dim() == 5:
            values, rows = (residual * piece.weights).flatten(2), rows.flatten(2, 3)
        else:
            values = residual.flatten(2)
        if len(rows) == 1 and rows.shape[1] == 1:
            jt_residual = values @ rows[0, 0]
        elif len(rows) == 1:
            # [cell, number, value] @ [cell, value, item]
            jt_residual = (rows[0].mT @ values.permute(1, 2, 0)).permute(2, 0, 1)
        else:
            jt_residual = (values[:, :, None] @ rows)[:, :, 0]
        return onto_sites(jt_residual, reads), piece.error(residual)


def fitting_problem(
    field: Field,
    placement: Placement,
    features: Features,
    valid: Validity | None = None,
    *,
    chunk: int | None = None,
    is_clipped: bool = False,
) -> Problem:
    """Set a batch up for fitting, about `chunk` points at a time.

    `valid` is 1 where a value was measured and 0 where not, `[item or 1, point, channel]`; what `features` holds
    there does not matter as long as it is finite. An item without any valid value gets zero weights.
    """
    points, channels = features.shape[1:]
    if valid is None:
        share = features.new_full((1, points, 1), 1 / (points * channels))
    else:
        share = valid / valid.sum((1, 2), keepdim=True).clamp(min=1)
    pieces = []
    for part in [placement] if chunk is None else placement.split(chunk):
        weights = share[:, part.index]
        if part.valid is not None:
            weights = weights * part.valid
        pieces.append(Piece(part, features[:, part.index], weights, is_clipped))
    return Problem(field, tuple(pieces), field.reads(placement), placement.covered)


def _total(parts: Iterable[Tensor]) -> Tensor:
    return reduce(add, parts)


def _summed(parts: Iterable[tuple[Latents, PerItem]]) -> tuple[Latents, PerItem]:
    """Sums over the pieces, added up at once: a result that is kept would keep the memory of its piece."""
    return reduce(lambda total, part: (total[0] + part[0], total[1] + part[1]), parts)
