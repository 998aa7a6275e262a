"""The inner loop: from a start, a few steps of a solver."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch.utils.checkpoint import checkpoint

from functaconv.fitting.reconstruction import Reconstruction
from functaconv.shapes import Latents, PerItem


@runtime_checkable
class Solver(Protocol):
    """How latents are fitted. A solver is an `nn.Module`: what it has learned belongs to the base."""

    steps: int

    def step(self, problem: Reconstruction, latents: Latents, number: int) -> Latents: ...
    def project(self) -> None: ...


@dataclass(frozen=True)
class Fit:
    """Latents fitted to a batch."""

    problem: Reconstruction
    latents: Latents

    @cached_property
    def error(self) -> PerItem:
        """Mean squared error of each item, in units of the normalised features."""
        return self.problem.error(self.latents)


def fit(
    problem: Reconstruction,
    start: Latents,
    solver: Solver,
    *,
    steps: int | None = None,
    second_order: bool = True,
    recompute: bool = False,
) -> Fit:
    """Fit latents from `start` (broadcast over items) by `steps` steps, by default as many as the solver was made for.

    Without `second_order` the steps count as constants in an outer derivative, while start and rates still learn.
    With `recompute` each step is run again in the backward pass instead of being kept in memory.
    """
    latents = start
    inner = problem if second_order else replace(problem, differentiable=False)
    for number in range(solver.steps if steps is None else steps):
        if recompute and torch.is_grad_enabled():
            latents = checkpoint(solver.step, inner, latents, number, use_reentrant=False)
        else:
            latents = solver.step(inner, latents, number)
    items = problem.pieces[0].targets.shape[0]
    return Fit(problem, latents.expand(items, -1, -1))
