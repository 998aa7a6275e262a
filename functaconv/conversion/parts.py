"""Which blocks this process converts: those that nobody else has, and what dead processes left."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from functaconv.conversion.reading import ReadBlock, read_blocks
from functaconv.conversion.work import Work
from functaconv.errors import InputError, UsageError
from functaconv.functaset.claims import Claims, Held
from functaconv.functaset.ledger import Part, Range
from functaconv.functaset.writer import FunctasetWriter
from functaconv.sources.webdataset import RecordLocation, index_shard, is_read_once, is_seekable, shown


@dataclass(frozen=True)
class Task:
    """A block to be fitted and saved."""

    part: Part
    start: int
    """first record of the part"""
    number: int
    """of the block in its part"""
    block: ReadBlock


@dataclass
class Parts:
    """The parts of a work, as one of the processes that share it takes them."""

    work: Work
    writer: FunctasetWriter
    claims: Claims
    _places: dict[int, list[RecordLocation] | None] = field(default_factory=dict)
    _read_to: dict[int, int] = field(default_factory=dict)

    def tasks(self) -> Iterator[Task]:
        """Block after block of parts that nobody has, claimed when their turn comes. Whoever takes a task gives its
        claim back when the block that is the last of its part is saved.
        """
        for part, span in self._all():
            if self._is_done(part):
                self.writer.check(part, self._source(part, span))
            elif self.claims.take(str(part)) is None:
                yield from self._of(part, span)

    def left(self) -> list[Held] | None:
        """What is not done and in the hands of living processes; None when some of it can be taken.

        To be asked with nothing in hand: of several processes the one that ends its last part last then sees that all
        is done.
        """
        waiting = self._unfinished()
        if not waiting:
            return []
        living = self.claims.await_dead([str(part) for part in waiting])
        names = {str(part) for part in self._unfinished()}
        held = [one for one in living if one.name in names]
        return held if len(held) == len(names) else None

    def _unfinished(self) -> list[Part]:
        return [] if self.writer.is_sealed else self.writer.unfinished(len(self.work.names))

    def _of(self, part: Part, span: Range) -> Iterator[Task]:
        if self._is_done(part):
            # by somebody else, a moment ago
            self.claims.give_back(str(part))
            return
        progress = self.writer.begin(part, self._source(part, span))
        if any(failure.is_damage for failure in progress.failures):
            # killed between the block that holds the damage of a shard and the end of the part
            over = ReadBlock((), progress.records, progress.last_key or "", is_last=True)
            yield Task(part, span.start, progress.blocks, over)
            return
        blocks = read_blocks(self.work, part, span, progress, self._key_before(part))
        # no block is held here while the next one is made
        yield from map(partial(self._task, part, span.start), count(progress.blocks), blocks)

    def _task(self, part: Part, start: int, number: int, block: ReadBlock) -> Task:
        self._read_to[part.shard] = block.consumed
        return Task(part, start, number, block)

    def _source(self, part: Part, span: Range) -> dict[str, Any]:
        return {**self.work.sources[part.shard], "records": [span.start, span.stop]}

    def _key_before(self, part: Part) -> str | None:
        """Of the record before a part, if whoever has that one is done with it."""
        if not part.range:
            return None
        before = self.writer.progress(Part(part.shard, part.range - 1))
        return before.last_key if before.done else None

    def _is_done(self, part: Part) -> bool:
        return self.writer.is_sealed or self.writer.progress(part).done

    def _all(self) -> Iterator[tuple[Part, Range]]:
        """All parts in the order of the input; shards are looked into when their turn comes."""
        room = self.work.limit
        for shard in range(len(self.work.names)):
            spans = self.writer.ranges(shard, partial(self._cut, shard, room))
            for number, span in enumerate(spans):
                yield Part(shard, number), span
            if room is not None:
                room -= self._used(shard, room)

    def _used(self, shard: int, room: int) -> int:
        """How many records of a shard count towards the limit."""
        if (places := self._index(shard)) is not None:
            return min(len(places), room)
        if self.claims.owner.count > 1:
            raise UsageError(
                f"--limit with several processes: {shown(self.work.names[shard])} must be read to know its records",
                hint="leave --limit out, or use one process",
            )
        # its one part was read here before the next shard's turn, or by a run before this one
        return self._read_to.get(shard, self.writer.progress(Part(shard)).records)

    def _index(self, shard: int) -> list[RecordLocation] | None:
        if shard not in self._places:
            # the places of one shard are needed at a time
            self._places = {shard: _places(self.work, shard)}
        return self._places[shard]

    def _cut(self, shard: int, room: int | None) -> list[Range]:
        return _ranges(self._index(shard), self.work.block, room)


def ranges_of(work: Work, shard: int, limit: int | None) -> list[Range]:
    """How a shard of which at most `limit` records are wanted is cut."""
    return _ranges(_places(work, shard), work.block, limit)


def _ranges(places: list[RecordLocation] | None, size: int, limit: int | None) -> list[Range]:
    """Ranges as long as a block, where records can be found without reading all before them."""
    if places is None:
        return [Range(0, limit)]
    count = len(places) if limit is None else min(len(places), limit)
    starts = range(0, count, size) or [0]
    # the last one reads on to the end of the archive, which must be there, unless it is not to
    end = None if limit is None or count < limit else count
    return [
        Range(start, start + size if start + size < count else end, _begin(places, start), is_counted=True)
        for start in starts
    ]


def _begin(places: list[RecordLocation], start: int) -> tuple[int, int] | None:
    """At the record before: its key shows whether the shard is still what it was."""
    return (start - 1, places[start - 1].offset) if start else None


def _places(work: Work, shard: int) -> list[RecordLocation] | None:
    """Where the records of a shard are; None where that takes reading it, or where it is damaged."""
    name = work.names[shard]
    if is_read_once(name) or not is_seekable(name):
        return None
    try:
        return index_shard(name)
    except InputError:
        # the part itself will come upon the damage, after the good items
        return None
