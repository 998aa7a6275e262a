"""Gates on a weight, of low rank: the factorized multiplicative modulation of INR-GAN (Skorokhodov et al. 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from functaconv.networks.modulations.modulation import Layer, Modulation, factors, gated, normal, times

USUAL_RANK = 10


class FMM(Modulation):
    """A weight `W (1 + tanh(A B / sqrt r))`, or `W 2 sigmoid(A B / sqrt r)`, entry by entry, and a bias: 2 n r + n
    numbers.

    A and B are a part that all items share, and the numbers. Without the first a zero latent would have no derivative:
    A begins as N(0, 1), B as 0.
    """

    forms_matrix = True

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        rank = layer.rank or USUAL_RANK
        return layer.fan_out, layer.fan_out * rank, rank * layer.fan_in

    def __init__(self, layer: Layer, *, generator: torch.Generator | None) -> None:
        super().__init__(layer, generator=generator)
        self.rank = layer.rank or USUAL_RANK
        _, left, right = self.sizes(layer)
        self.left = normal(left, deviation=1.0, generator=generator)
        self.right = nn.Parameter(torch.zeros(right))

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, own_left, own_right = numbers
        left, right = factors(self.layer, self.rank, self.left + own_left, self.right + own_right)
        return times(x, weight * gated(left @ right, self.layer.gate)) + bias + shift
