"""Scales of a weight's rows, a shift of each row, and of the bias: mFiLM (Zhao et al. 2020) as INR-GAN has it."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from functaconv.networks.modulations.modulation import Layer, Modulation

# of INR-GAN: how much weaker numbers act than weights
DAMPED = 0.1


class MFilm(Modulation):
    """A weight `(1 + scale / 10) W + shift / 10 (1 ... 1)`, the shift in units of the weight's deviation at the
    beginning, and a bias: 3 n numbers. The matrix is never formed.
    """

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return layer.fan_out, layer.fan_out, layer.fan_out

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        own_bias, scale, shift = numbers
        rows = functional.linear(x, weight) * (1 + DAMPED * scale)
        return rows + x.sum(-1, keepdim=True) * (DAMPED * self.layer.deviation * shift) + bias + DAMPED * own_bias
