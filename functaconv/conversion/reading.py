"""The records of a task, decoded."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from functaconv.conversion.tasks import Task, check_same, is_full
from functaconv.conversion.work import Work
from functaconv.data.decoders import USABLE_HINT, decode, usable_field
from functaconv.data.ignored import ignore, most_ignored
from functaconv.data.items import Record
from functaconv.data.naming import is_local, shown
from functaconv.data.noise import reading
from functaconv.data.shards import read_records
from functaconv.data.storage import fingerprint, opened
from functaconv.errors import ChangedInputError, InputError, ItemError
from functaconv.modalities.reading import DecodedRecord, count_ignored
from functaconv.signals.loader import Ahead, begun_ahead
from functaconv.words import counted

FIRST_ITEMS = 16
# bytes of decoded records after which they are fitted before more are decoded
PORTION_BYTES = 64 << 20
# values of a signal above which nothing else is decoded while it is fitted
LARGE_VALUES = 1 << 22


@dataclass(frozen=True)
class Portion:
    """Decoded records of a block: all of them, or as many as are in memory together."""

    shard: int
    number: int
    """of the block in its shard"""
    start: int
    """first record of the portion"""
    reads: tuple[DecodedRecord, ...]
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
        """Kind -> how much of it was in this part of the shard and is not converted."""
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
        """Whether fitting it takes much more memory than reading it."""
        return any(
            read.bytes > PORTION_BYTES or any(tile.signal.values.size > LARGE_VALUES for tile in read.tiles)
            for read in self.reads
        )


def read(work: Work, task: Task) -> Iterator[Portion]:
    """The records of a task, decoded, a portion at a time.

    A block ends after `work.block` records, or sooner, by their bytes in the shard. A damaged shard ends with a block,
    empty perhaps, that says so; a shard without records is an empty block.
    """
    name = work.names[task.shard]
    with ExitStack() as stack:
        stream = None
        if task.offset is None:
            # what is read from its beginning is opened once: a server is asked once
            stream = stack.enter_context(opened(name, work.stream(name), known=task.source))
            source: Mapping[str, Any] = fingerprint(name, stream)
            check_same(name, task.source, source)
        else:
            assert task.source is not None
            source = task.source
        unplaced = Counter[str]()
        records = read_records(name, task.shard, start=task.start, offset=task.offset, stream=stream, unplaced=unplaced)
        wanted = islice(records, None if task.stop is None else task.stop - task.start)
        # closed whatever happens: no thread goes on decoding
        reads = stack.enter_context(closing(begun_ahead(work.reading.decoded, wanted, workers=work.workers)))
        yield from _portions(work, task, source, reads, unplaced)


def _portions(
    work: Work,
    task: Task,
    source: Mapping[str, Any],
    reads: Iterator[Ahead[DecodedRecord]],
    unplaced: Mapping[str, int],
) -> Iterator[Portion]:
    upcoming, damage = _next(reads)
    number, start = task.number, task.start
    while True:
        records = size = decoded = 0
        portion: list[DecodedRecord] = []
        while upcoming is not None and not is_full(records, size, work.block):
            if decoded >= PORTION_BYTES:
                yield Portion(task.shard, number, start, tuple(portion), source, is_end=False)
                start, decoded = start + len(portion), 0
                portion.clear()
            # what comes next is decoded, if it is large, only when it is asked for
            portion.append(upcoming.result())
            records, size, decoded = records + 1, size + portion[-1].record.length, decoded + portion[-1].bytes
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


def _next(reads: Iterator[Ahead[DecodedRecord]]) -> tuple[Ahead[DecodedRecord] | None, str | None]:
    """The next record, or None and, where the shard is damaged, in what way."""
    try:
        return next(reads, None), None
    except ChangedInputError:
        raise
    except InputError as error:
        return None, str(error)


def check_first_items(work: Work) -> None:
    """InputError for shards without any usable item, or with items that the base is not for.

    Called before anything is made or replaced. Pipes cannot be read twice and are not checked; a damaged shard is
    reported by the conversion.
    """
    axes = work.stored.base.axes
    if work.is_piped:
        return
    ignored = Counter[str]()
    try:
        checked = [_mismatch(work, record) for record in islice(_usable(work, ignored), FIRST_ITEMS)]
    except InputError:
        return
    if not checked:
        raise InputError(nothing_usable(work, ignored), hint=USABLE_HINT)
    mismatches = [text for text, _ in checked if text]
    # one item that does not fit is a failed item; but colour would be lost silently
    if len(mismatches) == len(checked) or any(loses_colour for _, loses_colour in checked):
        raise InputError(
            f"the base is for {axes.described} of {counted(axes.channels, 'channel')}: {mismatches[0]}",
            hint="learn a base on such data with fit-base"
            + ("; --channels 1 converts to gray" if axes.modality.can_transform and axes.channels == 1 else ""),
        )


def nothing_usable(work: Work, ignored: Mapping[str, int]) -> str:
    """The message that the input has no item at all; `ignored` counts the records without one."""
    return f"there is no usable item in {work.described}" + (f": {most_ignored(ignored)}" if ignored else "")


def _usable(work: Work, ignored: Counter[str]) -> Iterator[Record]:
    """The records with an array or a problem; the others are counted in `ignored`."""
    has_any = False
    for number, name in enumerate(work.names):
        if has_any and not is_local(name):
            # each further shard would cost a request before the first item is fitted
            return
        for record in islice(read_records(name, number, unplaced=ignored), work.options.limit):
            count_ignored(record, work.field, ignored)
            if record.problem is not None or usable_field(record, work.field) is not None:
                has_any = True
                yield record


def _mismatch(work: Work, record: Record) -> tuple[str, bool]:
    """Why the base cannot encode a valid record, or an empty string; and whether encoding would lose its colour."""
    axes = work.stored.base.axes
    try:
        with reading(record.key):
            item = decode(record, field=work.field)
    except ItemError:
        return "", False
    if axes.modality.can_transform and item.kind in axes.modality.item_kinds:
        # the decoder makes it as many channels as the base is for
        lost = "" if work.options.channels == 1 else axes.modality.conversion_loss(item, axes)
        return lost, bool(lost)
    try:
        axes.signal(item)
    except ItemError as error:
        return f"{item.key}: {error}", False
    return "", False
