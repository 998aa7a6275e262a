"""Some points of a batch of items, which bound the memory of a fit."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from functaconv.networks import Placement
from functaconv.shapes import CellFeatures, CellJacobian, CellWeights, PerItem

Rows = Float[Tensor, "#item cell value number"]
"""a Jacobian with points and channels side by side"""


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
