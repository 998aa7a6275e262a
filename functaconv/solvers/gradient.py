"""Gradient descent with learned rates: meta-SGD (Li et al. 2017) on latents, as functa uses it."""

from typing import Literal

import torch
from pydantic import field_validator
from pydantic.dataclasses import dataclass
from torch import nn

from functaconv.networks.initial import uniform
from functaconv.options import STRICT, NotNegative, Positive, Steps
from functaconv.shapes import Latents, PerItem
from functaconv.solvers.linearization import Gradient
from functaconv.solvers.problem import Problem
from functaconv.solvers.solver import Solver, SolverOptions


@dataclass(frozen=True, config=STRICT)
class GradientOptions(SolverOptions):
    """Gradient steps with learned rates."""

    kind: Literal["gradient"] = "gradient"
    steps: Steps = 3
    """steps that the base learns for, and that encode takes"""
    per_step: bool = True
    """learn the rates of each step on their own"""
    initial: tuple[Positive, Positive] = (0.5, 0.5)
    """between which the rates begin"""
    limits: tuple[NotNegative, Positive] = (1e-6, 10.0)
    """between which the rates stay"""

    @field_validator("initial", "limits")
    @classmethod
    def _is_ordered(cls, span: tuple[float, float]) -> tuple[float, float]:
        if span[0] > span[1]:
            raise ValueError(f"the span runs from {span[0]:g} down to {span[1]:g}")
        return span


class GradientDescent(Solver):
    """`latents - rate * gradient`, one rate per latent dimension and, when `per_step`, per step.

    Rates start uniformly in `initial`, are learned in the outer loop by an optimiser group of their own, and are
    kept within `limits`. Steps beyond those trained use the last step's rates. Learned steps are taken as they were
    learned, also one that makes an item worse for a moment: the solver is not adaptive.
    """

    Options = GradientOptions

    def __init__(self, latent: int, options: GradientOptions, *, generator: torch.Generator | None) -> None:
        super().__init__(options.steps)
        self.limits = options.limits
        low, high = options.initial
        count = options.steps if options.per_step else 1
        self.rates = nn.Parameter(uniform(count, latent, low=low, high=high, generator=generator))

    def step(self, problem: Problem, view: Gradient, number: int, damping_scale: PerItem | None = None) -> Latents:
        """A step against the gradient."""
        return self.rates[min(number, len(self.rates) - 1)] * problem.steepest_descent(view)

    @torch.no_grad()
    def project(self) -> None:
        """Bring the rates back within their limits, after an outer update."""
        self.rates.clamp_(*self.limits)
