"""Modulations with a number for every weight, and weights of low rank: what INR-GAN's table compares."""

from collections.abc import Sequence

import torch
from torch import Tensor

from functaconv.networks.modulations.modulation import Layer, Modulation, factors, gated, normal, times

USUAL_RANK = 10


class Gated(Modulation):
    """Squeeze-and-excitation of a weight: `W 2 sigmoid(S)`, S of full size, and a bias: n^2 + n numbers."""

    forms_matrix = True

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return layer.fan_out, layer.fan_out * layer.fan_in

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, scales = numbers
        return times(x, weight * gated(scales.reshape(*scales.shape[:-1], *weight.shape), "sigmoid")) + bias + shift


class Hyper(Modulation):
    """A weight that is generated, as by a hypernetwork (Ha et al. 2017), and a bias: n^2 + n numbers, in units of the
    weight's deviation at the beginning. The weight that all items share is what is generated for a zero latent.
    """

    forms_matrix = True

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        return layer.fan_out, layer.fan_out * layer.fan_in

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, own = numbers
        return times(x, weight + self.layer.deviation * own.reshape(*own.shape[:-1], *weight.shape)) + bias + shift


class Factorized(Modulation):
    """A generated weight of low rank, `A B / sqrt r`, and a bias: 2 n r + n numbers."""

    forms_matrix = True
    has_weight = False

    @staticmethod
    def sizes(layer: Layer) -> tuple[int, ...]:
        rank = layer.rank or USUAL_RANK
        return layer.fan_out, layer.fan_out * rank, rank * layer.fan_in

    def __init__(self, layer: Layer, *, generator: torch.Generator | None) -> None:
        super().__init__(layer, generator=generator)
        self.rank = layer.rank or USUAL_RANK
        _, left, right = self.sizes(layer)
        self.left = normal(left, deviation=1.0, generator=generator)
        self.right = normal(right, deviation=1.0, generator=generator)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, own_left, own_right = numbers
        left, right = factors(self.layer, self.rank, self.left + own_left, self.right + own_right)
        return times(times(x, self.layer.deviation * right), left) + bias + shift
