"""What a modulation is: how an item's numbers change a layer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Gate = Literal["tanh", "sigmoid"]
# of matrices, unless another is asked for
USUAL_RANK = 10


@dataclass(frozen=True)
class Layer:
    """The layer that is modulated."""

    fan_in: int
    fan_out: int
    deviation: float
    """of the weights at the beginning"""
    rank: int = 0
    """of generated matrices; 0: as suits the modulation"""
    gate: Gate = "tanh"
    coords: int = 0
    """coordinates of a point, where they matter to the layer"""


class Modulation(nn.Module, ABC):
    """Changes a layer, `activation(x W' + b)`, by numbers that differ from item to item, and from cell to cell.

    Numbers come as `[item, cell, point or 1, number]`, values as `[(item,) cell, point, number]`. Numbers of zero may
    leave the layer as it is; what all items share (the biases of the map from latents to numbers) is learned here.
    """

    forms_matrix: ClassVar[bool] = False
    """a matrix is formed for each item and cell: not for cells of few points"""
    has_weight: ClassVar[bool] = True
    """the layer has a matrix that all items share"""

    @staticmethod
    @abstractmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        """How many numbers of each kind (scales, shifts, ...) the layer takes."""

    def __init__(self, layer: Layer, *, generator: torch.Generator | None) -> None:
        super().__init__()
        self.layer = layer

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """The layer's values before the activation."""
        return functional.linear(x, weight, bias)

    def activated(self, values: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """The layer's values, from those that the activation gives."""
        return values


class Unmodulated(Modulation):
    """The same layer for all items."""

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return ()


class OfFullSize(Modulation):
    """With a number for every weight, and a bias: n^2 + n numbers."""

    forms_matrix = True

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return layer.fan_out, layer.fan_out * layer.fan_in


class OfLowRank(Modulation):
    """With a matrix A B / sqrt r of rank r, and a bias: 2 n r + n numbers.

    A and B are a part that all items share, and the numbers. A begins as N(0, 1), B as 0 unless it is drawn likewise.
    """

    forms_matrix = True
    draws_both: ClassVar[bool] = False

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        rank = layer.rank or USUAL_RANK
        return layer.fan_out, layer.fan_out * rank, rank * layer.fan_in

    def __init__(self, layer: Layer, *, generator: torch.Generator | None) -> None:
        super().__init__(layer, generator=generator)
        self.rank = layer.rank or USUAL_RANK
        _, left, right = self.sizes(layer)
        self.left = normal(left, deviation=1.0, generator=generator)
        zero = nn.Parameter(torch.zeros(right))
        self.right = normal(right, deviation=1.0, generator=generator) if self.draws_both else zero

    def factors(
        self, own_left: Tensor, own_right: Tensor
    ) -> tuple[Float[Tensor, "*any out rank"], Float[Tensor, "*any rank in"]]:
        """A / sqrt(r) and B of items with these numbers."""
        left, right = self.left + own_left, self.right + own_right
        return (
            left.reshape(*left.shape[:-1], self.layer.fan_out, self.rank) / math.sqrt(self.rank),
            right.reshape(*right.shape[:-1], self.rank, self.layer.fan_in),
        )


def normal(*shape: int, deviation: float, generator: torch.Generator | None) -> nn.Parameter:
    """Drawn from a normal distribution; without a generator whatever the memory holds, to be loaded over."""
    values = torch.empty(*shape)
    return nn.Parameter(values if generator is None else values.normal_(std=deviation, generator=generator))


def times(x: Tensor, matrix: Float[Tensor, "item cell #point out in"]) -> Float[Tensor, "item cell point out"]:
    """Products with a matrix of each item and cell, or, where there are so many, of each point."""
    if matrix.shape[2] == 1:
        return x @ matrix[:, :, 0].mT
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def gated(values: Tensor, gate: Gate) -> Tensor:
    """A factor around one: between 0 and 2, and 1 for zero."""
    return 1 + values.tanh() if gate == "tanh" else 2 * values.sigmoid()
