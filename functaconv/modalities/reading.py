"""From records to signals: how a dataset is read, the same when learning, encoding and comparing."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from functaconv.data.decoders import decode, usable_field
from functaconv.data.decoders.attributes import check_attributes
from functaconv.data.decoders.transform import ImageTransform
from functaconv.data.ignored import LABELS, RECORDS, ignore
from functaconv.data.items import Record
from functaconv.data.noise import reading
from functaconv.errors import ItemError, UsageError
from functaconv.modalities import Axes
from functaconv.signals.signal import Signal
from functaconv.signals.tiles import LEAST_TILE, Tile, spans_of, tiles_of
from functaconv.signals.views import Views

# of a signal that is fitted as a whole: 256 x 256 x 256 voxels, 16 million pixels. Fitting a value takes some 40 bytes
MOST_POINTS, MOST_VALUES = 1 << 24, 1 << 26
# tiles of an item
MOST_TILES = 1 << 17
# characters of JSON, of all tiles of an item together
MOST_ATTRIBUTES = 64 << 20
# bytes of Python objects, about: of a tile, and for each character of JSON
PER_TILE, PER_CHARACTER = 1 << 10, 32


@dataclass(frozen=True)
class DecodedRecord:
    """The tiles of a record, or the reason why there are none; neither where it holds no array."""

    record: Record
    """without its members"""
    tiles: tuple[Tile, ...] = ()
    reason: str | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)
    """kind -> what of the record, and between it and the next, is not in the tiles"""

    @cached_property
    def bytes(self) -> int:
        """What it takes in memory, with the attributes that each tile is stored with."""
        if not self.tiles:
            return 0
        attributes = stored_length(self.tiles[0].signal)
        masks = sum(tile.signal.valid.nbytes for tile in self.tiles if tile.signal.valid is not None)
        values = sum(tile.signal.values.nbytes for tile in self.tiles)
        return masks + values + len(self.tiles) * (PER_TILE + attributes) + PER_CHARACTER * attributes


@dataclass(frozen=True)
class Reading:
    """Which member of a record holds the array, what is done to it, and along which axes it is read."""

    axes: Axes
    field: str | None = None
    transform: ImageTransform | None = None
    tile: int | None = None
    overlap: tuple[int, ...] = ()
    """points that neighbouring tiles share along each axis"""
    views: Views | None = None
    """augmented views, which take the place of tiles"""

    def signal(self, record: Record, ignored: Counter[str] | None = None) -> Signal | None:
        """The record's signal, or None when it has no usable field; an unusable one is an `ItemError`.

        `ignored` counts what of the record, and behind it, is not in the signal.
        """
        ignored = Counter() if ignored is None else ignored
        count_ignored(record, self.field, ignored)
        if record.problem is not None:
            raise ItemError(record.problem)
        if usable_field(record, self.field) is None:
            return None
        channels = self.axes.channels if self.axes.modality.can_transform else None
        with reading(record.key):
            item = decode(record, field=self.field, channels=channels, transform=self.transform, ignored=ignored)
        return self.axes.signal(item)

    def tiles(self, record: Record, ignored: Counter[str] | None = None) -> tuple[Tile, ...]:
        """The record's signal, cut where it is larger than a tile, or its views; empty when it has no usable field."""
        signal = self.signal(record, ignored)
        if signal is None:
            return ()
        if self.views is not None:
            _check_size(signal, None, self.views.count)
            return tuple(Tile(view, (0,) * len(view.shape), signal) for view in self.views.of(signal))
        spans = spans_of(signal.shape, self.tile, self.overlap)
        _check_size(signal, self.tile, math.prod(map(len, spans)))
        return tuple(tiles_of(signal, self.tile, self.overlap))

    def decoded(self, record: Record) -> DecodedRecord:
        """The record's tiles, or the reason why there are none."""
        ignored, bare = Counter[str](), replace(record, fields={})
        try:
            tiles = self.tiles(record, ignored)
            if tiles:
                # a time that cannot be stored is found here, before anything is fitted
                self.axes.modality.seconds(tiles[0].signal.attributes or {})
            return DecodedRecord(bare, tiles, ignored=ignored)
        except ItemError as error:
            return DecodedRecord(bare, reason=str(error), ignored=ignored)


def count_ignored(record: Record, field: str | None, ignored: Counter[str]) -> None:
    """Count what a record holds that cannot be in an item, whatever comes of it."""
    for kind, count in record.ignored.items():
        ignore(ignored, kind, count)
    if record.fields and record.problem is None and usable_field(record, field) is None:
        ignore(ignored, LABELS if usable_field(record, None) is None else RECORDS)


def check_possible(axes: Axes, transform: ImageTransform | None, tile: int | None) -> None:
    """UsageError for what can be done only to images, where the items are none."""
    if not axes.modality.can_transform and (transform is not None or tile is not None):
        raise UsageError(f"--tile, --resize and --crop are for images, not for {axes.described}", hint="leave them out")
    if tile is not None and tile < LEAST_TILE:
        raise UsageError(f"--tile must be at least {LEAST_TILE} pixels, not {tile}")


def stored_length(signal: Signal) -> int:
    """Characters of JSON that are stored with a signal."""
    return len(json.dumps(signal.attributes)) if signal.attributes else 0


def _check_size(signal: Signal, tile: int | None, tiles: int) -> None:
    """ItemError for what cannot be fitted in bounded memory."""
    check_attributes(signal.attributes)
    points = math.prod(min(size, tile or size) for size in signal.shape)
    values = points * signal.values.shape[-1]
    if points > MOST_POINTS or values > MOST_VALUES:
        advice = "; --tile cuts it, --resize makes it smaller" if signal.peak is not None else ""
        actual, expected = f"{points} points ({values} values)", f"{MOST_POINTS} ({MOST_VALUES})"
        raise ItemError(f"{actual} to be fitted together, expected at most {expected}{advice}")
    if tiles > MOST_TILES or tiles * stored_length(signal) > MOST_ATTRIBUTES:
        raise ItemError(f"too many tiles ({tiles}), or too much json and txt for so many: give a larger --tile")
