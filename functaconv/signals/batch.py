"""Items as signals, and signals of one shape as batches."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from functaconv.data.items import OF_GRIDS, Item
from functaconv.errors import InputError, ItemError, OtherVariablesError, UsageError
from functaconv.signals.grid import AnyGrid, GlobeGrid, Grid

ChannelAxis = Literal["auto", "last", "first", "none"]
Modality = Literal["image", "array", "voxels", "grid"]

MOST_IMAGE_CHANNELS = 4
KINDS = {"image": "an image", "array": "an array", "grid": "a latitude-longitude grid"}
LEVELS = ("level", "pressure_hPa", "pressure_level", "isobaricInhPa", "plev", "height", "depth")
"""what the level of a grid may be called in its json"""
MOST_LEVEL = 1e9
LONGEST_NAME = 100
_OF_CHANNELS: tuple[tuple[str, str | None], ...] = (("variable", None), ("units", ""))


@dataclass(frozen=True)
class Axes:
    """How the arrays of a dataset are read: what they hold, how many grid axes and channels, where the channels are."""

    kind: Modality
    dims: int
    channels: int
    channel_axis: Literal["last", "first", "none"] = "last"
    itemsize: int = 1
    """bytes of one raw value"""
    variables: tuple[str, ...] = ()
    """grids: the name of each channel"""
    units: tuple[str, ...] = ()
    """grids: the unit of each channel, empty where none was given"""

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        channel_axis: ChannelAxis = "auto",
        modality: Literal["auto", "array", "voxels"] = "auto",
    ) -> "Axes":
        """What the first items have in common.

        Images are RGB unless all of the first ones are gray; images of floats are arrays where others hold more than
        0..1, and TIFFs of several bands have these as channels. Arrays with latitude and longitude are grids.
        Volumes that hold nothing but 0 and 1 are voxels. Of other arrays, those of one or two axes have no channel
        axis; with three or four, the last holds the channels when it is at most 4 long, otherwise three axes are a
        volume. `modality` says what arrays are where that is wrong.
        """
        if modality == "array" or any(item.has_bands for item in items):
            items = [_as_values(item) for item in items]
        first = items[0]
        for item in items:
            if item.kind != first.kind or (item.kind == "array" and item.array.ndim != first.array.ndim):
                raise InputError(
                    f"mixed dataset: {first.key} is {_described(first)}, {item.key} {_described(item)}",
                    hint="put them in shards of their own, or choose a member with --field",
                )
        itemsize = first.array.dtype.itemsize
        if first.kind == "image":
            return cls("image", 2, max(item.array.shape[-1] for item in items), itemsize=itemsize)
        if first.kind == "grid" and modality == "auto":
            return cls._of_grids(items, itemsize)
        shape = first.array.shape
        if modality == "voxels" or (modality == "auto" and channel_axis == "auto" and _are_voxels(items)):
            if len(_volume(first.array).shape) != 3:
                raise UsageError(f"voxels have three axes, the arrays {shape}", hint="--set data.modality=array")
            return cls("voxels", 3, 1, "none", itemsize)
        place: Literal["last", "first", "none"]
        if channel_axis != "auto":
            place = channel_axis
        elif first.has_bands or len(shape) == 4 or (len(shape) == 3 and shape[-1] <= MOST_IMAGE_CHANNELS):
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
        return cls("array", dims, channels, place, itemsize)

    @classmethod
    def _of_grids(cls, items: Sequence[Item], itemsize: int) -> "Axes":
        first = items[0]
        channels = first.array.shape[-1]
        variables = _names(first, "variable", channels)
        expected = _described_variables(first)
        for item in items:
            if (found := _described_variables(item)) != expected:
                raise InputError(
                    f"mixed dataset: {first.key} holds {expected}, {item.key} {found}",
                    hint="put grids of different variables, or in different units, in shards of their own",
                )
        if len(set(variables)) < channels or not all(0 < len(name) <= LONGEST_NAME for name in variables):
            raise InputError(
                f"{first.key}: the variables {', '.join(variables)!r:.200} have no names of their own",
                hint=f'each channel needs one of at most {LONGEST_NAME} characters under "variable" in the json',
            )
        return cls("grid", 2, channels, "last", itemsize, variables, _names(first, "units", channels, ""))

    @property
    def described(self) -> str:
        """What the items are, in words."""
        return {"image": "images", "array": "arrays", "voxels": "voxels", "grid": "grids"}[self.kind]


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
    globe: GlobeGrid | None = None
    """where the points lie, when that is on the globe"""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[:-1]

    @property
    def grid(self) -> AnyGrid:
        return self.globe or Grid(self.shape)

    @property
    def batches_with(self) -> tuple[object, ...]:
        """Signals for which this is equal can be stacked."""
        return (self.values.dtype.num, self.globe or self.shape)

    @property
    def level(self) -> str | None:
        """How far above or below the ground a grid lies, as its json says."""
        return None if self.globe is None else level_of(self.attributes)

    @classmethod
    def of(cls, item: Item, axes: Axes) -> "Signal":
        """Read an item along the axes of its dataset; one that does not fit is an `ItemError`."""
        if axes.kind == "array":
            item = _as_values(item)
        array = item.array
        wanted = {"image": ("image",), "grid": ("grid",)}.get(axes.kind, ("array", "grid"))
        if item.kind not in wanted:
            raise ItemError(f"this is {KINDS[item.kind]}, the base was made for {axes.described}")
        attributes = dict(item.attributes)
        globe = None
        if axes.kind == "grid":
            globe = _globe(item)
            names, units = (_names(item, name, array.shape[-1], default) for name, default in _OF_CHANNELS)
            if (names, units) != (axes.variables, axes.units):
                expected = _with_units(axes.variables, axes.units)
                raise OtherVariablesError(f"found {_with_units(names, units)}; expected {expected}")
            attributes = {name: value for name, value in attributes.items() if name not in OF_GRIDS}
        elif axes.kind == "voxels":
            array = _volume(array)[..., None]
        elif axes.channel_axis == "none":
            array = array[..., None]
        elif axes.channel_axis == "first":
            array = np.moveaxis(array, 0, -1) if array.ndim else array
        if array.ndim != axes.dims + 1 or array.shape[-1] != axes.channels or 0 in array.shape:
            raise ItemError(
                f"found shape {item.array.shape}; expected {axes.dims} grid axes and {axes.channels} channels "
                f"(channels {axes.channel_axis})"
            )
        if axes.kind == "voxels" and not (array.min() >= 0 and array.max() <= 1):
            raise ItemError(f"occupancy lies between 0 and 1, found {array.min():g} to {array.max():g}")
        valid = None
        if array.dtype.kind == "f":
            finite = np.isfinite(array)
            if not finite.any():
                raise ItemError("every value is missing (NaN or infinite)")
            if not finite.all():
                valid, array = finite, np.where(finite, array, 0)
        return cls(item.key, array, item.peak, valid, item.label, attributes or None, globe)


def level_of(attributes: Mapping[str, Any] | None) -> str | None:
    """The level that a grid's json names, as text."""
    for name in LEVELS:
        level = (attributes or {}).get(name)
        if isinstance(level, (int, float)) and abs(level) < MOST_LEVEL:
            return f"{level:g}"
    return None


