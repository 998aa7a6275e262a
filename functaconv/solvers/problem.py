"""A batch to be explained: the solvers' only door to the network."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import add
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from functaconv.networks import Placement
from functaconv.shapes import (
    CellFeatures,
    CellJacobian,
    CellMatrices,
    CellWeights,
    Features,
    ItemMask,
    Latents,
    PerItem,
    StartFeatures,
    Validity,
)
from functaconv.solvers.normal_matrix import Curvature, Factor, Metric

CANCELLED = 1e-3
"""share of the error at the start below which float32 has lost too much of an error that is a difference"""
Rows = Float[Tensor, "#item cell value number"]
"""a Jacobian with points and channels side by side"""


@runtime_checkable
class Field(Protocol):
    """What a solver needs of a network: features, their cotangents pulled back onto the latents, their Jacobian."""

    @property
    def is_linear(self) -> bool: ...

    def __call__(self, latents: Latents, placement: Placement) -> CellFeatures: ...
    def vjp(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, Callable[[CellFeatures], Latents]]: ...
    def jacobian(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, CellJacobian]: ...
    def reads(self, placement: Placement) -> Int[Tensor, "cell read"] | None: ...


@dataclass(frozen=True)
class Piece:
    """Some points of every item: where they lie, what was measured there, and what each value weighs."""

    placement: Placement
    targets: CellFeatures
    weights: CellWeights
    """a value's share of its item's mean: over all pieces they sum to one"""

    def error(self, residual: CellFeatures) -> PerItem:
        return (self.weights * residual.square()).sum((-3, -2, -1))

    def rows(self, jacobian: CellJacobian) -> Rows:
        """Derivatives times their weights, points and channels side by side."""
        return (jacobian * self.weights[..., None]).flatten(2, 3)

    def first_cell(self) -> "Piece":
        """One cell by itself."""
        return Piece(self.placement.first_cell(), self.targets[:, :1], self.weights[:, :1])


@dataclass(frozen=True)
class Slope:
    """How an item's error changes with its latent."""

    slope: Latents
    """J'W(y - f), J the derivative of the features and W the weights: downhill, half as steep as the error"""
    error: PerItem
    """weighted mean of the squared residuals"""

    def select(self, chosen: Tensor) -> "Slope":
        """Those of some of the items."""
        return Slope(self.slope[chosen], self.error[chosen])

    def where(self, mask: ItemMask, other: "Slope") -> "Slope":
        """These where `mask` holds, those of `other` elsewhere."""
        return Slope(
            torch.where(mask[:, None, None], self.slope, other.slope), torch.where(mask, self.error, other.error)
        )


@dataclass(frozen=True)
class NormalEquations(Slope):
    """A least-squares fit linearised at some latents: `(J'WJ) step = J'W(y - f)`."""

    curvature: Curvature

    def select(self, chosen: Tensor) -> "NormalEquations":
        return NormalEquations(self.slope[chosen], self.error[chosen], self.curvature.select(chosen))

    def where(self, mask: ItemMask, other: Slope) -> "NormalEquations":
        assert isinstance(other, NormalEquations)
        both = super().where(mask, other)
        return NormalEquations(both.slope, both.error, self.curvature.where(mask, other.curvature))


@dataclass(frozen=True)
class Tangent:
    """The network linearised at a latent that all items share: computed once, it serves every item with the same
    points, and its curvature every item with the same weights.
    """

    latents: Latents
    features: Sequence[Tensor]
    """`StartFeatures` per piece, of as many points as it has"""
    rows: Sequence[Tensor]
    """derivatives per piece: weighted, as `Rows`, where all items share the weights; else, and of a linear network, as
    they are"""
    curvature: Curvature
    _factors: list[Factor] = field(default_factory=list, repr=False)

    @cached_property
    def precise(self) -> Curvature:
        """The curvature in float64."""
        return replace(self.curvature, matrix=self.curvature.matrix.double())

    @property
    def bytes(self) -> int:
        """What it takes to keep it."""
        return sum(rows.nbytes for rows in self.rows) + self.curvature.matrix.nbytes

    def detached(self) -> "Tangent":
        """Derivatives as constants; the latents remain those that the fit begins with."""
        curvature = replace(self.curvature, matrix=self.curvature.matrix.detach())
        return Tangent(self.latents, [f.detach() for f in self.features], [r.detach() for r in self.rows], curvature)

    def factor(self, damping: Tensor, metric: Metric | None) -> Factor:
        """The damped curvature, factored once: a solver does not change its damping within a tangent's life."""
        if not self._factors:
            self._factors.append(self.curvature.damped(damping, metric))
        return self._factors[0]


