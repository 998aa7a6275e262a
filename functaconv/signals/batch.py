"""Signals of one shape as batches."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from functaconv.signals.grid import AnyGrid
from functaconv.signals.signal import Signal


@dataclass(frozen=True)
class Batch:
    """Signals of one shape, stacked."""

    grid: AnyGrid
    values: Tensor
    """`[item, point, channel]` in raw units, of the dtype they came in where torch has it"""
    peaks: Tensor | None
    """`[item]`, the code of full intensity; None for arrays"""
    valid: Tensor | None
    """`[item, point, channel]` bool; one item stands for all where they miss the same values"""
    positions: tuple[int, ...]
    """where each signal stood in the stream that was batched"""
    mask_key: bytes | None = None
    """a digest of the mask that all items share; None without one"""
    levels: tuple[str | None, ...] = ()
    """of each item, where the signals have any"""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.grid.shape

    @classmethod
    def of(cls, signals: Sequence[Signal], positions: Sequence[int], *, pin: bool = False) -> "Batch":
        channels = signals[0].values.shape[-1]
        values = torch.from_numpy(
            _torch_dtype(np.stack([s.values for s in signals])).reshape(len(signals), -1, channels)
        )
        peaks = None
        if signals[0].peak is not None:
            peaks = torch.tensor([s.peak for s in signals], dtype=torch.float32)
        valid, mask_key = None, None
        if any(s.valid is not None for s in signals):
            masks = np.stack([np.ones(s.values.shape, bool) if s.valid is None else s.valid for s in signals])
            if (masks == masks[:1]).all():
                masks = masks[:1]
                mask_key = digest_of(masks)
            valid = torch.from_numpy(masks.reshape(len(masks), -1, channels))
        if pin:
            values = values.pin_memory()
            peaks = None if peaks is None else peaks.pin_memory()
            valid = None if valid is None else valid.pin_memory()
        levels = tuple(signal.level for signal in signals)
        if all(level is None for level in levels):
            levels = ()
        return cls(signals[0].grid, values, peaks, valid, tuple(positions), mask_key, levels)

    def __len__(self) -> int:
        return len(self.positions)

    def to(self, device: torch.device | str) -> "Batch":
        """The same items on a device; the copy is not waited for when they are in pinned memory."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self, values=self.values.to(device, non_blocking=True), peaks=moved(self.peaks), valid=moved(self.valid)
        )

    def items(self, chosen: slice) -> "Batch":
        """Some of the items."""
        return replace(
            self,
            values=self.values[chosen],
            peaks=None if self.peaks is None else self.peaks[chosen],
            valid=self.valid if self.valid is None or len(self.valid) == 1 else self.valid[chosen],
            positions=self.positions[chosen],
            levels=self.levels[chosen],
        )

    def select(self, points: Tensor) -> "Batch":
        """The same items at some of their points only."""
        valid = None if self.valid is None else self.valid[:, points]
        return replace(self, values=self.values[:, points], valid=valid)


def batched(
    signals: Iterable[tuple[int, Signal]], size: int, *, most_bytes: int = 256 << 20, pin: bool = False
) -> Iterator[Batch]:
    """Batches per shape, in the order in which they fill; nothing is dropped at the end.

    Signals wait for others of their shape in a buffer of at most `most_bytes`; when it is full, the largest group
    goes as it is. Which batch a signal is in depends only on the signals before it.
    """
    waiting: dict[tuple[object, ...], list[tuple[int, Signal]]] = {}
    size_of_batch = 0
    for position, signal in signals:
        group = waiting.setdefault(signal.batches_with, [])
        group.append((position, signal))
        size_of_batch += signal.values.nbytes
        if len(group) == size:
            full = signal.batches_with
        elif size_of_batch > most_bytes:
            full = max(waiting, key=lambda shape: sum(s.values.nbytes for _, s in waiting[shape]))
        else:
            continue
        chosen = waiting.pop(full)
        size_of_batch -= sum(s.values.nbytes for _, s in chosen)
        yield Batch.of([s for _, s in chosen], [p for p, _ in chosen], pin=pin)
    for chosen in waiting.values():
        yield Batch.of([s for _, s in chosen], [p for p, _ in chosen], pin=pin)


def digest_of(mask: np.ndarray) -> bytes:
    """What masks of a grid are told apart by."""
    return hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).digest()


def _torch_dtype(values: np.ndarray) -> np.ndarray:
    # torch computes in few integer types; float32 holds every code up to 2**24
    if values.dtype in (np.uint8, np.float32):
        return np.ascontiguousarray(values)
    return values.astype(np.float32)
