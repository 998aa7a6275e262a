"""The protocol of a modality, and how the arrays of a dataset are read.

A modality is one class with the defaults of plain arrays on the unit interval, square or cube; it overrides what is
particular to it. Nothing here or in its modules imports torch before it computes: a functaset is read without.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from functaconv.data.items import Item
from functaconv.errors import InputError, ItemError
from functaconv.signals.grid import AnyGrid
from functaconv.signals.signal import Signal

if TYPE_CHECKING:
    from torch import Tensor

    from functaconv.modalities.compared import Compared
    from functaconv.networks import Operator
    from functaconv.signals.geometry import Geometry

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
        readings = (one.axes(items, channel_axis, modality) for one in reversed(MODALITIES.values()))
        return next(axes for axes in readings if axes is not None)

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
    """A measure of items besides the mean squared error: a column of the functaset."""

    name: str
    """of the column"""
    report: str
    """its name in report.json"""
    label: str = ""
    """in words"""
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
    in_full = ""
    """a longer name for readers who do not know the short one; empty where there is none"""
    one: str
    """one item, in messages"""
    item_kinds: tuple[str, ...] = ("array", "grid")
    """kinds of decoded items that can be read, the usual one first"""
    dims: tuple[int, ...] = (1, 2, 3)
    """how many grid axes items may have"""
    preset: str
    """of the recipe that fits without being asked"""
    can_transform = False
    """the decoder can convert channels, resize and crop, and large items can be cut into tiles"""
    mirrored_axis = -2
    """of values `[*grid, channel]`: from left to right, the last one of the grid"""
    has_code_range = False
    """values are fractions of a code range that is known; others are scaled by the range of the training items"""
    has_coordinates = False
    """items say where their points lie, what their channels are called and when they were, and a functaset keeps it"""
    frame: Literal["local", "both"] = "local"
    """what the network sees of a point: its place in the cell of its site, or that and its place in the whole"""
    operator: "Operator | None" = None
    """what items hold in place of the function's values at points: averages over a footprint, say. The closed form is
    one of values at points."""
    convention = "cell centres of the unit interval, square or cube; first axis first"
    """of coordinates, for readers of a functaset"""
    measures: tuple[Measure, ...] = ()
    """in the order of their columns"""
    agreement_measures: tuple[Measure, ...] = ()
    """those that `agreement` computes, and that are told of PCA as well"""
    own_formats: tuple[str, ...] = ()
    """render formats that are for these items only"""
    usual_format = "npy"
    """what items are rendered to unless something else is asked for"""

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
        """ItemError for an item of another kind."""
        if item.kind not in self.item_kinds:
            raise ItemError(f"this is {_kind_in_words(item.kind)}, the base was made for {axes.described}")

    def channels_last(self, array: np.ndarray, axes: Axes) -> np.ndarray:
        """The array as `[*grid, channel]`; one of the wrong rank may come out with any shape."""
        if axes.channel_axis == "none":
            return array[..., None]
        return np.moveaxis(array, 0, -1) if axes.channel_axis == "first" and array.ndim else array

    def check_values(self, array: np.ndarray) -> None:
        """ItemError for values that the modality cannot have."""

    def conversion_loss(self, item: Item, axes: Axes) -> str:  # noqa: ARG002 - for those that can be converted
        """What an item would lose silently when its channels are converted, in words; empty for nothing."""
        return ""

    def geometry(self, grids: Iterable[Any], axes: Axes, kind: str) -> "Geometry":  # noqa: ARG002 - one kind only
        """What the network sees of points, given the own grids of all training items; `kind` is `data.geometry`."""
        from functaconv.signals.geometry import Flat

        return Flat(axes.dims)

    def level(self, attributes: Mapping[str, Any]) -> str | None:  # noqa: ARG002 - there are none
        """The level of an item with these attributes: see `Signal.level`."""
        return None

    def seconds(self, attributes: Mapping[str, Any]) -> int | None:  # noqa: ARG002 - there is none
        """Seconds since 1970 of an item with these attributes; an ItemError for a time that cannot be kept."""
        return None

    def meta(self, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes that are stored as JSON, without those that have a column."""
        return attributes

    def stored_axes(self, grid: AnyGrid) -> tuple[np.ndarray, np.ndarray]:
        """With `has_coordinates`: the places of an own grid's rows and columns, float64, as a functaset stores them."""
        raise NotImplementedError

    def grid_of(self, rows: np.ndarray, columns: np.ndarray) -> AnyGrid:
        """The grid whose stored axes these are."""
        raise NotImplementedError

    def blank(self, array: np.ndarray, grid: AnyGrid, native: AnyGrid, missing: np.ndarray) -> None:
        """Put NaN into a rendered `[*grid, channel]` array where values of the native grid were `missing`."""
        raise NotImplementedError

    @property
    def measure_names(self) -> tuple[str, ...]:
        return tuple(measure.name for measure in self.measures)

    def compare(self, compared: "Compared") -> "dict[str, Tensor]":  # noqa: ARG002 - nothing but the mean squared error
        """The measures of decoded items, by name: `[item]` or `[item, channel]`."""
        return {}

    def agreement(self, decoded: "Tensor", features: "Tensor") -> "dict[str, Tensor]":  # noqa: ARG002 - by default none
        """The `agreement_measures` of decoded items, by name: each `[item]` float64."""
        return {}

    def lines(self, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Label and text of what a report says of the measures, in a terminal, as far as the summary has them."""
        for measure in self.measures:
            if (value := summary.get(measure.report)) is not None:
                yield measure.label or measure.report, str(value)

    def can_draw(self, axes: int, channels: int) -> bool:
        """Whether an item makes a picture."""
        return axes == 2 and channels in (1, 3)

    def drawn(self, features: np.ndarray) -> np.ndarray:
        """Features of one item as a picture, uint8 `[row, column, 1 or 3]`; values that are missing are black."""
        codes = np.empty(features.shape, np.uint8)
        # row by row: nothing else is as large as the item
        for row, values in enumerate(features):
            codes[row] = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255)
        return codes

    def agreement_text(self, summary: Mapping[str, Any]) -> str:  # noqa: ARG002 - by default none
        """What a report says of the `agreement_measures`, in words; empty for nothing."""
        return ""


# by name; filled in `functaconv.modalities`
MODALITIES: dict[str, Modality] = {}


def modality_of(name: str) -> Modality:
    """The modality of this name; one that is not known is read as plain arrays."""
    return MODALITIES.get(name, MODALITIES[PLAIN])


def as_array(item: Item) -> Item:
    """A picture of floats as a plain array."""
    if item.peak is None or item.array.dtype.kind != "f":
        return item
    return replace(item, kind=PLAIN, peak=None, has_bands=True)


def _kind_in_words(kind: str) -> str:
    return next(modality.one for modality in MODALITIES.values() if modality.item_kinds[0] == kind)


def _described(item: Item) -> str:
    return f"{_kind_in_words(item.kind)} of shape {'x'.join(map(str, item.array.shape))}"
