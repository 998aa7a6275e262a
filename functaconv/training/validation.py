"""How good a base is on items that it has not learned from."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from functaconv.base import Base
from functaconv.measuring import measure
from functaconv.metrics import psnr
from functaconv.signals.batch import Batch


def validation_psnr(base: Base, batches: Sequence[Batch], *, before: Callable[[], None] = lambda: None) -> float:
    """Mean PSNR (dB) of items fitted with a base, as `mean_psnr`; `before` is called ahead of each batch."""
    errors: list[np.ndarray] = []
    for batch in batches:
        before()
        fit = base.encode(batch)
        errors.append(measure(base, batch, fit.latents, fit)["mse"])
    return mean_psnr(batches, errors)


def mean_psnr(batches: Sequence[Batch], errors: Sequence[np.ndarray]) -> float:
    """Mean PSNR of items, from the mean squared errors of batches that have the item's number as position: tiles of an
    item have the same. NaN without an item.
    """
    if not batches:
        return math.nan
    _, item = np.unique([number for batch in batches for number in batch.positions], return_inverse=True)
    points = np.concatenate([np.full(len(batch), float(math.prod(batch.shape))) for batch in batches])
    mse = np.bincount(item, np.concatenate(errors) * points) / np.bincount(item, points)
    return float(psnr(mse).mean())
