"""Gates on a weight, of low rank: the factorized multiplicative modulation of INR-GAN (Skorokhodov et al. 2021)."""

from collections.abc import Sequence

from torch import Tensor

from functaconv.networks.modulations.modulation import OfLowRank, gated, times


class FMM(OfLowRank):
    """A weight `W (1 + tanh(A B / sqrt r))`, or `W 2 sigmoid(A B / sqrt r)`, entry by entry, and a bias: 2 n r + n
    numbers. Without the shared part of A a zero latent would have no derivative.
    """

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        shift, own_left, own_right = numbers
        left, right = self.factors(own_left, own_right)
        return times(x, weight * gated(left @ right, self.layer.gate)) + bias + shift
