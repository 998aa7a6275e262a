"""The nonlinear part of a latent map: a small convolutional network over the sites.

What it adds to the linear map's modulations costs so much per site, not per point, as the mapping network of INR-GAN
(Skorokhodov et al. 2021) does; it sees the sites around each, as the latent map of Spatial Functa (Bauer et al. 2023).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from functaconv.networks.convolutions import Convolutions
from functaconv.networks.sites import SiteGrid
from functaconv.shapes import Latents, Modulations

DEPTH = 2
"""layers of the network, the linear output left out"""


class Correction(nn.Module):
    """Convolutions over the sites: `[item, site, latent]` to `[item, site, modulation]`.

    Each modulation is multiplied by its `scale`, and each number of a latent divided by its `spread` before.
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
        self.shape = sites.shape
        self.network = Convolutions(
            latent, width, len(scale), axes=len(sites.shape), depth=DEPTH, is_closed=sites.is_closed,
            generator=generator,
        )  # fmt: skip
        self.register_buffer("scale", scale.clone())
        self.register_buffer("spread", torch.ones(latent))

    def forward(self, latents: Latents) -> Modulations:
        """What is added to the modulations of every site."""
        seen = (latents / self.spread).mT.reshape(len(latents), -1, *self.shape)
        added: Tensor = self.network(seen).flatten(2).mT * self.scale
        return added

    @torch.no_grad()
    def substitute(self, matrix: Float[Tensor, "latent latent"]) -> None:
        """Become the same map of other latents, of which the present ones are `matrix @ other`."""
        first = self.network.layers[0]
        weight = (first.reshape(len(first), len(matrix), -1) / self.spread[:, None]).to(matrix.dtype)
        first.copy_(torch.einsum("wls,lk->wks", weight, matrix).flatten(1))
        self.spread.fill_(1.0)

    def tensors_of_first(self, keep: int) -> dict[str, Tensor]:
        """Its tensors, by name, as a map of the first `keep` numbers of each latent; the others are zero."""
        taps = 3 ** len(self.shape)
        return {"network.layers.0": self.network.layers[0][:, : keep * taps], "spread": self.spread[:keep]}
