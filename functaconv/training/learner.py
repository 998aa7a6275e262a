"""The outer loop: one update after another, without files or clocks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from functaconv.base import Base
from functaconv.errors import FunctaconvError
from functaconv.recipe import TrainingRecipe
from functaconv.signals.batch import Batch
from functaconv.signals.mixup import mixed
from functaconv.training.distributed import Group
from functaconv.training.gradients import OuterGradients
from functaconv.training.optimizers import optimizers_of, schedule

# updates in a row without a finite gradient, after which the run goes back to its last good state
MOST_SKIPS = 5
MOST_ROLLBACKS = 5
# updates between two copies of the state that is gone back to
KEEP_GOOD_EVERY = 50
_COUNTS = ("updates", "skipped", "rollbacks", "slowdown")


@dataclass(frozen=True)
class Update:
    """What came of an update."""

    error: float
    """mean squared error of all ranks' items after the inner fit; NaN where none of them could be used"""
    norm: float
    """of the outer gradient; NaN where the update was left out"""
    notes: tuple[float, ...] = ()
    """their sums over all ranks"""


class Learner:
    """A base that learns, and its moving average, which is what will be exported.

    Ranks that learn together each have a share of every batch, and make the same updates.
    """

    def __init__(self, base: Base, training: TrainingRecipe, group: Group | None = None) -> None:
        self.base, self.training, self.group = base, training, group or Group()
        self.gradients = OuterGradients(base, training, self.group)
        self.average = deepcopy(base).requires_grad_(False)
        solver = list(base.solver.parameters())
        own = {id(parameter) for parameter in solver}
        self._shared = [
            parameter for parameter in base.parameters() if parameter.requires_grad and id(parameter) not in own
        ]
        self._solver = solver
        self._optimizers = optimizers_of(base, self._shared, solver, training)
        self.updates, self.skipped, self.rollbacks, self.slowdown = 0, 0, 0, 1.0
        self._skipped_in_a_row = 0
        self._good = self._snapshot()

    def rate(self, spent: float) -> float:
        """The network's rate when a fraction of the budget is spent."""
        return self.training.rate * schedule(self.training, spent) * self.slowdown

    def update(self, batches: Sequence[Batch], spent: float, notes: Sequence[float] = ()) -> Update:
        """Learn from this rank's share of a batch, grouped by shape. Ranks may each add numbers, their `notes`.

        An update whose gradient is not finite is left out; after several in a row the learner goes back to its last
        good state, at half the rate.
        """
        for group in self._groups():
            group["lr"] = group["full_rate"] * schedule(self.training, spent) * self.slowdown
        own = sum(map(len, batches))
        if self.group.count == 1 and not own:
            return Update(math.nan, math.nan, tuple(notes))
        batches = [self._varied(batch) for batch in batches]
        loss = self.gradients.descend(batches, spent, self.updates)
        scalars = loss[None] if self.group.count == 1 else self._summed(loss, sum(map(len, batches)), notes)
        norm = nn.utils.clip_grad_norm_(self._shared, self.training.clip or math.inf)
        norms = (
            [nn.utils.get_total_norm(rates)] if (rates := [p.grad for p in self._solver if p.grad is not None]) else []
        )
        # the one moment an update waits for the device
        numbers = torch.cat([scalars, torch.stack([norm, *norms])]).tolist()
        (error, *summed), (size, *solver_size) = numbers[: len(scalars)], numbers[len(scalars) :]
        items, *summed = summed or (own, *notes)
        if not items:
            return Update(math.nan, math.nan, tuple(summed))
        self.updates += 1
        if not all(map(math.isfinite, (error, size, *solver_size))):
            self._skip()
            return Update(error, math.nan, tuple(summed))
        self._skipped_in_a_row = 0
        for optimizer in self._optimizers.values():
            optimizer.step()
        self.base.solver.project()
        self._average()
        if self.updates % KEEP_GOOD_EVERY == 0:
            self._good = self._snapshot()
        return Update(error, size, tuple(summed))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on: tensors by name, and plain values."""
        tensors: dict[str, Tensor] = {}
        for prefix, module in (("base", self.base), ("average", self.average)):
            tensors |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        for kind, optimizer in self._optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}.{index}.{slot}": value for slot, value in slots.items()}
        values = {name: getattr(self, name) for name in _COUNTS}
        values |= {"skipped_in_a_row": self._skipped_in_a_row, "unconverged_until": self.gradients.unconverged_until}
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Be as when `state` was called."""
        self._load(tensors)
        self.updates, self.skipped = int(values["updates"]), int(values["skipped"])
        self.rollbacks, self.slowdown = int(values["rollbacks"]), float(values["slowdown"])
        self.gradients.unconverged_until = int(values["unconverged_until"])
        self._skipped_in_a_row = int(values["skipped_in_a_row"])
        self._good = self._snapshot()

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        for prefix, module in (("base", self.base), ("average", self.average)):
            module.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in module.state_dict()})
        for kind, optimizer in self._optimizers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"{kind}."):
                    _, index, slot = name.split(".")
                    slots.setdefault(int(index), {})[slot] = tensor
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})

    def _varied(self, batch: Batch) -> Batch:
        """The batch to learn from: with mixup this rank's share of a mixed batch, a function of seed and update."""
        if not self.training.mixup:
            return batch
        # another seed than that of the points
        generator = torch.Generator().manual_seed((self.training.seed << 32) + (1 << 31) + self.updates)
        whole = mixed(batch.to(self.base.device), self.base.normalizer, self.training.mixup, generator)
        return whole.items(self.group.share(len(whole)))

    def _summed(self, loss: Tensor, items: int, notes: Sequence[float]) -> Tensor:
        """`[error, items, *notes]` of all ranks; the gradient of all items' mean error is left with the parameters.

        It is all one sum. A rank without items does not know which parameters have a gradient: the others tell it.
        """
        parameters = [*self._shared, *self._solver]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad * items for p in parameters]
        has_gradient = [float(p.grad is not None) for p in parameters]
        numbers = torch.tensor([items, *notes, *has_gradient], dtype=loss.dtype).to(loss.device)
        own = torch.cat([*(gradient.flatten() for gradient in gradients), loss[None] * items, numbers])
        *means, loss, numbers = torch.split(self.group.sum(own), [*(p.numel() for p in parameters), 1, len(numbers)])
        total = numbers[:1].clamp(min=1)
        if not items:
            has_gradient = numbers[-len(parameters) :].tolist()
        for parameter, mean, known in zip(parameters, means, has_gradient, strict=True):
            parameter.grad = (mean / total).view_as(parameter) if known else None
        return torch.cat([loss / total, numbers[: 1 + len(notes)]])

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.training.ema, (1 + self.updates) / (10 + self.updates))
        pairs = zip(self.average.parameters(), self.base.parameters(), strict=True)
        averages, learned = zip(*((mean, own) for mean, own in pairs if own.requires_grad), strict=True)
        torch._foreach_lerp_(averages, learned, 1 - decay)

    def _groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self._optimizers.values():
            yield from optimizer.param_groups

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MOST_SKIPS:
            self._skipped_in_a_row = 0
            self._roll_back()

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.state()[0].items()}

    def _roll_back(self) -> None:
        self.rollbacks += 1
        if self.rollbacks > MOST_ROLLBACKS:
            raise FunctaconvError(
                f"training diverged: no finite gradient after {self.rollbacks - 1} returns to a good state",
                hint="lower the rates (--set training.rate=1e-4, --set training.matrix_rate=2e-4) or w0 "
                "(--set network.w0_hidden=10)",
            )
        # copies: an optimizer goes on with the very tensors that it is given
        self._load({name: tensor.clone() for name, tensor in self._good.items()})
        self.slowdown /= 2
