"""The inner loop: from a start, a few steps of a solver."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.utils.checkpoint import checkpoint

from functaconv.shapes import Latents, PerItem
from functaconv.solvers.linearization import Gradient
from functaconv.solvers.problem import Problem
from functaconv.solvers.solver import Solver

# by what the damping of an item's next step is multiplied after a step that helped, and after one that did not
DAMP_LESS, DAMP_MORE = 1 / 3, 10.0
# an item whose steps were taken back so many times in a row is done
MOST_RETRIES = 7


@dataclass(frozen=True)
class Fit:
    """Latents fitted to a batch."""

    problem: Problem
    latents: Latents

    @cached_property
    def error(self) -> PerItem:
        """Mean squared error of each item, in units of the normalised features."""
        return self.problem.error(self.latents)


def fit(
    problem: Problem,
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
    # what all steps share is computed outside of them, so that a step that is recomputed meets the same values
    solver.prepare(inner)

    def stepped(latents: Latents, moved: Latents, number: int) -> tuple[Latents, Latents]:
        step = solver.step(inner, solver.linearize(inner, latents), number)
        moved = solver.going_on(step, moved, number)
        return latents + moved, moved

    moved = torch.zeros_like(start)

    for number in range(solver.steps if steps is None else steps):
        if recompute and torch.is_grad_enabled():
            # nothing random happens in a step: the state of a generator, which a GPU would be waited for, is not needed
            latents, moved = checkpoint(stepped, latents, moved, number, use_reentrant=False, preserve_rng_state=False)
        else:
            latents, moved = stepped(latents, moved, number)
    return Fit(problem, latents.expand(problem.items, -1, -1))


@torch.no_grad()
def best_fit(problem: Problem, start: Latents, solver: Solver, *, steps: int, min_gain: float | None = None) -> Fit:
    """Fit latents by up to `steps` steps, of which each item keeps its best: more steps never make it worse.

    An adaptive solver goes back after a step that made an item worse and takes a smaller one, as Levenberg and
    Marquardt did. With `min_gain` (dB) an item is done when a step has brought it less than that; only then every step
    waits for the device.
    """
    latents, view = start.expand(problem.items, -1, -1), solver.linearize(problem, start)
    error, damping_scale = view.error, torch.ones_like(view.error)
    moved = torch.zeros_like(latents)
    whole = problem
    best, best_error = latents.clone(), error
    # the items that still take steps, by their index in the batch
    active = torch.arange(problem.items, device=latents.device)
    for number in range(steps):
        step = solver.step(problem, view, number, damping_scale if number else None)
        moved = solver.going_on(step, moved, number)
        ahead = latents + moved
        last = number == steps - 1
        there = Gradient(ahead, problem.error(ahead)) if last else solver.linearize(problem, ahead)
        better = there.error < best_error[active]
        best = best.index_copy(0, active, torch.where(better[:, None, None], ahead, best[active]))
        gain = 10 * torch.log10(best_error[active] / there.error)
        best_error = best_error.index_copy(0, active, torch.where(better, there.error, best_error[active]))
        if last:
            break
        if solver.is_adaptive:
            latents = torch.where(better[:, None, None], ahead, latents)
            view = there.where(better, view)
            damping_scale = torch.where(better, DAMP_LESS * damping_scale, DAMP_MORE * damping_scale)
        else:
            latents, view = ahead, there
        if min_gain is not None:
            # a step that was taken back says nothing about the next, smaller one, unless it was tiny already
            goes_on = torch.where(better, gain >= min_gain, damping_scale < DAMP_MORE**MOST_RETRIES)
            if not bool(goes_on.all()):
                chosen = goes_on.nonzero()[:, 0]
                if not len(chosen):
                    break
                active, latents, damping_scale = active[chosen], latents[chosen], damping_scale[chosen]
                moved = moved[chosen]
                view, problem = view.select(chosen), problem.select(chosen)
    return Fit(whole, best)
