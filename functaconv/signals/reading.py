"""From records to signals: how a dataset is read, the same when learning, encoding and comparing."""

from dataclasses import dataclass

from functaconv.errors import ItemError
from functaconv.signals.batch import Axes, Signal
from functaconv.signals.tiles import Tile, tiles_of
from functaconv.sources.decoders import decode, usable_field
from functaconv.sources.images import ImageTransform
from functaconv.sources.items import Record


@dataclass(frozen=True)
class Reading:
    """Which member of a record holds the array, what is done to it, and along which axes it is read."""

    axes: Axes
    field: str | None = None
    transform: ImageTransform | None = None
    tile: int | None = None

    def signal(self, record: Record) -> Signal | None:
        """The record's signal, or None when it has no usable field; an unusable one is an `ItemError`."""
        if record.problem is not None:
            raise ItemError(record.problem)
        if usable_field(record, self.field) is None:
            return None
        channels = self.axes.channels if self.axes.kind == "image" else None
        return Signal.of(decode(record, field=self.field, channels=channels, transform=self.transform), self.axes)

    def tiles(self, record: Record) -> tuple[Tile, ...]:
        """The record's signal, cut where it is larger than a tile; empty when it has no usable field."""
        signal = self.signal(record)
        return () if signal is None else tuple(tiles_of(signal, self.tile))
