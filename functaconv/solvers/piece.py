"""Some points of a batch of items, which bound the memory of a fit."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.networks import Placement
from functaconv.shapes import CellFeatures, CellJacobian, CellWeights, PerItem, StartFeatures

Rows = Float[Tensor, "#item cell value number"]
"""a Jacobian with points and channels side by side"""


@dataclass(frozen=True)
class Piece:
    """Some points of every item: where they lie, what was measured there, and what each value weighs."""

    placement: Placement
    targets: CellFeatures
    weights: CellWeights
    """a value's share of its item's mean: over all pieces they sum to one"""
    is_clipped: bool = False
    """features are clipped to 0..1: what is beyond a target at 0 or 1 is no error"""

    def residual(self, features: StartFeatures) -> CellFeatures:
        """What features lack of the targets.

        Of clipped ones it is convex, with a gradient also where the clipped features have none: a feature on the wrong
        side counts with its whole distance.
        """
        residual = self.targets - features
        return residual.clamp(*self._limits) if self.is_clipped else residual

    @cached_property
    def _limits(self) -> tuple[CellFeatures, CellFeatures]:
        """The residuals of clipped features: none below a target of 1 or more, none above one of 0 or less."""
        beyond = torch.full_like(self.targets, torch.inf)
        return torch.where(self.targets >= 1, 0.0, -beyond), torch.where(self.targets <= 0, 0.0, beyond)

    def error(self, residual: CellFeatures) -> PerItem:
        return (self.weights * residual.square()).sum((-3, -2, -1))

    def rows(self, jacobian: CellJacobian) -> Rows:
        """Derivatives times their weights, points and channels side by side."""
        return (jacobian * self.weights[..., None]).flatten(2, 3)

    def first_cell(self) -> "Piece":
        """One cell by itself."""
        return replace(
            self,
            placement=self.placement.first_cell(),
            targets=self.targets[:, :1],
            weights=self.weights[:, :1],
        )
