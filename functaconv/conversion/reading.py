"""The records of a part, decoded, a block at a time."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from functaconv.conversion.places import seconds_of
from functaconv.conversion.work import Work
from functaconv.errors import ChangedInputError, InputError, ItemError
from functaconv.functaset.ledger import Part, Progress, Range
from functaconv.signals.batch import Signal
from functaconv.signals.loader import Ahead, begun_ahead
from functaconv.signals.reading import stored_length
from functaconv.signals.tiles import Tile
from functaconv.sources.decoders import USABLE_HINT, decode, usable_field
from functaconv.sources.items import Record
from functaconv.sources.webdataset import read_records, shown

FIRST_ITEMS = 16
MOST_BYTES = 64 << 20
"""in memory, from which on a block ends"""
LARGE_VALUES = 1 << 22
"""of a signal, from which on nothing else is decoded while it is fitted"""
PER_TILE, PER_CHARACTER = 1 << 10, 32
"""bytes of Python objects, about: of a tile, and for each character of JSON"""


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

    @cached_property
    def bytes(self) -> int:
        """What it takes in memory, with the attributes that each tile is stored with."""
        if not self.tiles:
            return 0
        attributes = stored_length(self.tiles[0].signal)
        masks = sum(tile.signal.valid.nbytes for tile in self.tiles if tile.signal.valid is not None)
        values = sum(tile.signal.values.nbytes for tile in self.tiles)
        return masks + values + len(self.tiles) * (PER_TILE + attributes) + PER_CHARACTER * attributes

    @property
    def is_large(self) -> bool:
        """What is fitted of it takes much more memory than what was read."""
        return self.bytes > MOST_BYTES or any(tile.signal.values.size > LARGE_VALUES for tile in self.tiles)


@dataclass(frozen=True)
class ReadBlock:
    """Records that are saved together."""

    reads: tuple[Read, ...]
    consumed: int
    """records of the shard up to and including this block"""
    last_key: str
    damage: str | None = None
    """why the shard cannot be read any further"""
    is_last: bool = False
    """of its part"""

    @property
    def is_large(self) -> bool:
        return any(read.is_large for read in self.reads)


def read_blocks(
    work: Work, part: Part, span: Range, progress: Progress, key_before: str | None = None
) -> Iterator[ReadBlock]:
    """What is left of a part, in blocks of `work.block` records. `key_before` is that of the record before the part,
    where it is known.

    Where items are much larger than those of the training a block ends sooner, by their bytes. A damaged shard ends
    with a block, empty perhaps, that says so; a part of which nothing is left is an empty block.
    """
    start, last_key = max(span.start, progress.records), progress.last_key or ""
    records = _records(work, part, span, start, progress.last_key or key_before)
    # closed whatever happens: decoders that wait for room would wait for ever
    with closing(begun_ahead(lambda record: _read(work, record), records, workers=work.workers)) as reads:
        yield from _blocks(work, part, span, start, last_key, reads)


def _blocks(
    work: Work, part: Part, span: Range, consumed: int, last_key: str, reads: Iterator[Ahead[Read]]
) -> Iterator[ReadBlock]:
    upcoming, damage = _next(reads)
    while True:
        block: list[Read] = []
        room_left = MOST_BYTES
        while upcoming is not None and len(block) < work.block and room_left > 0:
            # what comes next is decoded, if it is large, only when this block is done with
            block.append(upcoming.result())
            room_left -= block[-1].bytes
            upcoming, damage = _next(reads)
        consumed += len(block)
        last_key = block[-1].key if block else last_key
        is_last = upcoming is None
        if is_last and damage is None and span.stop is not None and consumed < span.stop and span.is_counted:
            raise ChangedInputError(
                f"changed input: {shown(work.names[part.shard])} ends after {consumed} records, when the work began it "
                f"had {span.stop} or more",
                hint="put the shard back as it was, or start again with --overwrite",
            )
        yield ReadBlock(tuple(block), consumed, last_key, damage if is_last else None, is_last)
        if is_last:
            return


def _next(reads: Iterator[Ahead[Read]]) -> tuple[Ahead[Read] | None, str | None]:
    """The next record, or None and, where the shard is damaged, in what way."""
    try:
        return next(reads, None), None
    except ChangedInputError:
        raise
    except InputError as error:
        return None, str(error)


def _records(work: Work, part: Part, span: Range, start: int, key_before: str | None) -> Iterator[Record]:
    """From record `start` on; the one before it must have the key that it had."""
    name = work.names[part.shard]
    is_known = start > 0 and key_before is not None
    records = read_records(
        name, part.shard, start=start - is_known, begin=span.begin, stream=work.stream(name),
        known=work.sources[part.shard],
    )  # fmt: skip
    if is_known:
        before = next(records, None)
        if before is None or before.key != key_before:
            found = "its end" if before is None else repr(before.key)
            raise ChangedInputError(
                f"changed input: record {start - 1} of {shown(name)} was {key_before!r}, now it is {found}",
                hint="put the shard back as it was, or start again with --overwrite",
            )
    yield from islice(records, None if span.stop is None else span.stop - start)


def _read(work: Work, record: Record) -> Read:
    try:
        tiles = work.reading.tiles(record)
        if tiles and tiles[0].signal.globe is not None:
            seconds_of(tiles[0].signal.attributes or {})
        return Read(record.key, record.record, tiles)
    except ItemError as error:
        return Read(record.key, record.record, reason=str(error))


def check_first_items(work: Work) -> None:
    """Before anything is made or replaced: shards without any usable item, or with items that the base is not for.

    What comes through a pipe cannot be looked at twice, and a damaged shard is the conversion's to tell.
    """
    axes = work.stored.base.axes
    if work.is_piped:
        return
    try:
        looks = [_look(work, record) for record in islice(_usable(work), FIRST_ITEMS)]
    except InputError:
        return
    if not looks:
        raise InputError(
            f"there is no usable item in {work.described}",
            hint=USABLE_HINT,
        )
    found = [look.mismatch for look in looks if look.mismatch]
    # one item that does not fit is a failed item; but colour would be lost without a word
    if len(found) == len(looks) or any(look.loses_colour for look in looks):
        raise InputError(
            f"the base is for {axes.described} of {axes.channels} channel{'s' * (axes.channels > 1)}: {found[0]}",
            hint="learn a base on such data with fit-base"
            + ("; --channels 1 converts to gray" if axes.kind == "image" and axes.channels == 1 else ""),
        )


def _usable(work: Work) -> Iterator[Record]:
    for part, name in enumerate(work.names):
        for record in islice(read_records(name, part, known=work.sources[part]), work.limit):
            if record.problem is not None or usable_field(record, work.field) is not None:
                yield record


@dataclass(frozen=True)
class _Look:
    mismatch: str = ""
    """why a sound record is not what the base is for"""
    loses_colour: bool = False


def _look(work: Work, record: Record) -> _Look:
    axes = work.stored.base.axes
    try:
        item = decode(record, field=work.field)
    except ItemError:
        return _Look()
    if item.kind == axes.kind == "image":
        if item.array.shape[-1] > axes.channels and not work.may_lose_colour:
            return _Look(f"{item.key} is a colour image", loses_colour=True)
        return _Look()
    try:
        Signal.of(item, axes)
    except ItemError as error:
        return _Look(f"{item.key}: {error}")
    return _Look()
