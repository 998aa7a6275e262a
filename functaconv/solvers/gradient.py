"""Gradient descent with learned rates: meta-SGD (Li et al. 2017) on latents, as functa uses it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from functaconv.networks.initial import uniform
from functaconv.shapes import Latents, PerItem
from functaconv.solvers.linearization import Gradient
from functaconv.solvers.problem import Problem
from functaconv.solvers.solver import Solver


class GradientDescent(Solver):
    """`latents - rate * gradient`, one rate per latent dimension and, when `per_step`, per step.

    Rates start uniformly in `initial`, are learned in the outer loop by an optimiser group of their own, and are
    kept within `limits`. Steps beyond those trained use the last step's rates. Learned steps are taken as they were
    learned, also one that makes an item worse for a moment: the solver is not adaptive.
    """

    settings = ("per_step", "initial", "limits")
    """what a recipe may say of it"""

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
        super().__init__(steps)
        self.limits = limits
        low, high = initial
        rates = uniform(steps if per_step else 1, latent, low=low, high=high, generator=generator)
        self.rates = nn.Parameter(rates)

    def step(self, problem: Problem, view: Gradient, number: int, damping_scale: PerItem | None = None) -> Latents:
        """A step against the gradient."""
        return self._rate(number) * problem.steepest_descent(view)

    @torch.no_grad()
    def project(self) -> None:
        """Bring the rates back within their limits, after an outer update."""
        self.rates.clamp_(*self.limits)

    def _rate(self, number: int) -> Float[Tensor, " latent"]:
        return self.rates[min(number, len(self.rates) - 1)]
