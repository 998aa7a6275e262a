"""From raw values to what the network models, and back: per channel, kept in the base."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from functaconv.errors import InputError
from functaconv.signals.batch import Batch
from functaconv.signals.signal import Signal
from functaconv.transfer import sent

Levels = Literal["auto", "together", "apart"]
MOST_LEVELS = 4096
PerChannel = Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)]
"""as files hold offsets and scales, for validators"""
# of constants: room is left for arithmetic in float32
MOST_VALUE, LEAST_SCALE = 1e30, 1e-35
NARROW = 0.5
"""levels whose ranges are, on average, less than this part of the range of all have little in common"""

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""offset and scale of each channel"""


@dataclass(frozen=True)
class Normalizer:
    """`feature = (value - offset) / scale`, per channel, and per level where the levels' ranges differ wildly.

    Values of a known code range (255, 65535, 1) come as a fraction of it: offset 0 and scale 1. Others are scaled by
    the range of the training items. `scale` is the unit of the mean squared error, whatever a level's own is.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    levels: Mapping[str, Constants] = field(default_factory=dict)
    """by level; a level that is not here is scaled as all are"""

    @classmethod
    def of_code_range(cls, channels: int) -> "Normalizer":
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def of_range(cls, signals: Iterable[Signal], levels: Levels = "auto") -> "Normalizer":
        """The range of every channel over all signals, missing values left out; of every level, too, when they are
        kept `apart`, or when that is left open and they are much narrower than the range of all.
        """
        ranges: dict[str | None, tuple[np.ndarray, np.ndarray]] = {}
        for signal in signals:
            values = signal.values.reshape(-1, signal.values.shape[-1]).astype(np.float64)
            if signal.valid is not None:
                values = np.where(signal.valid.reshape(values.shape), values, np.nan)
            # a channel without any valid value says nothing about its range
            low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
            seen_low, seen_high = ranges.get(signal.level, (low, high))
            ranges[signal.level] = np.fmin(low, seen_low), np.fmax(high, seen_high)
        if not ranges:
            raise _nothing_valid()
        low = np.fmin.reduce([low for low, _ in ranges.values()])
        high = np.fmax.reduce([high for _, high in ranges.values()])
        if not np.isfinite(low).all():
            raise _nothing_valid()
        offset, scale = _constants_of(low, high)
        if not are_possible(offset, scale):
            raise InputError(
                f"values from {low.min():g} to {high.max():g}: expected at most {MOST_VALUE:g}, and ranges of at least "
                f"{LEAST_SCALE:g}",
                hint="store them in other units",
            )
        known = {
            level: constants
            for level, (low, high) in sorted((str(level), pair) for level, pair in ranges.items())
            if level != "None" and np.isfinite(low).all() and are_possible(*(constants := _constants_of(low, high)))
        }
        widths = np.array([width for _, width in known.values()])
        are_narrow = len(known) > 1 and (widths.mean(0) < NARROW * np.array(scale)).any()
        keep = levels == "apart" or (levels == "auto" and are_narrow)
        if keep and len(known) > MOST_LEVELS:
            raise InputError(
                f"{len(known)} levels with ranges of their own, at most {MOST_LEVELS} are possible",
                hint="--set data.levels=together scales them alike",
            )
        return cls(offset, scale, known if keep else {})

    def features(self, batch: Batch) -> Tensor:
        """The batch's features, on its device, `[item, point, channel]` float32; missing values become 0."""
        values = batch.values.to(torch.float32)
        if batch.peaks is not None:
            values = values / batch.peaks[:, None, None]
        offset, scale = self.constants(batch.levels, values.device)
        features = (values - offset) / scale
        if batch.valid is not None:
            features = features.masked_fill(~batch.valid, 0.0)
        return features

    def values(self, features: Tensor, levels: tuple[str | None, ...] = ()) -> Tensor:
        """Raw units again; codes stay a fraction of their range. `levels` are those of the items."""
        offset, scale = self.constants(levels, features.device)
        return features * scale + offset

    def raw(self, batch: Batch, features: Tensor) -> Tensor:
        """The values with which a batch has these features: the inverse of `features`."""
        values = self.values(features, batch.levels)
        return values if batch.peaks is None else values * batch.peaks[:, None, None]

    def constants(self, levels: tuple[str | None, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Offset and scale, `[channel]`, or `[item, 1, channel]` where the levels have their own."""
        if not self.levels or not levels:
            return _on(self.offset, device), _on(self.scale, device)
        own = [self.levels.get(str(level), (self.offset, self.scale)) for level in levels]
        offset, scale = sent(torch.tensor(own, dtype=torch.float32), device)[:, :, None].unbind(1)
        return offset, scale


def are_possible(offset: Sequence[float], scale: Sequence[float]) -> bool:
    """Whether values of such offset and scale can be normalised in float32."""
    return all(abs(low) <= MOST_VALUE and LEAST_SCALE <= width <= MOST_VALUE
               for low, width in zip(offset, scale, strict=True))  # fmt: skip


def levels_of(table: Mapping[str, Any]) -> dict[str, Constants]:
    """The levels' constants out of JSON."""
    return {level: (tuple(offset), tuple(scale)) for level, (offset, scale) in table.items()}


def _nothing_valid() -> InputError:
    return InputError("no training item has a valid value in every channel", hint="look at the data: all missing?")


def _constants_of(low: np.ndarray, high: np.ndarray) -> Constants:
    spread = np.where(high > low, high - low, 1.0)
    return tuple(map(float, low)), tuple(map(float, spread))


@lru_cache(maxsize=16)
def _on(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Constants on a device, where they are copied once."""
    # they serve later calls with gradients, too
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)
