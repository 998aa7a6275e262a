"""How good a base is on items that it has not learned from."""

import math
import time
from collections.abc import Sequence

import numpy as np

from functaconv.base import Base
from functaconv.measuring import measure
from functaconv.metrics import psnr
from functaconv.recipe import TrainingRecipe
from functaconv.signals.batch import Batch

# validations on the way, and the share of the time that they may take; the last one is always made
VALIDATIONS, MOST_VALIDATING = 10, 0.1
# points of validation items that are fitted to see how long all of them would take
TRIED_POINTS = 1 << 16


class Schedule:
    """How much of a budget is spent, and when to validate on the way."""

    def __init__(self, training: TrainingRecipe) -> None:
        self._training, self._taken = training, 0.0
        self.cost: float | None = None
        """seconds of a validation; None before it is known"""
        self.validated_at = -1
        """in which of `VALIDATIONS` parts of the budget a validation was last due"""

    @property
    def seconds(self) -> float:
        """For learning, of a budget of minutes: the last validation comes on top, and is to be within the minutes."""
        minutes = self._training.minutes or 0.0
        return 60 * minutes - min(self.cost or 0.0, 30 * minutes)

    def spent(self, updates: int, seconds: float) -> float:
        """The fraction of the budget, by updates or by the clock, whichever is further."""
        by_steps = updates / self._training.steps if self._training.steps else 0.0
        return max(by_steps, seconds / self.seconds if self._training.minutes else 0.0)

    def is_due(self, spent: float, seconds: float) -> bool:
        """A validation is to be made now, after so many seconds of learning."""
        part = int(spent * VALIDATIONS)
        if part <= self.validated_at or part >= VALIDATIONS:
            return False
        self.validated_at = part
        return part > 0 and self._taken + (self.cost or 0.0) <= MOST_VALIDATING * seconds

    def note(self, cost: float) -> None:
        """A validation took so many seconds."""
        self.cost = cost
        self._taken += cost

    def estimate(self, base: Base, batches: Sequence[Batch]) -> float:
        """The seconds of a validation, about: those of a few items, in proportion to all."""
        if not batches:
            return 0.0
        few = batches[0].items(slice(0, max(1, TRIED_POINTS // math.prod(batches[0].shape))))
        started = time.monotonic()
        base.encode(few)
        return (time.monotonic() - started) * sum(map(len, batches)) / len(few)


def validation_psnr(base: Base, batches: Sequence[Batch]) -> float:
    """Mean PSNR (dB) of items fitted with a base, as `mean_psnr`."""
    errors = []
    for batch in batches:
        fit = base.encode(batch)
        errors.append(measure(base, batch, fit.latents, fit)["mse"])
    return mean_psnr(batches, errors)


def mean_psnr(batches: Sequence[Batch], errors: Sequence[np.ndarray]) -> float:
    """Mean PSNR of items, from the mean squared errors of batches that have the item's number as position: tiles of an
    item have the same. They are not blended where they overlap, as those of `encode` are: a functaset has a little
    less error. NaN without an item.
    """
    if not batches:
        return math.nan
    _, item = np.unique([number for batch in batches for number in batch.positions], return_inverse=True)
    points = np.concatenate([np.full(len(batch), float(math.prod(batch.shape))) for batch in batches])
    mse = np.bincount(item, np.concatenate(errors) * points) / np.bincount(item, points)
    return float(psnr(mse).mean())
