"""Gradient descent with learned rates: meta-SGD (Li et al. 2017) on latents, as functa uses it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from functaconv.fitting.reconstruction import Reconstruction
from functaconv.shapes import Latents


class GradientDescent(nn.Module):
    """`latents - rate * gradient`, one rate per latent dimension and, when `per_step`, per step.

    Rates start uniformly in `initial`, are learned in the outer loop by an optimiser group of their own, and are
    kept within `limits`. Steps beyond those trained use the last step's rates.
    """

    def __init__(
        self,
        latent: int,
        *,
        steps: int = 3,
        per_step: bool = True,
        initial: tuple[float, float] = (0.005, 0.1),
        limits: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.steps, self.limits = steps, limits
        self.rates = nn.Parameter(torch.empty(steps if per_step else 1, latent).uniform_(*initial, generator=generator))

    def step(self, problem: Reconstruction, latents: Latents, number: int) -> Latents:
        """The latents after one more step; `number` counts from 0."""
        return latents - self._rate(number) * problem.gradient(latents)

    @torch.no_grad()
    def project(self) -> None:
        """Bring the rates back within their limits, after an outer update."""
        self.rates.clamp_(*self.limits)

    def _rate(self, number: int) -> Float[Tensor, " latent"]:
        return self.rates[min(number, len(self.rates) - 1)]
