"""From raw values to what the network models, and back: per channel, kept in the base."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from functaconv.errors import InputError
from functaconv.signals.batch import Batch, Signal


@dataclass(frozen=True)
class Normalizer:
    """`feature = (value - offset) / scale`, so that `scale` is the unit of the mean squared error.

    Images come as a fraction of their code range (255, 65535): offset 0 and scale 1. Arrays are scaled by the
    range of the training items.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of_code_range(cls, channels: int) -> "Normalizer":
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def of_range(cls, signals: Iterable[Signal]) -> "Normalizer":
        """The range of every channel over all signals, missing values left out."""
        low: np.ndarray | None = None
        high: np.ndarray | None = None
        for signal in signals:
            values = signal.values.reshape(-1, signal.values.shape[-1]).astype(np.float64)
            if signal.valid is not None:
                values = np.where(signal.valid.reshape(values.shape), values, np.nan)
            # a channel without any valid value says nothing about its range
            seen_low = np.fmin.reduce(values, axis=0)
            seen_high = np.fmax.reduce(values, axis=0)
            low = seen_low if low is None else np.fmin(low, seen_low)
            high = seen_high if high is None else np.fmax(high, seen_high)
        if low is None or high is None or not np.isfinite(low).all():
            raise InputError(
                "no training item has a valid value in every channel", hint="look at the data: all missing?"
            )
        spread = np.where(high > low, high - low, 1.0)
        return cls(tuple(map(float, low)), tuple(map(float, spread)))

    def features(self, batch: Batch) -> Tensor:
        """The batch's features, on its device, `[item, point, channel]` float32; missing values become 0."""
        values = batch.values.to(torch.float32)
        if batch.peaks is not None:
            values = values / batch.peaks[:, None, None]
        offset, scale = _constants(self, values.device)
        features = (values - offset) / scale
        if batch.valid is not None:
            features = features.masked_fill(~batch.valid, 0.0)
        return features

    def values(self, features: Tensor) -> Tensor:
        """Raw units again; images stay a fraction of their code range."""
        offset, scale = _constants(self, features.device)
        return features * scale + offset


@lru_cache(maxsize=64)
def _constants(normalizer: Normalizer, device: torch.device) -> tuple[Tensor, Tensor]:
    """Offset and scale on a device, where they are copied once."""
    return (
        torch.tensor(normalizer.offset, dtype=torch.float32, device=device),
        torch.tensor(normalizer.scale, dtype=torch.float32, device=device),
    )
