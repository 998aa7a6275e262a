"""The gradient of the outer loop: that of a batch's mean error after the inner fit.

Model-agnostic meta-learning (Finn et al. 2017) of the shared network, with the inner fit differentiated through
(second order), as functa does. A Gauss-Newton base learns through one step first. Then, where its several steps have
converged, the outer loss is at its minimum in the latents, its derivative through them vanishes (the envelope
theorem; variable projection, Golub and Pereyra 1973), and the fit needs no graph.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.recipe import TrainingRecipe
from functaconv.shapes import Latents, PerItem
from functaconv.signals.batch import Batch
from functaconv.solvers import Problem
from functaconv.training.distributed import Group

# tensors of activation size, that forward and pullback of an inner step leave for the backward pass
TENSORS_PER_LAYER = 6
TENSORS_OF_FORWARD = 3
# bytes of activations, by kind of device, whatever is free at the moment: other parts of a batch are other sums
MEMORY = {"cpu": 2 << 30, "cuda": 8 << 30}
# updates through the graph before the inner fit is looked at again for convergence
RECHECK_AFTER = 20
# when only the size of a step matters
SLIGHT_DAMPING = 1e-3


class OuterGradients:
    """Computes the outer gradient of one update after another, in bounded memory."""

    def __init__(self, base: Base, training: TrainingRecipe, group: Group) -> None:
        self.base, self.training, self._group = base, training, group
        self.unconverged_until = 0
        self._memory = MEMORY[base.device.type]

    def descend(self, batches: Sequence[Batch], spent: float, updates: int) -> Tensor:
        """The mean error of all items; its gradient is left with the parameters. `updates` are made so far."""
        solver, training = self.base.solver, self.training
        if not solver.is_adaptive:
            return self._backward(batches, updates, solver.steps)
        is_one = solver.steps == 1 or (solver.solves_linear and self.base.field.is_linear)
        if is_one or spent < training.one_step or updates < self.unconverged_until:
            return self._backward(batches, updates, steps=1)
        if not training.envelope:
            return self._backward(batches, updates, min(solver.steps, training.unrolled_steps))
        loss, left = self._backward_at_minimum(batches, updates)
        if not left < training.converged:
            # what the latents still have to gain would be missing from the gradient
            self.unconverged_until = updates + RECHECK_AFTER
            return self._backward(batches, updates, steps=1)
        return loss

    def _backward(self, batches: Sequence[Batch], updates: int, steps: int) -> Tensor:
        """Through the inner fit; as many items at a time as fit into memory."""
        self.base.zero_grad(set_to_none=True)
        count, total = sum(map(len, batches)), self.base.start.new_zeros(())
        for batch in batches:
            inner, outer = self._points(batch, updates)
            together, recompute = self._room(batch, inner, outer, steps)
            for part in _parts(batch, together):
                # where only a correction learns, all updates begin with the same step
                is_known = inner is None and self.base.field.is_corrected
                problem = self.base.prepared(part) if is_known else self.base.problem(part, points=inner)
                fitted = self.base.fit(
                    problem, steps=steps, second_order=self.training.second_order, recompute=recompute
                )
                error = fitted.error if outer is inner else self.base.problem(part, points=outer).error(fitted.latents)
                loss = error.sum() / count
                torch.autograd.backward(loss)
                total += loss.detach()
        return total

    def _backward_at_minimum(self, batches: Sequence[Batch], updates: int) -> tuple[Tensor, float]:
        """With the fitted latents held fixed; and how much of the error another Gauss-Newton step would take away.

        The fit sees all points: the outer loss on some of them then has, on average, the same minimum.
        """
        self.base.zero_grad(set_to_none=True)
        count, (total, gain) = sum(map(len, batches)), self.base.start.new_zeros(2)
        for batch in batches:
            _, outer = self._points(batch, updates)
            together, _ = self._room(batch, None, outer, 1)
            chunk = self.base.chunk(max(1, min(together, len(batch))))
            for part in _parts(batch, together):
                with torch.no_grad():
                    fitted = self.base.fit(self.base.problem(part, chunk=chunk), careful=True)
                latents = fitted.latents.detach().requires_grad_()
                loss = self.base.problem(part, points=outer).error(latents).sum() / count
                torch.autograd.backward(loss)
                assert latents.grad is not None
                gain += decrement(fitted.problem, self.base.start, latents.grad * (count / 2)).sum() / count
                total += loss.detach()
        # all ranks must go on alike
        gained, error = self._group.sum(torch.stack([gain, total]) * count)
        return total, float(gained / error)

    def _points(self, batch: Batch, updates: int) -> tuple[Tensor | None, Tensor | None]:
        """Points of the inner fit and of the outer loss, the same for all items; None for all points.

        They are a function of seed and update alone: a run that is stopped goes on as if it had not been.
        """
        training, count = self.training, batch.values.shape[1]
        generator = torch.Generator().manual_seed((training.seed << 32) + updates)
        if self.base.is_coupled:
            return None, None
        if self.base.field.sites.count > 1:
            if training.inner_points is None or training.inner_points >= count:
                return None, None
            # where points are drawn
            placement = self.base.placement(batch.grid, torch.device("cpu"))
            cells = len(placement.index)
            chosen = torch.randperm(cells, generator=generator)[: max(1, training.inner_points * cells // count)]
            index = placement.index[chosen]
            if placement.valid is not None:
                index = index[placement.valid[chosen, :, 0] > 0]
            # the fit of a cell says nothing about points elsewhere: inner and outer points are the same
            return (points := index.flatten()), points
        return tuple(  # type: ignore[return-value]
            None if wanted is None or wanted >= count else torch.randperm(count, generator=generator)[:wanted]
            for wanted in (training.inner_points, training.outer_points)
        )

    def _room(self, batch: Batch, inner: Tensor | None, outer: Tensor | None, steps: int) -> tuple[int, bool]:
        """How many items go together, and whether their inner steps are recomputed in the backward pass.

        The batch is taken in parts, as its gradient is a sum over items; steps are recomputed where not even one fits.
        """
        count = batch.values.shape[1]
        network, axes = self.base.field.network, self.base.axes
        # of a linear network what is seen through each window is kept, nothing of its width
        numbers = axes.channels * 2**axes.dims if network.is_linear else network.width * network.layers
        layer = 4 * numbers
        seen = count if inner is None else len(inner)
        step = TENSORS_PER_LAYER * layer * seen
        if self.base.solver.needs_jacobian and steps > 1 and not network.is_linear:
            # every step after the shared first one leaves a Jacobian, and its sweeps
            rows = 4 * self.base.read_numbers * axes.channels
            sweeps = self.base.read_numbers if network.forward_mode else axes.channels
            step += (TENSORS_PER_LAYER * sweeps * layer + 2 * rows) * seen
        last = TENSORS_OF_FORWARD * layer * (count if outer is None else len(outer))
        whole, wish = steps * step + last, self.training.recompute
        recompute = wish == "yes" or (wish == "auto" and whole > self._memory)
        return max(1, self._memory // (step + last if recompute else whole)), recompute


@torch.no_grad()
def decrement(problem: Problem, start: Latents, jt_residual: Latents) -> PerItem:
    """By how much one more Gauss-Newton step would lower each item's error, to first order (Newton's decrement), from
    `jt_residual` at the fitted latents. Measured with the normal matrix at the start.
    """
    step = problem.normal_equations(start).normal_matrix.damped(SLIGHT_DAMPING).solve(jt_residual)
    return (jt_residual * step).sum((1, 2))


def _parts(batch: Batch, together: int) -> Iterator[Batch]:
    for start in range(0, len(batch), together):
        yield batch.items(slice(start, start + together))
