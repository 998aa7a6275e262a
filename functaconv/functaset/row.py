"""One row of a functaset, and which rows are meant."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Row:
    """One converted item."""

    latent: np.ndarray
    """float32 [*sites, latent]"""
    key: str
    label: int
    shape: tuple[int, ...]
    mse: float
    psnr: float
    shard: int
    """which input it came from"""
    meta: Any
    tile: tuple[int, ...] | None
    """origin, then the shape of the whole item"""


def selection(rows: slice | np.ndarray | None, count: int) -> slice | np.ndarray:
    """The rows of `count` as a slice of step 1 or as numbers that are there: of a slice, numbers, a mask, or all."""
    if rows is None or isinstance(rows, slice):
        start, stop, step = (rows or slice(None)).indices(count)
        return slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
    chosen = np.asarray(rows)
    if chosen.dtype == bool:
        if chosen.shape != (count,):
            raise IndexError(f"a mask of shape {chosen.shape} for {count} items")
        return np.flatnonzero(chosen)
    chosen = chosen.astype(np.int64, casting="same_kind") if chosen.size else chosen.astype(np.int64)
    if ((chosen < -count) | (chosen >= count)).any():
        raise IndexError(f"items {chosen.min()} to {chosen.max()} of {count}")
    return np.where(chosen < 0, chosen + count, chosen)
