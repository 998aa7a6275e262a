"""Measures as they are defined, to compare with."""

import math

import numpy as np
from numpy.typing import ArrayLike


def mse_of(reconstruction: ArrayLike, original: ArrayLike, peak: float = 1.0, valid: ArrayLike | None = None) -> float:
    """Mean squared error over the valid values, in units of the squared peak; NaN when nothing is valid."""
    error = (np.asarray(reconstruction, np.float64) - np.asarray(original, np.float64)) / peak
    squared = np.square(error)
    if valid is None:
        return float(squared.mean())
    kept = np.broadcast_to(np.asarray(valid, bool), squared.shape)
    return float(squared[kept].mean()) if kept.any() else math.nan