@dataclass(frozen=True)
class Reconstruction:
    """The error of latents, its gradient and its normal equations, for a batch of items on a common grid.

    Pieces are chunks of points: they bound the memory and do not change the result.
    """

    field: Field
    pieces: tuple[Piece, ...]
    sites: int
    """how many sites the pieces cover: the gradient is that of the mean over a site's own points"""
    differentiable: bool = True
    """False: the gradient is a number, not a function, to an outer derivative (first-order MAML)"""
    tangent: Tangent | None = None
    """the network linearised at the latent where all items begin"""
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
    def is_shared(self) -> bool:
        """All items have the same points with the same weights: what depends on them alone is computed once."""
        return len(self.pieces[0].weights) == 1

    def as_numbers(self) -> "Reconstruction":
        """The same problem, constant to an outer derivative."""
        tangent = None if self.tangent is None else self.tangent.detached()
        return replace(self, differentiable=False, tangent=tangent)

    def select(self, chosen: Tensor) -> "Reconstruction":
        """Some of the items."""
        pieces = [
            replace(
                piece,
                targets=piece.targets[chosen],
                weights=piece.weights if self.is_shared else piece.weights[chosen],
            )
            for piece in self.pieces
        ]
        tangent = self.tangent
        if tangent is not None and not self.is_shared:
            tangent = replace(tangent, curvature=tangent.curvature.select(chosen), _factors=[])
        return replace(self, pieces=tuple(pieces), tangent=tangent)

    def error(self, latents: Latents) -> PerItem:
        """Mean squared error of each item over its valid points and channels."""
        if self.field.is_linear and self.tangent is not None and not torch.is_grad_enabled():
            return self._quadratic_error(latents, self.tangent)
        return self._decoded_error(latents)

    def _quadratic_error(self, latents: Latents, tangent: Tangent) -> PerItem:
        """The same without decoding, for a linear network: `e - 2 s'd + d'(J'WJ)d`, e and s the error and the slope
        where `d` is zero; in float64, since the terms nearly cancel. What is left of items that fit so well that
        float32 in e and s shows is decoded.
        """
        begun, change = self._start, (latents - tangent.latents).double()
        curved = tangent.precise.times(change)
        error = begun.error.double() + ((curved - 2 * begun.slope.double()) * change).sum((1, 2))
        close = error < CANCELLED * begun.error
        if bool(close.any()):
            chosen = close.nonzero()[:, 0]
            error[chosen] = self.select(chosen)._error_along(change[chosen].float(), tangent).double()
        return error.to(begun.error.dtype)

    def _error_along(self, change: Latents, tangent: Tangent) -> PerItem:
        """The error of a linear network's latents that differ from the tangent's by `change`."""
        return _total(
            piece.error(features + along(rows, change, self.field.reads(piece.placement)) - piece.targets)
            for piece, features, rows in zip(self.pieces, tangent.features, tangent.rows, strict=True)
        )

    @cached_property
    def _start(self) -> Slope:
        """Error and slope at the tangent's latents."""
        assert self.tangent is not None
        return self._slope_along(self.tangent)

    def _decoded_error(self, latents: Latents) -> PerItem:
        return _total(piece.error(self.field(latents, piece.placement) - piece.targets) for piece in self.pieces)

    def gradient(self, latents: Latents) -> Latents:
        """Derivative of `sites * error`, summed over items: every item's gradient is its own."""
        return -self.downhill(self.slope(latents))

    def downhill(self, view: Slope) -> Latents:
        """Minus the derivative of `sites * error`: of the mean over a site's own points."""
        return 2 * self.sites * view.slope

    def slope(self, latents: Latents) -> Slope:
        """J'W(y - f) and the error.

        Differentiable in its turn: the outer loop of meta-learning goes through it.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            tangent = self._tangent_at(latents)
            if tangent is not None:
                return self._slope_along(tangent)
            return Slope(*_summed(self._pulled_back(piece, latents) for piece in self.pieces))

    def normal_equations(self, latents: Latents) -> NormalEquations:
        """The fit linearised at `latents`: C reverse sweeps through the network, accumulated piece by piece.

        With one latent for all items, and weights they share, there is one curvature for all. Differentiable.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            tangent = self._tangent_at(latents)
            if tangent is not None:
                begun = self._slope_along(tangent) if torch.is_grad_enabled() else self._start
                return NormalEquations(begun.slope, begun.error, tangent.curvature)
            matrices = _Matrices()
            slope, error = _summed(self._linearised(piece, latents, matrices) for piece in self.pieces)
            return NormalEquations(slope, error, matrices.curvature(self._count))

    def at(self, latents: Latents) -> "Reconstruction":
        """The same problem with the network linearised at one latent for all items (`[1, site, latent]`).

        Where the items share their weights too, there is one curvature for all.
        """
        features: list[StartFeatures] = []
        rows: list[Tensor] = []
        matrices = _Matrices()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            for piece in self.pieces:
                seen, where = (piece.first_cell(), latents[:, :1]) if self.cells_alike else (piece, latents)
                found, jacobian = self.field.jacobian(where, seen.placement)
                weighted = seen.rows(jacobian)
                matrix = weighted.mT @ jacobian.flatten(2, 3)
                cells = len(piece.placement.index)
                matrices.add(piece.placement, self.field.reads(piece.placement), matrix.expand(-1, cells, -1, -1))
                features.append(found)
                rows.append(weighted if self.is_shared and not self.field.is_linear else jacobian)
            curvature = matrices.curvature(self._count, is_common=self.is_shared)
        return replace(self, tangent=Tangent(latents, features, rows, curvature))

    @property
    def _count(self) -> int:
        return self.pieces[0].placement.sites

    def _tangent_at(self, latents: Latents) -> Tangent | None:
        """The tangent, when these are the latents it was made at."""
        return self.tangent if self.tangent is not None and latents is self.tangent.latents else None

    def _slope_along(self, tangent: Tangent) -> Slope:
        """One product with the residuals per piece: features and derivatives are known."""
        found = (
            self._slope_of(piece, features, rows, self.field.reads(piece.placement))
            for piece, features, rows in zip(self.pieces, tangent.features, tangent.rows, strict=True)
        )
        return Slope(*_summed(found))

    def _pulled_back(self, piece: Piece, latents: Latents) -> tuple[Latents, PerItem]:
        """A piece's slope and error by one reverse sweep."""
        features, pullback = self.field.vjp(latents, piece.placement)
        residual = piece.targets - features
        return pullback(piece.weights * residual), piece.error(residual)

    def _linearised(self, piece: Piece, latents: Latents, matrices: "_Matrices") -> tuple[Latents, PerItem]:
        """A piece's slope and error; its matrices are added to the others'."""
        features, jacobian = self.field.jacobian(latents, piece.placement)
        reads = self.field.reads(piece.placement)
        weighted = piece.rows(jacobian)
        matrices.add(piece.placement, reads, weighted.mT @ jacobian.flatten(2, 3))
        return self._slope_of(piece, features, weighted if self.is_shared else jacobian, reads)

    def _slope_of(
        self, piece: Piece, features: StartFeatures, rows: Tensor, reads: Int[Tensor, "cell read"] | None
    ) -> tuple[Latents, PerItem]:
        """The slope from derivatives, weighted already where all items share them, and the error."""
        residual = piece.targets - features
        if rows.dim() == 5:
            values, rows = (residual * piece.weights).flatten(2), rows.flatten(2, 3)
        else:
            values = residual.flatten(2)
        if len(rows) == 1 and rows.shape[1] == 1:
            slope = values @ rows[0, 0]
        elif len(rows) == 1:
            # [cell, number, value] @ [cell, value, item]
            slope = (rows[0].mT @ values.permute(1, 2, 0)).permute(2, 0, 1)
        else:
            slope = (values[:, :, None] @ rows)[:, :, 0]
        return _onto_sites(slope, reads, self._count), piece.error(residual)