def _as_values(item: Item) -> Item:
    """An image of floats as the array that it is as well."""
    if item.kind != "image" or item.array.dtype.kind != "f":
        return item
    return replace(item, kind="array", peak=None, has_bands=True)


def _described_variables(item: Item) -> str:
    return _with_units(*(_names(item, name, item.array.shape[-1], default) for name, default in _OF_CHANNELS))


def _with_units(variables: Sequence[str], units: Sequence[str]) -> str:
    return ", ".join(f"{name} in {unit}" if unit else name for name, unit in zip(variables, units, strict=True))


def _globe(item: Item) -> GlobeGrid:
    latitude, longitude = item.attributes["latitude"], item.attributes["longitude"]
    return GlobeGrid(tuple(map(float, latitude)), tuple(map(float, longitude)))


def _names(item: Item, attribute: str, channels: int, default: str | None = None) -> tuple[str, ...]:
    """What a grid's json says of each channel."""
    said = item.attributes.get(attribute)
    if isinstance(said, str) and (channels == 1 or default is not None):
        return (said,) * channels
    if isinstance(said, list) and len(said) == channels:
        return tuple(map(str, said))
    return tuple(f"channel_{number}" if default is None else default for number in range(channels))


def _are_voxels(items: Sequence[Item]) -> bool:
    """All are volumes of 0 and 1, and something is in them."""
    return all(not item.has_bands and _is_occupancy(item.array) for item in items) and any(
        item.array.any() for item in items
    )


def _is_occupancy(array: np.ndarray) -> bool:
    """A volume that holds nothing but 0 and 1."""
    volume = _volume(array)
    # three axes with few along the last are an image with channels
    is_volume = volume.ndim == 3 and (array.ndim == 4 or min(volume.shape) > MOST_IMAGE_CHANNELS)
    return is_volume and bool(((volume == 0) | (volume == 1)).all())


def _volume(array: np.ndarray) -> np.ndarray:
    """Without a channel axis of length one, wherever it stands."""
    if array.ndim == 4 and 1 in (array.shape[0], array.shape[-1]):
        return array[..., 0] if array.shape[-1] == 1 else array[0]
    return array


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
                mask_key = hashlib.blake2b(np.packbits(masks).tobytes(), digest_size=16).digest()
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
    held = 0
    for position, signal in signals:
        group = waiting.setdefault(signal.batches_with, [])
        group.append((position, signal))
        held += signal.values.nbytes
        if len(group) == size:
            full = signal.batches_with
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
    return f"{KINDS[item.kind]} of shape {'x'.join(map(str, item.array.shape))}"


def _torch_dtype(values: np.ndarray) -> np.ndarray:
    # torch computes in few integer types; float32 holds every code up to 2**24
    if values.dtype in (np.uint8, np.float32):
        return np.ascontiguousarray(values)
    return values.astype(np.float32)
