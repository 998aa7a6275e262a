"""What a solver learns of a problem at some latents: the gradient, the normal equations, the linearized network."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.networks.reads import Reads
from functaconv.shapes import CellFeatures, CellJacobian, ItemMask, Latents, PerItem
from functaconv.solvers.normal_matrix import Factor, Metric, NormalMatrix


@dataclass(frozen=True)
class Gradient:
    """Each item's error and its derivative by the latent."""

    jt_residual: Latents
    """J'W(y - f), J the derivative of the features and W the weights: minus half the derivative of the error"""
    error: PerItem
    """weighted mean of the squared residuals"""

    def select(self, chosen: Tensor) -> "Gradient":
        """Those of some of the items."""
        return Gradient(self.jt_residual[chosen], self.error[chosen])

    def where(self, mask: ItemMask, other: "Gradient") -> "Gradient":
        """These where `mask` holds, those of `other` elsewhere."""
        jt_residual = torch.where(mask[:, None, None], self.jt_residual, other.jt_residual)
        return Gradient(jt_residual, torch.where(mask, self.error, other.error))


@dataclass(frozen=True)
class NormalEquations(Gradient):
    """A least-squares fit linearized at some latents: `(J'WJ) step = J'W(y - f)`."""

    normal_matrix: NormalMatrix

    def select(self, chosen: Tensor) -> "NormalEquations":
        return NormalEquations(self.jt_residual[chosen], self.error[chosen], self.normal_matrix.select(chosen))

    def where(self, mask: ItemMask, other: Gradient) -> "NormalEquations":
        assert isinstance(other, NormalEquations)
        both = super().where(mask, other)
        return NormalEquations(both.jt_residual, both.error, self.normal_matrix.where(mask, other.normal_matrix))


@dataclass(frozen=True)
class Linearization:
    """The network linearized at a latent that all items share.

    It is computed once and serves every item with the same points; its normal matrix serves every item with the same
    weights.
    """

    latents: Latents
    features: Sequence[Tensor]
    """`StartFeatures` per piece, of as many points as it has"""
    rows: Sequence[Tensor]
    """derivatives per piece: weighted, as `Rows`, where all items share the weights; otherwise, and of a linear
    network, unweighted"""
    normal_matrix: NormalMatrix
    _factors: list[Factor] = field(default_factory=list, repr=False)

    @cached_property
    def precise(self) -> NormalMatrix:
        """The normal matrix in float64."""
        return replace(self.normal_matrix, matrix=self.normal_matrix.matrix.double())

    def detached(self) -> "Linearization":
        """Derivatives as constants; the latents remain those that the fit begins with."""
        return Linearization(
            self.latents,
            [features.detach() for features in self.features],
            [rows.detach() for rows in self.rows],
            replace(self.normal_matrix, matrix=self.normal_matrix.matrix.detach()),
        )

    def factor(self, damping: Tensor, metric: Metric | None) -> Factor:
        """The damped normal matrix, factored once: a solver keeps its damping as long as a linearization lives."""
        if not self._factors:
            # the first step, which of a linear network is the last one
            self._factors.append(self.normal_matrix.damped(damping, metric, to_the_end=True))
        return self._factors[0]


def along(rows: CellJacobian, change: Latents, reads: Reads | None) -> CellFeatures:
    """How the features of every point change with the latents, to first order."""
    if reads is not None:
        change = reads.of(change)
    points, channels = rows.shape[2:4]
    # [cell, value, number] @ [cell, number, item]
    changes: Tensor = rows[0].flatten(1, 2) @ change.permute(1, 2, 0)
    return changes.permute(2, 0, 1).reshape(len(change), -1, points, channels)


def onto_sites(values: Float[Tensor, "item cell number"], reads: Reads | None) -> Latents:
    """Sums over the cells that read a site."""
    return values if reads is None else reads.onto_sites(values.reshape(len(values), reads.index.numel(), -1))