class _Matrices:
    """Cell matrices as they come, piece by piece: points of one cell are added up, cells stand side by side."""

    def __init__(self) -> None:
        self._cells: dict[int, tuple[CellMatrices, Int[Tensor, "cell read"] | None]] = {}

    def add(self, placement: Placement, reads: Int[Tensor, "cell read"] | None, matrix: CellMatrices) -> None:
        known = self._cells.get(placement.first)
        self._cells[placement.first] = (matrix if known is None else known[0] + matrix, reads)

    def curvature(self, sites: int, *, is_common: bool = False) -> Curvature:
        matrices, reads = zip(*self._cells.values(), strict=True)
        whole = matrices[0] if len(matrices) == 1 else torch.cat(matrices, 1)
        if any(part is None for part in reads):
            return Curvature(whole, None, sites, is_common)
        return Curvature(whole, torch.cat(reads), sites, is_common)


def reconstruction(
    field: Field,
    placement: Placement,
    features: Features,
    valid: Validity | None = None,
    *,
    chunk: int | None = None,
) -> Reconstruction:
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
        pieces.append(Piece(part, features[:, part.index], weights))
    return Reconstruction(field, tuple(pieces), placement.covered)


def along(rows: CellJacobian, change: Latents, reads: Int[Tensor, "cell read"] | None) -> CellFeatures:
    """How the features of every point change with the latents, to first order."""
    if reads is not None:
        padded = torch.cat([change, torch.zeros_like(change[:, :1])], 1)
        change = padded[:, reads].flatten(2)
    points, channels = rows.shape[2:4]
    # [cell, value, number] @ [cell, number, item]
    found: Tensor = rows[0].flatten(1, 2) @ change.permute(1, 2, 0)
    return found.permute(2, 0, 1).reshape(len(change), -1, points, channels)


def _onto_sites(
    values: Float[Tensor, "item cell number"], reads: Int[Tensor, "cell read"] | None, sites: int
) -> Latents:
    """Sums over the cells that read a site."""
    if reads is None:
        return values
    parts = values.reshape(len(values), reads.numel(), -1)
    summed = values.new_zeros(len(values), sites + 1, parts.shape[-1])
    return summed.index_add(1, reads.flatten(), parts)[:, :sites]


def _total(parts: Iterable[Tensor]) -> Tensor:
    return reduce(add, parts)


def _summed(found: Iterable[tuple[Latents, PerItem]]) -> tuple[Latents, PerItem]:
    """Slopes and errors of pieces added up as they come: small things kept of each would keep large ones' memory."""
    return reduce(lambda total, part: (total[0] + part[0], total[1] + part[1]), found)
