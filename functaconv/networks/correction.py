"""The nonlinear part of a latent map: a small convolutional network over the sites.

What it adds to the linear map's modulations costs so much per site, not per point, as the mapping network of INR-GAN
(Skorokhodov et al. 2021) does; it sees the sites around each, as the latent map of Spatial Functa (Bauer et al. 2023).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from functaconv.networks.convolutions import convolved
from functaconv.networks.initial import uniform
from functaconv.networks.sites import SiteGrid
from functaconv.shapes import Latents, Modulations


class Correction(nn.Module):
    """Two convolutions over a site's neighbourhood (three sites along every axis), then a linear layer: `[item, site,
    latent]` to `[item, site, modulation]`.

    Without biases, so that a zero latent is mapped to zero; the last layer begins at zero. Beyond the border its site
    is repeated; a closed axis goes on at its other end. Each modulation is multiplied by its `scale`, and each number
    of a latent divided by its `spread` before.
    """

    scale: Tensor
    spread: Tensor

    def __init__(
        self,
        sites: SiteGrid,
        latent: int,
        width: int,
        scale: Float[Tensor, " modulation"],
        *,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.shape, self.is_closed = sites.shape, sites.is_closed
        self.taps = 3 ** len(sites.shape)
        fans = [latent * self.taps, width * self.taps]
        self.layers = nn.ParameterList(
            uniform(width, fan_in, low=-(fan_in**-0.5), high=fan_in**-0.5, generator=generator) for fan_in in fans
        )
        self.out = nn.Parameter(torch.zeros(len(scale), width))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("spread", torch.ones(latent))

    def forward(self, latents: Latents) -> Modulations:
        """What is added to the modulations of every site."""
        hidden = (latents / self.spread).mT.reshape(len(latents), -1, *self.shape)
        for weight in self.layers:
            hidden = functional.gelu(convolved(hidden, weight, is_closed=self.is_closed))
        added: Tensor = hidden.flatten(2).mT @ self.out.T * self.scale
        return added

    @torch.no_grad()
    def substitute(self, matrix: Float[Tensor, "latent latent"]) -> None:
        """Become the same map of other latents, of which the present ones are `matrix @ other`."""
        first = self.layers[0]
        weight = (first.reshape(len(first), len(matrix), -1) / self.spread[:, None]).to(matrix.dtype)
        first.copy_(torch.einsum("wls,lk->wks", weight, matrix).flatten(1))
        self.spread.fill_(1.0)

    def tensors_of_first(self, keep: int) -> dict[str, Tensor]:
        """Its tensors, by name, as a map of the first `keep` numbers of each latent; the others are zero."""
        return {"layers.0": self.layers[0][:, : keep * self.taps], "spread": self.spread[:keep]}
