"""The outer loop's arithmetic: one update after another, without files or clocks.

Model-agnostic meta-learning (Finn et al. 2017) of the shared network, with the inner fit differentiated through
(second order), as functa does. A Gauss-Newton base learns through one step first. Then, where its several steps have
converged, the outer loss is at its minimum in the latents, its derivative through them vanishes (the envelope
theorem; variable projection, Golub and Pereyra 1973), and the fit needs no graph.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from functaconv.base import Base
from functaconv.errors import FunctaconvError
from functaconv.parallel import Ensemble
from functaconv.recipe import TrainingRecipe
from functaconv.signals.batch import Batch
from functaconv.signals.mixup import mixed

MOST_SKIPS = 5
"""updates in a row without a finite gradient before the run goes back to its last good state"""
MOST_ROLLBACKS = 5
KEEP_GOOD_EVERY = 50
"""updates"""
TENSORS_PER_LAYER = 6
"""of activation size, that forward and pullback of an inner step leave for the backward"""
TENSORS_OF_FORWARD = 3
MEMORY = {"cpu": 2 << 30, "cuda": 8 << 30}
"""bytes for activations, by kind of device: not of what is free at the moment, or a run that goes on would sum up other
parts of a batch"""
RECHECK_AFTER = 20
"""updates through the graph before the inner fit is looked at again for convergence"""
_COUNTS = ("updates", "skipped", "rollbacks", "slowdown", "unconverged_until")


class Learner:
    """A base that learns, and its moving average, which is what will be exported.

    Where several learn together each has a share of every batch's items, and all make the same updates.
    """

    def __init__(self, base: Base, training: TrainingRecipe, ensemble: Ensemble | None = None) -> None:
        self.base, self.training, self.ensemble = base, training, ensemble or Ensemble()
        self.average = deepcopy(base).requires_grad_(False)
        solver = list(base.solver.parameters())
        own = {id(parameter) for parameter in solver}
        self._shared = [parameter for parameter in base.parameters() if id(parameter) not in own]
        self._solver = solver
        self._optimizers = _optimizers(base, self._shared, solver, training)
        self.updates, self.skipped, self.rollbacks, self.slowdown = 0, 0, 0, 1.0
        self.unconverged_until = 0
        self._skipped_in_a_row = 0
        self._memory = MEMORY[base.device.type]
        self._good = self._snapshot()

    def rate(self, spent: float) -> float:
        """The network's rate when a fraction of the budget is spent."""
        return self.training.rate * self._schedule(spent) * self.slowdown

    def update(self, batch: Batch, spent: float) -> tuple[float, float]:
        """Learn from a batch; its mean squared error after the inner fit, and the norm of the outer gradient.

        An update whose gradient is not finite is left out (its norm is NaN); after several in a row the learner goes
        back to its last good state, at half the rate.
        """
        for group in self._groups():
            group["lr"] = group["full_rate"] * self._schedule(spent) * self.slowdown
        share = self._varied(batch).items(self.ensemble.share(len(batch)))
        loss = self._joined(self._descend(share, spent), len(share) / len(batch))
        norm = nn.utils.clip_grad_norm_(self._shared, self.training.clip or math.inf)
        norms = [nn.utils.get_total_norm(own)] if (own := [p.grad for p in self._solver if p.grad is not None]) else []
        # the one moment an update waits for the device
        error, size, *solver_size = torch.stack([loss, norm, *norms]).tolist()
        self.updates += 1
        if not all(map(math.isfinite, (error, size, *solver_size))):
            self._skip()
            return error, math.nan
        self._skipped_in_a_row = 0
        for optimizer in self._optimizers.values():
            optimizer.step()
        self.base.solver.project()
        self._average()
        if self.updates % KEEP_GOOD_EVERY == 0:
            self._good = self._snapshot()
        return error, size

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on: tensors by name, and plain values."""
        tensors: dict[str, Tensor] = {}
        for prefix, module in (("base", self.base), ("average", self.average)):
            tensors |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        for kind, optimizer in self._optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}.{index}.{slot}": value for slot, value in slots.items()}
        values = {name: getattr(self, name) for name in _COUNTS}
        values["skipped_in_a_row"] = self._skipped_in_a_row
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Be as when `state` was called."""
        for prefix, module in (("base", self.base), ("average", self.average)):
            module.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in module.state_dict()})
        for kind, optimizer in self._optimizers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"{kind}."):
                    _, index, slot = name.split(".")
                    slots.setdefault(int(index), {})[slot] = tensor
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        self.updates, self.skipped = int(values["updates"]), int(values["skipped"])
        self.rollbacks, self.slowdown = int(values["rollbacks"]), float(values["slowdown"])
        self.unconverged_until = int(values["unconverged_until"])
        self._skipped_in_a_row = int(values["skipped_in_a_row"])
        self._good = self._snapshot()

    def _descend(self, batch: Batch, spent: float) -> Tensor:
        """Leave the gradient of the batch's mean error with the parameters."""
        solver, training = self.base.solver, self.training
        if not solver.is_adaptive:
            return self._backward(batch, solver.steps)
        is_one = solver.steps == 1 or (solver.solves_linear and self.base.field.is_linear)
        if is_one or spent < training.one_step or self.updates < self.unconverged_until:
            return self._backward(batch, steps=1)
        if not training.envelope:
            return self._backward(batch, min(solver.steps, training.unrolled_steps))
        loss, left = self._backward_at_minimum(batch)
        if not left < training.converged:
            # what the latents still have to gain would be missing from the gradient
            self.unconverged_until = self.updates + RECHECK_AFTER
            return self._backward(batch, steps=1)
        return loss

    def _varied(self, batch: Batch) -> Batch:
        """The batch to learn from, a function of seed and update as the points are."""
        if not self.training.mixup:
            return batch
        generator = torch.Generator().manual_seed((self.training.seed << 32) + self.updates)
        return mixed(batch.to(self.base.device), self.base.normalizer, self.training.mixup, generator)

    def _joined(self, loss: Tensor, weight: float) -> Tensor:
        """The error of the whole batch, and its gradient with the parameters, from those of the ranks' shares."""
        if self.ensemble.count == 1:
            return loss
        parameters = [*self._shared, *self._solver]
        own = [torch.zeros_like(p) if p.grad is None else p.grad * weight for p in parameters]
        # a rank without items does not know which parameters have a gradient
        known = torch.tensor([p.grad is not None for p in parameters], dtype=loss.dtype, device=loss.device)
        *sums, loss, known = self.ensemble.sum([*own, loss * weight, known])
        for parameter, gradient, count in zip(parameters, sums, known.tolist(), strict=True):
            parameter.grad = gradient if count else None
        return loss

    def _backward(self, batch: Batch, steps: int) -> Tensor:
        """Through the inner fit; as many items at a time as fit into memory."""
        self._clear()
        inner, outer = self._points(batch)
        together, recompute = self._room(batch, inner, outer, steps)
        total = torch.zeros((), device=self.base.device)
        for part in _parts(batch, together):
            problem = self.base.problem(part, points=inner)
            fitted = self.base.fit(problem, steps=steps, second_order=self.training.second_order, recompute=recompute)
            error = fitted.error if outer is inner else self.base.problem(part, points=outer).error(fitted.latents)
            loss = error.sum() / len(batch)
            torch.autograd.backward(loss)
            total += loss.detach()
        return total

    def _backward_at_minimum(self, batch: Batch) -> tuple[Tensor, float]:
        """With the fitted latents held fixed; and how much of the error another Gauss-Newton step would take away.

        The fit sees all points: the outer loss on some of them then has, on average, the same minimum.
        """
        self._clear()
        _, outer = self._points(batch)
        together, _ = self._room(batch, None, outer, 1)
        total, left = torch.zeros(2, device=self.base.device)
        chunk = self.base.chunk(max(1, min(together, len(batch))))
        for part in _parts(batch, together):
            with torch.no_grad():
                fitted = self.base.fit(self.base.problem(part, chunk=chunk), careful=True)
            latents = fitted.latents.detach().requires_grad_()
            loss = self.base.problem(part, points=outer).error(latents).sum() / len(batch)
            torch.autograd.backward(loss)
            assert latents.grad is not None
            left += self.base.decrement(fitted.problem, latents.grad * (len(batch) / 2)).sum() / len(batch)
            total += loss.detach()
        gained, whole = left, total
        if self.ensemble.count > 1:
            # all must go on alike
            gained, whole = self.ensemble.sum([left * len(batch), total * len(batch)])
        return total, float(gained / whole)

    def _points(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Points of the inner fit and of the outer loss, the same for all items; None for all points.

        They are a function of seed and update alone: a run that is stopped goes on as if it had not been.
        """
        training, count = self.training, batch.values.shape[1]
        generator = torch.Generator().manual_seed((training.seed << 32) + self.updates)
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
        network = self.base.field.network
        layer = 4 * network.width * network.layers
        seen = count if inner is None else len(inner)
        step = TENSORS_PER_LAYER * layer * seen
        if self.base.solver.needs_jacobian and steps > 1:
            # every step after the shared first one leaves a Jacobian, and its sweeps
            rows = 4 * self.base.read_numbers * self.base.axes.channels
            step += (TENSORS_PER_LAYER * self.base.axes.channels * layer + 2 * rows) * seen
        last = TENSORS_OF_FORWARD * layer * (count if outer is None else len(outer))
        whole, wish = steps * step + last, self.training.recompute
        recompute = wish == "yes" or (wish == "auto" and whole > self._memory)
        return max(1, self._memory // (step + last if recompute else whole)), recompute

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.training.ema, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.base.parameters()), 1 - decay)

    def _groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self._optimizers.values():
            yield from optimizer.param_groups

    def _clear(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _schedule(self, spent: float) -> float:
        training = self.training
        if training.warmup and spent < training.warmup:
            # the very first update of a run by the clock would otherwise have no rate at all
            return max(spent / training.warmup, 0.01)
        if training.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (spent - training.warmup) / max(1e-9, 1 - training.warmup)))

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MOST_SKIPS:
            self._skipped_in_a_row = 0
            self._roll_back()

    def _snapshot(self) -> dict[str, Any]:
        return {
            "base": {name: tensor.clone() for name, tensor in self.base.state_dict().items()},
            "average": {name: tensor.clone() for name, tensor in self.average.state_dict().items()},
            **{kind: deepcopy(optimizer.state_dict()) for kind, optimizer in self._optimizers.items()},
        }

    def _roll_back(self) -> None:
        self.rollbacks += 1
        if self.rollbacks > MOST_ROLLBACKS:
            raise FunctaconvError(
                f"training diverged: no finite gradient after {self.rollbacks - 1} returns to a good state",
                hint="lower the rate (--set training.rate=1e-4) or w0 (--set network.w0_hidden=10)",
            )
        self.base.load_state_dict(self._good["base"])
        self.average.load_state_dict(self._good["average"])
        for kind, optimizer in self._optimizers.items():
            optimizer.load_state_dict(deepcopy(self._good[kind]))
        self.slowdown /= 2


def _optimizers(
    base: Base, shared: Sequence[nn.Parameter], solver: Sequence[nn.Parameter], training: TrainingRecipe
) -> dict[str, torch.optim.Optimizer]:
    """By name. Muon (Jordan et al. 2024) takes the matrices between hidden layers, and from latents to modulations;
    Adam takes the rest, and the solver's own at a rate of their own.
    """
    network = base.field.network
    matrices: list[nn.Parameter] = []
    if training.optimizer == "muon":
        matrices = [*network.matrices, base.field.latent_map.weight]
    taken = {id(matrix) for matrix in matrices}
    groups = [
        {"params": [parameter for parameter in shared if id(parameter) not in taken], "full_rate": training.rate},
        {"params": list(solver), "full_rate": training.solver_rate},
    ]
    optimizers: dict[str, torch.optim.Optimizer] = {"adam": torch.optim.Adam(groups)}
    if matrices:
        optimizers["muon"] = torch.optim.Muon(
            [{"params": matrices, "full_rate": training.matrix_rate}],
            weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
    return optimizers


def _parts(batch: Batch, together: int) -> Iterator[Batch]:
    for start in range(0, len(batch), together):
        yield batch.items(slice(start, start + together))
