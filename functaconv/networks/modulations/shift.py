"""Shifts, as in functa (Dupont et al. 2022)."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from functaconv.networks.modulations.modulation import Layer, Modulation


class Shift(Modulation):
    """`x W' + b + shift`: n numbers for a layer of width n."""

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return (layer.fan_out,)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        return functional.linear(x, weight, bias) + numbers[0]
