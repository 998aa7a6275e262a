"""Items as signals, and signals of one shape as batches."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from functaconv.errors import InputError, ItemError, UsageError
from functaconv.sources.items import Item, Kind

ChannelAxis = Literal["auto", "last", "first", "none"]

MOST_IMAGE_CHANNELS = 4


@dataclass(frozen=True)
class Axes:
    """How the arrays of a dataset are read: how many grid axes, how many channels, and where the channels stand."""

    kind: Kind
    dims: int
    channels: int
    channel_axis: Literal["last", "first", "none"] = "last"
    itemsize: int = 1
    """bytes of one raw value"""

    @classmethod
    def of(cls, items: Sequence[Item], channel_axis: ChannelAxis = "auto") -> "Axes":
        """What the first items have in common.

        Images are RGB unless all of the first ones are gray. Arrays of one or two axes have no channel axis; with
        three or four, the last holds the channels when it is at most 4 long, otherwise three axes are a volume.
        """
        first = items[0]
        for item in items:
            if item.kind != first.kind or (item.kind == "array" and item.array.ndim != first.array.ndim):
                raise InputError(
                    f"mixed dataset: {first.key} is an {_described(first)}, {item.key} an {_described(item)}",
                    hint="put them in shards of their own, or choose a member with --field",
                )
        if first.kind == "image":
            return cls("image", 2, max(item.array.shape[-1] for item in items), itemsize=first.array.dtype.itemsize)
        shape = first.array.shape
        place: Literal["last", "first", "none"]
        if channel_axis != "auto":
            place = channel_axis
        elif len(shape) == 4 or (len(shape) == 3 and shape[-1] <= MOST_IMAGE_CHANNELS):
            place = "last"
        else:
            place = "none"
        dims = len(shape) - (place != "none")
        if not 1 <= dims <= 3:
            raise UsageError(
                f"the arrays have shape {shape}: with channels {place!r} that leaves {dims} grid axes, not 1 to 3",
                hint="say where the channels are: --set data.channel_axis=first, last or none",
            )
        channels = {"last": shape[-1], "first": shape[0], "none": 1}[place]
        return cls("array", dims, channels, place, first.array.dtype.itemsize)


@dataclass(frozen=True)
class Signal:
    """One item as values on a grid."""

    key: str
    values: np.ndarray
    """`[*grid, channel]` in raw units"""
    peak: float | None = None
    """images: the code of full intensity"""
    valid: np.ndarray | None = None
    """`[*grid, channel]`, False where a value is missing; None when all are there"""
    label: int = -1
    attributes: dict[str, Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[:-1]

    @classmethod
    def of(cls, item: Item, axes: Axes) -> "Signal":
        """Read an item along the axes of its dataset; one that does not fit is an `ItemError`."""
        array = item.array
        if item.kind != axes.kind:
            raise ItemError(f"this is an {item.kind}, the base was made for {axes.kind}s")
        if axes.channel_axis == "none":
            array = array[..., None]
        elif axes.channel_axis == "first":
            array = np.moveaxis(array, 0, -1) if array.ndim else array
        if array.ndim != axes.dims + 1 or array.shape[-1] != axes.channels or 0 in array.shape:
            raise ItemError(
                f"found shape {item.array.shape}; expected {axes.dims} grid axes and {axes.channels} channels "
                f"(channels {axes.channel_axis})"
            )
        valid = None
        if array.dtype.kind == "f":
            finite = np.isfinite(array)
            if not finite.any():
                raise ItemError("every value is missing (NaN or infinite)")
            if not finite.all():
                valid, array = finite, np.where(finite, array, 0)
        return cls(item.key, array, item.peak, valid, item.label, dict(item.attributes) or None)


@dataclass(frozen=True)
class Batch:
    """Signals of one shape, stacked."""

    shape: tuple[int, ...]
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
                mask_key = hashlib.blake2b(np.packbits(masks).tobytes(), digest_size=16).digest()
            valid = torch.from_numpy(masks.reshape(len(masks), -1, channels))
        if pin:
            values = values.pin_memory()
            peaks = None if peaks is None else peaks.pin_memory()
            valid = None if valid is None else valid.pin_memory()
        return cls(signals[0].shape, values, peaks, valid, tuple(positions), mask_key)

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
    waiting: dict[tuple[int, ...], list[tuple[int, Signal]]] = {}
    held = 0
    for position, signal in signals:
        group = waiting.setdefault((signal.values.dtype.num, *signal.shape), [])
        group.append((position, signal))
        held += signal.values.nbytes
        if len(group) == size:
            full = (signal.values.dtype.num, *signal.shape)
        elif held > most_bytes:
            full = max(waiting, key=lambda shape: sum(s.values.nbytes for _, s in waiting[shape]))
        else:
            continue
        chosen = waiting.pop(full)
        held -= sum(s.values.nbytes for _, s in chosen)
        yield Batch.of([s for _, s in chosen], [p for p, _ in chosen], pin=pin)
    for chosen in waiting.values():
        yield Batch.of([s for _, s in chosen], [p for p, _ in chosen], pin=pin)


def _described(item: Item) -> str:
    return f"{item.kind} of shape {'x'.join(map(str, item.array.shape))}"


def _torch_dtype(values: np.ndarray) -> np.ndarray:
    # torch computes in few integer types; float32 holds every code up to 2**24
    if values.dtype in (np.uint8, np.float32):
        return np.ascontiguousarray(values)
    return values.astype(np.float32)
