"""A small network between a latent and the linear map to modulations, as StyleGAN has it."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from functaconv.networks.initial import uniform
from functaconv.shapes import Latents


class Mapping(nn.Module):
    """Layers of SiLU, each of a site alone: `[item, site, latent]` to `[item, site, number]`.

    Weights start U(±1/sqrt(fan_in)), biases at zero.
    """

    def __init__(self, latent: int, width: int, layers: int, *, generator: torch.Generator | None) -> None:
        super().__init__()
        self.width = width
        self.weights = nn.ParameterList(
            uniform(out, fan_in, low=-(fan_in**-0.5), high=fan_in**-0.5, generator=generator)
            for fan_in, out in pairwise([latent, *[width] * layers])
        )
        self.biases = nn.ParameterList(torch.zeros(width) for _ in range(layers))

    def forward(self, latents: Latents) -> Float[Tensor, "item site number"]:
        values = latents
        for weight, bias in zip(self.weights, self.biases, strict=True):
            values = functional.silu(functional.linear(values, weight, bias))
        return values

    def jacobian(self, latents: Latents) -> Float[Tensor, "item site number latent"]:
        """The derivative of each number by each of the latent."""
        values: Tensor = latents
        rows: Tensor | None = None
        for weight, bias in zip(self.weights, self.biases, strict=True):
            before = functional.linear(values, weight, bias)
            sigmoid = before.sigmoid()
            slope = sigmoid * (1 + before * (1 - sigmoid))
            values = before * sigmoid
            rows = slope[..., None] * (weight if rows is None else weight @ rows)
        assert rows is not None
        return rows

    @torch.no_grad()
    def substitute(self, matrix: Float[Tensor, "latent latent"], constant: Float[Tensor, " latent"]) -> None:
        """Become the same map of other latents, of which the present ones are `matrix @ other + constant`."""
        weight, bias = self.weights[0], self.biases[0]
        bias.copy_(bias + weight.to(matrix.dtype) @ constant)
        weight.copy_(weight.to(matrix.dtype) @ matrix)
