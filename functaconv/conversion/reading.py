"""The records of a part, decoded, a block at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from functaconv.conversion.work import Work
from functaconv.errors import ChangedInputError, InputError, ItemError
from functaconv.functaset.ledger import Progress
from functaconv.signals.loader import map_ahead
from functaconv.signals.tiles import Tile
from functaconv.sources.items import Record
from functaconv.sources.webdataset import read_records


@dataclass(frozen=True)
class Read:
    """What became of a record before fitting: tiles, or a reason why not, or neither when it is to be ignored."""

    key: str
    number: int
    tiles: tuple[Tile, ...] = ()
    reason: str | None = None

    @property
    def is_ignored(self) -> bool:
        return not self.tiles and self.reason is None


@dataclass(frozen=True)
class ReadBlock:
    """Records that are saved together."""

    reads: tuple[Read, ...]
    consumed: int
    """records of the part up to and including this block"""
    last_key: str
    damage: str | None = None
    """why the shard cannot be read any further"""


def read_blocks(work: Work, part: int, progress: Progress, room: int | None) -> Iterator[ReadBlock]:
    """What is left of a part, in blocks of `work.block` records; at most `room` records of the part in all.

    A damaged shard ends with a block, empty perhaps, that says so.
    """
    consumed, last_key = progress.records, progress.last_key or ""
    reads = map_ahead(lambda record: _read(work, record), _records(work, part, progress, room), workers=work.workers)
    while True:
        block: list[Read] = []
        damage = None
        try:
            while len(block) < work.block and (read := next(reads, None)) is not None:
                block.append(read)
        except ChangedInputError:
            raise
        except InputError as error:
            damage = str(error)
        consumed += len(block)
        last_key = block[-1].key if block else last_key
        if block or damage:
            yield ReadBlock(tuple(block), consumed, last_key, damage)
        if len(block) < work.block:
            return


def _records(work: Work, part: int, progress: Progress, room: int | None) -> Iterator[Record]:
    name = work.names[part]
    # one record earlier: its key says whether the shard is still the one that was begun
    start = max(0, progress.records - 1)
    records = read_records(name, part, start=start, stream=work.stdin)
    if progress.records:
        before = next(records, None)
        if before is None or before.key != progress.last_key:
            found = "its end" if before is None else repr(before.key)
            raise ChangedInputError(
                f"changed input: record {start} of {name} was {progress.last_key!r}, now it is {found}",
                hint="put the shard back as it was, or start again with --overwrite",
            )
    yield from islice(records, None if room is None else max(0, room - progress.records))


def _read(work: Work, record: Record) -> Read:
    try:
        return Read(record.key, record.record, work.reading.tiles(record))
    except ItemError as error:
        return Read(record.key, record.record, reason=str(error))
