"""The smallest solver there can be: options and a step. All else comes from `Solver`."""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from functaconv.options import STRICT, Positive, Steps
from functaconv.solvers import Problem, Solver, SolverOptions
from functaconv.solvers.linearization import Gradient


@dataclass(frozen=True, config=STRICT)
class ToyOptions(SolverOptions):
    """Gradient steps of one fixed length."""

    kind: Literal["toy"] = "toy"
    steps: Steps = 4
    """steps that the base learns for, and that encode takes"""
    rate: Positive = 0.5
    """of all steps"""


class Toy(Solver):
    """`latents - rate * gradient`."""

    Options = ToyOptions

    def __init__(self, latent: int, options: ToyOptions, *, generator: torch.Generator | None) -> None:
        super().__init__(options.steps)
        self.rate = options.rate

    def step(self, problem: Problem, view: Gradient, number: int, damping_scale: Tensor | None = None) -> Tensor:
        return self.rate * problem.steepest_descent(view)
