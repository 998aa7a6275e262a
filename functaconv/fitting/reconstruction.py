"""A batch to be explained: the solvers' only door to the network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from functaconv.networks import Placement
from functaconv.shapes import CellFeatures, CellWeights, Features, Latents, PerItem


@runtime_checkable
class Field(Protocol):
    """What a solver needs of a network: features, and their cotangents pulled back onto the latents."""

    def __call__(self, latents: Latents, placement: Placement) -> CellFeatures: ...
    def vjp(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, Callable[[CellFeatures], Latents]]: ...


@dataclass(frozen=True)
class Piece:
    """Some points of every item: where they lie, what was measured there, and what each value weighs."""

    placement: Placement
    targets: CellFeatures
    weights: CellWeights
    """a value's share of its item's mean: over all pieces they sum to one"""


@dataclass(frozen=True)
class Reconstruction:
    """The error of latents, and its gradient, for a batch of items on a common grid.

    Pieces are chunks of points: they bound the memory and do not change the result.
    """

    field: Field
    pieces: tuple[Piece, ...]
    sites: int
    """how many sites the pieces cover: the gradient is that of the mean over a site's own points"""
    differentiable: bool = True
    """False: the gradient is a number, not a function, to an outer derivative (first-order MAML)"""

    def error(self, latents: Latents) -> PerItem:
        """Mean squared error of each item over its valid points and channels."""
        parts: list[PerItem] = []
        for piece in self.pieces:
            residual = self.field(latents, piece.placement) - piece.targets
            parts.append((piece.weights * residual.square()).sum((-3, -2, -1)))
        return _total(parts)

    def gradient(self, latents: Latents) -> Latents:
        """Derivative of `sites * error`, summed over items: every item's gradient is its own.

        Differentiable in its turn: the outer loop of meta-learning goes through it.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            parts: list[Latents] = []
            for piece in self.pieces:
                features, pullback = self.field.vjp(latents, piece.placement)
                parts.append(pullback(2 * self.sites * piece.weights * (features - piece.targets)))
            return _total(parts)


def reconstruction(
    field: Field,
    placement: Placement,
    features: Features,
    valid: Features | None = None,
    *,
    chunk: int | None = None,
) -> Reconstruction:
    """Set a batch up for fitting, about `chunk` points at a time.

    `valid` is 1 where a value was measured and 0 where not; what `features` holds there does not matter as long as
    it is finite. An item without any valid value gets zero weights.
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


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
