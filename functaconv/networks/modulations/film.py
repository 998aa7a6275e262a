"""Scales and shifts: feature-wise linear modulation (Perez et al. 2018)."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from functaconv.networks.modulations.modulation import Layer, Modulation


class Film(Modulation):
    """`(1 + scale) (x W' + b) + shift`: 2 n numbers."""

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return layer.fan_out, layer.fan_out

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, scale = numbers
        return functional.linear(x, weight, bias) * (1 + scale) + shift
