"""A change of the weight in few directions that all items share: the cheap multiplicative modulation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from functaconv.networks.modulations.modulation import Layer, Modulation, normal

USUAL_RANK = 32


class LowRank(Modulation):
    """`x W' + b + U diag(scale) V' x`, U and V shared: as many numbers as they have columns."""

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return (layer.rank or USUAL_RANK,)

    def __init__(self, layer: Layer, *, generator: torch.Generator | None) -> None:
        super().__init__(layer, generator=generator)
        (rank,) = self.sizes(layer)
        # scales of one are then a matrix as large as the weight
        size = layer.deviation / math.sqrt(rank)
        self.left = normal(layer.fan_out, rank, deviation=1.0, generator=generator)
        self.right = normal(rank, layer.fan_in, deviation=size, generator=generator)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        along = functional.linear(x, self.right) * numbers[0]
        return functional.linear(x, weight, bias) + functional.linear(along, self.left)
