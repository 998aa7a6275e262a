"""Modulations with a number for every weight, and weights of low rank: what INR-GAN's table compares."""

from collections.abc import Sequence

from torch import Tensor

from functaconv.networks.modulations.modulation import OfFullSize, OfLowRank, gated, times


class Gated(OfFullSize):
    """Squeeze-and-excitation of a weight: `W 2 sigmoid(S)`, S of full size, and a bias: n^2 + n numbers."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, scales = numbers
        return times(x, weight * gated(scales.reshape(*scales.shape[:-1], *weight.shape), "sigmoid")) + bias + shift


class Hyper(OfFullSize):
    """A weight that is generated, as by a hypernetwork (Ha et al. 2017), and a bias: n^2 + n numbers, in units of the
    weight's deviation at the beginning. The weight that all items share is what is generated for a zero latent.
    """

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, own = numbers
        return times(x, weight + self.layer.deviation * own.reshape(*own.shape[:-1], *weight.shape)) + bias + shift


class Factorized(OfLowRank):
    """A generated weight of low rank, `A B / sqrt r`, and a bias: 2 n r + n numbers."""

    has_weight = False
    draws_both = True

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, own_left, own_right = numbers
        left, right = self.factors(own_left, own_right)
        return times(times(x, self.layer.deviation * right), left) + bias + shift
