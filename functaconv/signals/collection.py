"""Random access to the signals of shards."""

from collections.abc import Callable, Iterator, Sequence
from threading import Lock

from functaconv.data.copies import LocalCopies
from functaconv.data.grouping import RecordLocation
from functaconv.data.items import Record
from functaconv.data.limits import check_ahead
from functaconv.data.shards import index_shard, read_at
from functaconv.signals.loader import map_ahead
from functaconv.signals.signal import Signal


class Collection:
    """Random access to the signals of shards; decoded ones are kept in memory up to a limit.

    A record gives one signal, or its tiles: `each` indices belong to every record. One with fewer tiles has no signal
    for the last of them; of one with more, some are left out. Shards that are compressed or come from afar are read
    from `copies`, made where they are not given. Threads may share a collection.
    """

    def __init__(
        self,
        shards: Sequence[str],
        decode: Callable[[Record], Sequence[Signal]],
        *,
        each: int = 1,
        memory: int = 2 << 30,
        copies: LocalCopies | None = None,
    ) -> None:
        self._shards, self._decode, self._memory = tuple(shards), decode, memory
        self.each = each
        self._copies = copies or LocalCopies(self._shards)
        self._locations: list[tuple[int, RecordLocation]] = []
        for number, shard in enumerate(self._shards):
            with self._copies.opened(shard) as stream:
                indexed = index_shard(shard, stream=stream)
            self._locations += [(number, location) for location in indexed if not location.is_joined]
        self._kept: dict[int, tuple[Signal, ...]] = {}
        self._lock = Lock()
        self.bytes_kept = 0
        self.bad: set[int] = set()
        """records that were looked at and gave no signal"""

    @property
    def records(self) -> int:
        """How many there are, whether they give signals or not."""
        return len(self._locations)

    def __len__(self) -> int:
        return self.records * self.each

    def __getitem__(self, index: int) -> Signal | None:
        """A signal of the record `index // each`, or None."""
        record, number = divmod(index, self.each)
        signals = self.signals(record)
        if len(signals) > self.each:
            # from all over the record
            number = number * len(signals) // self.each
        return signals[number] if number < len(signals) else None

    def signals(self, record: int) -> tuple[Signal, ...]:
        """All signals of a record; none where it gives none."""
        if record in self._kept:
            return self._kept[record]
        number, location = self._locations[record]
        shard = self._shards[number]
        check_ahead(location.length)
        with self._copies.opened(shard) as stream:
            read = read_at(shard, location, number, stream=stream)
        signals = tuple(self._decode(read))
        size = sum(signal.values.nbytes for signal in signals)
        with self._lock:
            if record not in self._kept and self.bytes_kept + size <= self._memory:
                self._kept[record] = signals
                self.bytes_kept += size
            if not signals:
                self.bad.add(record)
        return signals

    def all(self, *, workers: int) -> Iterator[Signal]:
        """Every signal once, in order, decoded in parallel."""
        for signals in map_ahead(self.signals, range(self.records), workers=workers):
            yield from signals
