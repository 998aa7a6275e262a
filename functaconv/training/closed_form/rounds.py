"""Which rounds a windowed fit makes, and when it is done: judged on held-out items, at their points and between."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.base import Base
from functaconv.recipe import ClosedFormRecipe
from functaconv.signals.batch import Batch
from functaconv.solvers import GaussNewton
from functaconv.training.closed_form.domain import Mean
from functaconv.training.closed_form.layout import MOST_AXES, finer
from functaconv.training.closed_form.sample import Sample
from functaconv.training.closed_form.windows import WindowedFit
from functaconv.training.validation import validation_psnr

DAMPINGS = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""strong damping keeps the functions smooth between the pixels; less is taken as long as they stay so"""
ROUGH = 0.5
"""dB that held-out items may be worse between their points than at them. Measured on CIFAR-10, 8x8x16, after many
rounds: with a damping of 1e-5 they are 1.2 dB worse, and a step through the middle of a cell is 1.26 times one
elsewhere; with 1e-3 it is 0.3 dB and 1.02."""
EARLY_VALUES = 1 << 23
"""of the items of the first rounds"""
LATER_ROUNDS = 4
"""with each damping but the first, and of all items"""
WEIGHTED_FROM = 2
"""round from which items count by the inverse of their error: the headline is a mean of logarithms"""
GAIN = 0.01
"""dB that a round must bring, or else it was the last"""
TINY = 1e-12


def improve(
    base: Base,
    sample: Sample,
    held_out: Sequence[Batch],
    mean: Mean,
    ridge: Float[Tensor, " feature"],
    asked: ClosedFormRecipe,
    tell: Callable[[str], None],
) -> float:
    """Leave the best base on held-out items that is smooth between their points; the damping that it takes."""
    early = sample.part(EARLY_VALUES)
    fit = WindowedFit(base, early, mean, ridge, asked.between)
    fit.start()
    best, number = _Best(base, held_out), 0
    for stage, damping in enumerate(DAMPINGS):
        _damp(base, damping)
        for _ in range(min(LATER_ROUNDS, asked.rounds) if stage else asked.rounds):
            fit.round(is_weighted=number >= WEIGHTED_FROM)
            number += 1
            gain = best.look(must_be_smooth=stage > 0)
            tell(f"round {number}: {best.reached:.2f} dB")
            if number > WEIGHTED_FROM + 1 and not gain > GAIN:
                break
        if best.is_rough:
            break
    best.restore()
    if early.items < sample.items:
        fit = WindowedFit(base, sample.filled_again(base), mean, ridge, asked.between)
        for late in range(LATER_ROUNDS):
            fit.round(is_weighted=True)
            gain = best.look(must_be_smooth=True)
            tell(f"round {number + late + 1}, all items: {best.reached:.2f} dB")
            if not gain > GAIN:
                break
        best.restore()
    assert isinstance(base.solver, GaussNewton)
    return float(base.solver.log_damping.exp())


class _Best:
    """The best state of a base so far, on held-out items."""

    def __init__(self, base: Base, held_out: Sequence[Batch]) -> None:
        self._base, self._held_out = base, held_out
        self._psnr, self.is_rough = -math.inf, False
        self.look(must_be_smooth=False)

    def look(self, *, must_be_smooth: bool) -> float:
        """Keep the present state if it is the best; dB gained over the best before."""
        self.reached = validation_psnr(self._base, self._held_out)
        self.is_rough = must_be_smooth and roughness(self._base, self._held_out) > ROUGH
        if self.is_rough:
            return -math.inf
        gain = self.reached - self._psnr
        if not gain <= 0:
            self._psnr, self._state = self.reached, deepcopy(self._base.state_dict())
        return gain

    def restore(self) -> None:
        self._base.load_state_dict(self._state)


@torch.no_grad()
def roughness(base: Base, batches: Sequence[Batch]) -> float:
    """By how many dB items are worse between their points, where Lanczos interpolation says what they are to be, than
    at them; 0 where all miss the same values, and for volumes.
    """
    gains = []
    for batch in batches:
        if batch.mask_key is not None or len(batch.shape) > MOST_AXES:
            continue
        fit = base.encode(batch, steps=1)
        grid, transform = finer(batch.grid, base.geometry, base.device)
        features = base.normalizer.features(batch.to(base.device)).float()
        if batch.valid is not None:
            decoded = base.decode(fit.latents, base.points(batch.grid))
            features = torch.where(batch.valid.to(base.device), features, decoded)
        wanted = transform.synthesise(features)
        error = (base.decode(fit.latents, base.points(grid)) - wanted).square().mean((1, 2))
        gains.append(10 * torch.log10(error.clamp(min=TINY) / fit.error.clamp(min=TINY)))
    return float(torch.cat(gains).mean()) if gains else 0.0


def _damp(base: Base, damping: float) -> None:
    assert isinstance(base.solver, GaussNewton)
    base.solver.log_damping.fill_(math.log(damping))
