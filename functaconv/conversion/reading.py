"""The records of a task, decoded."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import Any

from functaconv.conversion.tasks import Task, check_same, is_full
from functaconv.conversion.work import Work
from functaconv.data.decoders import USABLE_HINT, decode, usable_field
from functaconv.data.ignored import ignore, most_ignored
from functaconv.data.items import Record
from functaconv.data.naming import is_local
from functaconv.data.noise import reading
from functaconv.data.shards import fingerprint, read_records, shown
from functaconv.data.storage import opened
from functaconv.errors import ChangedInputError, InputError, ItemError
from functaconv.modalities.reading import count_ignored, stored_length
from functaconv.signals.loader import Ahead, begun_ahead
from functaconv.signals.tiles import Tile
from functaconv.words import counted

FIRST_ITEMS = 16
PORTION_BYTES = 64 << 20
"""of decoded records, from which on they are fitted before more are decoded"""
LARGE_VALUES = 1 << 22
"""of a signal, from which on nothing else is decoded while it is fitted"""
PER_TILE, PER_CHARACTER = 1 << 10, 32
"""bytes of Python objects, about: of a tile, and for each character of JSON"""


@dataclass(frozen=True)
class Read:
    """What became of a record before fitting: tiles, or a reason why not, or neither when it holds no array."""

    key: str
    number: int
    length: int
    """bytes in the shard"""
    tiles: tuple[Tile, ...] = ()
    reason: str | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)
    """kind -> what of the record, and behind it, is not in the tiles"""

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
        return self.bytes > PORTION_BYTES or any(tile.signal.values.size > LARGE_VALUES for tile in self.tiles)


@dataclass(frozen=True)
class Portion:
    """Decoded records of a block: all of them, or as many as are in memory together."""

    shard: int
    number: int
    """of the block in its shard"""
    start: int
    """first record of the portion"""
    reads: tuple[Read, ...]
    source: Mapping[str, Any]
    """the shard's fingerprint"""
    is_end: bool
    """of the block"""
    is_last: bool = False
    """the shard ends here, as far as it is wanted"""
    damage: str | None = None
    """why the shard cannot be read any further"""
    unplaced: Mapping[str, int] = field(default_factory=dict)
    """kind -> what of the shard lies behind no record"""

    @property
    def ignored(self) -> Counter[str]:
        """What was among the records, and what was not, that is not converted."""
        total = Counter[str]()
        for counts in (*(read.ignored for read in self.reads), self.unplaced):
            for kind, count in counts.items():
                ignore(total, kind, count)
        return total

    @property
    def stop(self) -> int:
        return self.start + len(self.reads)

    @property
    def is_large(self) -> bool:
        return any(read.is_large for read in self.reads)


def read(work: Work, task: Task) -> Iterator[Portion]:
    """The records of a task, decoded, a portion at a time.

    A block ends after `work.block` records, or sooner, by their bytes in the shard. A damaged shard ends with a block,
    empty perhaps, that says so; a shard without records is an empty block.
    """
    name = work.names[task.shard]
    with ExitStack() as stack:
        stream, begin = None, None
        if task.offset is None:
            # what is read from its beginning is opened once: a server is asked once
            stream = stack.enter_context(opened(name, work.stream(name), known=task.source))
            source: Mapping[str, Any] = fingerprint(name, stream)
            check_same(name, task.source, source)
        else:
            assert task.source is not None
            source, begin = task.source, (task.start, task.offset)
        unplaced = Counter[str]()
        records = read_records(name, task.shard, start=task.start, begin=begin, stream=stream, unplaced=unplaced)
        wanted = islice(records, None if task.stop is None else task.stop - task.start)
        # closed whatever happens: no thread goes on decoding
        reads = stack.enter_context(closing(begun_ahead(partial(_read, work), wanted, workers=work.workers)))
        yield from _portions(work, task, source, reads, unplaced)


