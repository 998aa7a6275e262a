"""The protocol of a modality, and how the arrays of a dataset are read.

A modality is one class with the defaults of plain arrays on the unit interval, square or cube; it overrides what is
particular to it. Nothing here or in its modules imports torch before it computes: a functaset is read without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from functaconv.data.items import Item
from functaconv.errors import InputError, ItemError
from functaconv.signals.signal import Signal

ChannelAxis = Literal["auto", "last", "first", "none"]
PLAIN: Literal["array"] = "array"


@dataclass(frozen=True)
class Axes:
    """How the arrays of a dataset are read: what they hold, how many grid axes and channels, where the channels are."""

    kind: str
    """name of the modality"""
    dims: int
    channels: int
    channel_axis: Literal["last", "first", "none"] = "last"
    itemsize: int = 1
    """bytes of one raw value"""
    variables: tuple[str, ...] = ()
    """the name of each channel, where the items say"""
    units: tuple[str, ...] = ()
    """the unit of each channel, empty where none was given"""

    @classmethod
    def of(cls, items: Sequence[Item], channel_axis: ChannelAxis = "auto", modality: str = "auto") -> "Axes":
        """What the first items have in common.

        The last modality of the table that takes them reads them; `modality` says what arrays are where that is wrong.
        Pictures of bands, and of floats beside them, are arrays. InputError for items of several kinds or ranks.
        """
        if modality == PLAIN or any(item.has_bands for item in items):
            items = [as_array(item) for item in items]
        first = items[0]
        for item in items:
            if item.kind != first.kind or (item.kind == PLAIN and item.array.ndim != first.array.ndim):
                raise InputError(
                    f"mixed dataset: {first.key} is {_described(first)}, {item.key} {_described(item)}",
                    hint="put them in shards of their own, or choose a member with --field",
                )
        found = (one.axes(items, channel_axis, modality) for one in reversed(MODALITIES.values()))
        return next(axes for axes in found if axes is not None)

    @property
    def modality(self) -> "Modality":
        return modality_of(self.kind)

    @property
    def described(self) -> str:
        """What the items are, in words."""
        return self.modality.plural

    def signal(self, item: Item) -> Signal:
        """The item read along these axes; one that does not fit is an `ItemError`."""
        return self.modality.to_signal(item, self)


@dataclass(frozen=True)
class Measure:
    """What items are judged by besides the mean squared error: a column of the functaset."""

    name: str
    """of the column"""
    report: str
    """its name in report.json"""
    combine: Literal["mean", "rms", "max"] = "mean"
    """how the report makes one number of all items'"""
    by_variable: bool = False
    """a number for every channel, in its units; NaN for a variable that an item misses altogether"""


class Modality:
    """What is particular to one kind of data; the defaults are those of plain arrays."""

    name: str
    """in recipes and on disk"""
    plural: str
    """what the items are, in messages"""
    one: str
    """what an item is called that a decoder takes for one"""
    item_kinds: tuple[str, ...] = ("array", "grid")
    """kinds of decoded items that can be read, the usual one first"""

    def axes(self, items: Sequence[Item], channel_axis: ChannelAxis, asked: str) -> Axes | None:
        """How these first items of a dataset are read; None if they are of another modality.

        They are alike in kind and rank. `asked` is the recipe's `data.modality`.
        """
        raise NotImplementedError

    def to_signal(self, item: Item, axes: Axes) -> Signal:
        """The item as a signal; an ItemError says why it does not fit."""
        self.check_kind(item, axes)
        array = self.channels_last(item.array, axes)
        if array.ndim != axes.dims + 1 or array.shape[-1] != axes.channels or 0 in array.shape:
            raise ItemError(
                f"found shape {item.array.shape}; expected {axes.dims} grid axes and {axes.channels} channels "
                f"(channels {axes.channel_axis})"
            )
        self.check_values(array)
        valid = None
        if array.dtype.kind == "f":
            finite = np.isfinite(array)
            if not finite.any():
                raise ItemError("every value is missing (NaN or infinite)")
            if not finite.all():
                valid, array = finite, np.where(finite, array, 0)
        return Signal(item.key, array, item.peak, valid, item.label, dict(item.attributes) or None)

    def check_kind(self, item: Item, axes: Axes) -> None:
        """ItemError for what the decoder took for something else."""
        if item.kind not in self.item_kinds:
            raise ItemError(f"this is {_kind_in_words(item.kind)}, the base was made for {axes.described}")

    def channels_last(self, array: np.ndarray, axes: Axes) -> np.ndarray:
        """The array as `[*grid, channel]`; one of the wrong rank may come out with any shape."""
        if axes.channel_axis == "none":
            return array[..., None]
        return np.moveaxis(array, 0, -1) if axes.channel_axis == "first" and array.ndim else array

    def check_values(self, array: np.ndarray) -> None:
        """ItemError for values that the modality cannot have."""


MODALITIES: dict[str, Modality] = {}
"""by name; `functaconv.modalities` fills it"""


def modality_of(name: str) -> Modality:
    """The modality of this name; one that is not known is read as plain arrays."""
    return MODALITIES.get(name, MODALITIES[PLAIN])


def as_array(item: Item) -> Item:
    """A picture of floats as the array that it is as well."""
    if item.peak is None or item.array.dtype.kind != "f":
        return item
    return replace(item, kind=PLAIN, peak=None, has_bands=True)


def _kind_in_words(kind: str) -> str:
    return next(modality.one for modality in MODALITIES.values() if modality.item_kinds[0] == kind)


def _described(item: Item) -> str:
    return f"{_kind_in_words(item.kind)} of shape {'x'.join(map(str, item.array.shape))}"
