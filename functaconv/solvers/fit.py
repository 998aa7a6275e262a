"""The inner loop: from a start, a few steps of a solver."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch.utils.checkpoint import checkpoint

from functaconv.shapes import Latents, PerItem
from functaconv.solvers.problem import Reconstruction, Slope

MORE_TRUST, LESS_TRUST = 3.0, 0.1
"""what an accepted and a rejected step make of the trust in an item's next one"""


@runtime_checkable
class Solver(Protocol):
    """How latents are fitted. A solver is an `nn.Module`: what it has learned belongs to the base."""

    steps: int

    @property
    def is_adaptive(self) -> bool: ...
    def prepare(self, problem: Reconstruction) -> None: ...
    def look(self, problem: Reconstruction, latents: Latents) -> Slope: ...
    def move(self, problem: Reconstruction, view: Slope, number: int, trust: PerItem | None = None) -> Latents: ...
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
    inner = problem if second_order else problem.as_numbers()
    # what all steps share is computed outside of them: a step that is recomputed must find what it found before
    solver.prepare(inner)

    def step(latents: Latents, number: int) -> Latents:
        return latents + solver.move(inner, solver.look(inner, latents), number)

    for number in range(solver.steps if steps is None else steps):
        if recompute and torch.is_grad_enabled():
            latents = checkpoint(step, latents, number, use_reentrant=False)
        else:
            latents = step(latents, number)
    return Fit(problem, latents.expand(problem.items, -1, -1))


@torch.no_grad()
def best_fit(
    problem: Reconstruction, start: Latents, solver: Solver, *, steps: int, min_gain: float | None = None
) -> Fit:
    """Fit latents by up to `steps` steps, of which each item keeps its best: more steps never make it worse.

    An adaptive solver goes back after a step that made an item worse and takes a smaller one, as Levenberg and
    Marquardt did. With `min_gain` (dB) an item is done when a step has brought it less than that; here, and only
    here, every step waits for the device.
    """
    latents, view = start.expand(problem.items, -1, -1), solver.look(problem, start)
    error, trust = view.error, torch.ones_like(view.error)
    whole = problem
    best, best_error = latents.clone(), error
    # the items still on their way, by their place in the batch
    active = torch.arange(problem.items, device=latents.device)
    for number in range(steps):
        ahead = latents + solver.move(problem, view, number, trust if number else None)
        last = number == steps - 1
        there = Slope(ahead, problem.error(ahead)) if last else solver.look(problem, ahead)
        better = there.error < best_error[active]
        best = best.index_copy(0, active, torch.where(better[:, None, None], ahead, best[active]))
        gain = 10 * torch.log10(best_error[active] / there.error)
        best_error = best_error.index_copy(0, active, torch.where(better, there.error, best_error[active]))
        if last:
            break
        if solver.is_adaptive:
            latents = torch.where(better[:, None, None], ahead, latents)
            view = there.where(better, view)
            trust = torch.where(better, MORE_TRUST * trust, LESS_TRUST * trust)
        else:
            latents, view = ahead, there
        if min_gain is not None:
            # a step taken back says nothing about the next, smaller one, unless it was tiny already
            going = torch.where(better, gain >= min_gain, trust > LESS_TRUST**7)
            if not bool(going.all()):
                chosen = going.nonzero()[:, 0]
                if not len(chosen):
                    break
                active, latents, trust = active[chosen], latents[chosen], trust[chosen]
                view, problem = view.select(chosen), problem.select(chosen)
    return Fit(whole, best)