def _portions(
    work: Work,
    task: Task,
    source: Mapping[str, Any],
    reads: Iterator[Ahead[Read]],
    unplaced: Mapping[str, int],
) -> Iterator[Portion]:
    upcoming, damage = _next(reads)
    number, start = task.number, task.start
    while True:
        records = held = decoded = 0
        portion: list[Read] = []
        while upcoming is not None and not is_full(records, held, work.block):
            if decoded >= PORTION_BYTES:
                yield Portion(task.shard, number, start, tuple(portion), source, is_end=False)
                start, decoded = start + len(portion), 0
                portion.clear()
            # what comes next is decoded, if it is large, only when it is asked for
            portion.append(upcoming.result())
            records, held, decoded = records + 1, held + portion[-1].length, decoded + portion[-1].bytes
            upcoming, damage = _next(reads)
        is_last, stop = upcoming is None, start + len(portion)
        if is_last and damage is None and task.is_counted and task.stop != stop:
            raise ChangedInputError(
                f"changed input: {shown(work.names[task.shard])} ends after {stop} records, when the work began it "
                f"had {task.stop} or more",
                hint="put the shard back as it was, or start again with --overwrite",
            )
        yield Portion(
            task.shard, number, start, tuple(portion), source, is_end=True,
            is_last=is_last and (task.is_last or damage is not None), damage=damage if is_last else None,
            unplaced=unplaced if is_last else {},
        )  # fmt: skip
        if is_last:
            return
        number, start = number + 1, stop


def _next(reads: Iterator[Ahead[Read]]) -> tuple[Ahead[Read] | None, str | None]:
    """The next record, or None and, where the shard is damaged, in what way."""
    try:
        return next(reads, None), None
    except ChangedInputError:
        raise
    except InputError as error:
        return None, str(error)


def _read(work: Work, record: Record) -> Read:
    ignored = Counter[str]()
    try:
        tiles = work.reading.tiles(record, ignored)
        if tiles:
            # a time that cannot be stored is said before anything is fitted
            work.layout.kind.seconds(tiles[0].signal.attributes or {})
        return Read(record.key, record.record, record.length, tiles, ignored=ignored)
    except ItemError as error:
        return Read(record.key, record.record, record.length, reason=str(error), ignored=ignored)


def check_first_items(work: Work) -> None:
    """Before anything is made or replaced: shards without any usable item, or with items that the base is not for.

    What comes through a pipe cannot be looked at twice, and a damaged shard is the conversion's to tell.
    """
    axes = work.stored.base.axes
    if work.is_piped:
        return
    ignored = Counter[str]()
    try:
        looks = [_look(work, record) for record in islice(_usable(work, ignored), FIRST_ITEMS)]
    except InputError:
        return
    if not looks:
        raise InputError(nothing_usable(work, ignored), hint=USABLE_HINT)
    mismatches = [look.mismatch for look in looks if look.mismatch]
    # one item that does not fit is a failed item; but colour would be lost without a word
    if len(mismatches) == len(looks) or any(look.loses_colour for look in looks):
        raise InputError(
            f"the base is for {axes.described} of {counted(axes.channels, 'channel')}: {mismatches[0]}",
            hint="learn a base on such data with fit-base"
            + ("; --channels 1 converts to gray" if axes.modality.can_transform and axes.channels == 1 else ""),
        )


def nothing_usable(work: Work, ignored: Mapping[str, int]) -> str:
    """That there was no item, and none that failed; `ignored` is what there was instead."""
    return f"there is no usable item in {work.described}" + (f": {most_ignored(ignored)}" if ignored else "")


def _usable(work: Work, ignored: Counter[str]) -> Iterator[Record]:
    """The records that hold an array, or should; what there is besides is counted."""
    has_any = False
    for number, name in enumerate(work.names):
        if has_any and not is_local(name):
            # another request before the first item is fitted
            return
        for record in islice(read_records(name, number, unplaced=ignored), work.options.limit):
            count_ignored(record, work.field, ignored)
            if record.problem is not None or usable_field(record, work.field) is not None:
                has_any = True
                yield record


@dataclass(frozen=True)
class _Look:
    mismatch: str = ""
    """why a sound record is not what the base is for"""
    loses_colour: bool = False


def _look(work: Work, record: Record) -> _Look:
    axes = work.stored.base.axes
    try:
        with reading(record.key):
            item = decode(record, field=work.field)
    except ItemError:
        return _Look()
    if axes.modality.can_transform and item.kind in axes.modality.item_kinds:
        # the decoder makes it as many channels as the base is for
        lost = "" if work.options.channels == 1 else axes.modality.conversion_loss(item, axes)
        return _Look(lost, loses_colour=bool(lost))
    try:
        axes.signal(item)
    except ItemError as error:
        return _Look(f"{item.key}: {error}")
    return _Look()
