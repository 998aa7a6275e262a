"""Scales and shifts of what the activation gives: INR-GAN's AdaIN (Skorokhodov et al. 2021)."""

from collections.abc import Sequence

from torch import Tensor

from functaconv.networks.modulations.modulation import Layer, Modulation


class AdaIN(Modulation):
    """`2 sigmoid(scale) activation(x W' + b) + shift`, without statistics of the item: 2 n numbers."""

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return layer.fan_out, layer.fan_out

    def activated(self, values: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, scale = numbers
        return values * (2 * scale.sigmoid()) + shift
