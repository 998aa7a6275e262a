"""The input cut into tasks, and which of them are still to be done."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from functaconv.conversion.work import Work
from functaconv.data.grouping import RecordLocation
from functaconv.data.naming import is_local, shown
from functaconv.data.shards import digest_of_names, index_shard
from functaconv.data.storage import fingerprint, is_seekable
from functaconv.documents import differences
from functaconv.errors import ChangedInputError, InputError, UsageError
from functaconv.functaset.unfinished import Listed, Parts

# bytes of a shard with which a block ends: its records may be much larger than those of the training
BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Task:
    """Records of one shard that are read in one go: a block, or all blocks of a shard that cannot be entered midway."""

    shard: int
    number: int = 0
    """of the first block"""
    start: int = 0
    """first record"""
    stop: int | None = None
    """record before which to stop; None: the shard's end"""
    offset: int | None = None
    """byte at which the first record begins; None: the shard is read from its beginning"""
    is_last: bool = True
    """the shard ends with this task, as far as it is wanted"""
    is_counted: bool = False
    """the shard was seen to have the records up to `stop`"""
    source: Mapping[str, Any] | None = None
    """the shard's fingerprint when it was opened before"""

    @property
    def turn(self) -> int:
        """Number by which ranks share the tasks."""
        return self.shard if self.offset is None else self.shard + self.number


def tasks(work: Work, parts: Parts, records_of: Callable[[int], int | None]) -> Iterator[Task]:
    """The tasks that are not done, in the order of the input; a shard is opened when its turn comes.

    `records_of` says how many records a shard had that has been read to its end by now. With a limit the next shard
    depends on it: where it says None, a UsageError.
    """
    room = work.options.limit
    listed = parts.listed()
    for shard, name in enumerate(work.names):
        done = listed.get(shard, Listed())
        used: int | None
        if done.is_complete:
            assert done.last is not None
            facts = parts.facts_of(done.files[done.last])
            check_unchanged(name, facts.source)
            used = facts.stop
        else:
            source = parts.facts_of(next(iter(done.files.values()))).source if done.files else None
            index = _index(name)
            if index is None:
                yield from _passes(shard, parts, done, room, source)
                used = records_of(shard) if done.last is None else parts.facts_of(done.files[done.last]).stop
            else:
                now, locations = index
                check_same(name, source, now)
                yield from _blocks_of(shard, locations, work.block, room, done, now)
                used = len(locations)
        if room is not None:
            if used is None:
                raise UsageError(
                    f"--limit with several processes: {shown(name)} must be read to know its records",
                    hint="leave --limit out, or use one process",
                )
            room -= min(used, room)
            if not room:
                return


def _blocks_of(
    shard: int,
    locations: list[RecordLocation],
    size: int,
    room: int | None,
    done: Listed,
    source: Mapping[str, Any],
) -> Iterator[Task]:
    """A task for each block of a shard that may be entered anywhere."""
    count = len(locations) if room is None else min(len(locations), room)
    starts = [0] if not count else list(cuts([location.length for location in locations[:count]], size))
    for number, (start, stop) in enumerate(pairwise([*starts, count])):
        if number not in done.files:
            # what stands before the first record is looked at, and all where there is none
            offset = locations[start].offset if start else 0
            yield Task(
                shard, number, start, stop if count else None, offset, is_last=stop == count, is_counted=count > 0,
                source=source,
            )  # fmt: skip


def cuts(lengths: list[int], size: int) -> Iterator[int]:
    """Where blocks begin, of records of these many bytes: after `size` records or `BLOCK_BYTES`."""
    records = size_of_block = 0
    for number, length in enumerate(lengths):
        if not records:
            yield number
        records, size_of_block = records + 1, size_of_block + length
        if is_full(records, size_of_block, size):
            records = size_of_block = 0


def is_full(records: int, size_of_block: int, size: int) -> bool:
    """A block ends with these records, of so many bytes."""
    return records >= size or size_of_block >= BLOCK_BYTES


def _passes(
    shard: int, parts: Parts, done: Listed, room: int | None, source: Mapping[str, Any] | None
) -> Iterator[Task]:
    """A task for each run of blocks that are missing of a shard that is read from its beginning: most often one."""
    start = number = 0
    for known, file in sorted(done.files.items()):
        facts = parts.facts_of(file)
        if known > number:
            yield Task(shard, number, start, facts.start, is_last=False, is_counted=True, source=source)
        start, number = facts.stop, known + 1
    if done.last is None:
        yield Task(shard, number, start, room, source=source)


def _index(name: str) -> tuple[dict[str, Any], list[RecordLocation]] | None:
    """Fingerprint and places of the records of a shard that may be entered anywhere; None for any other, and for one
    that is damaged: its good records come first.

    The fingerprint holds a digest of all places and keys: what changed in the middle of a shard is noticed too.
    """
    if not is_seekable(name):
        return None
    try:
        locations = index_shard(name)
    except InputError:
        return None
    return {**fingerprint(name), "names": digest_of_names(name)}, locations


def check_unchanged(name: str, known: Mapping[str, Any]) -> None:
    """ChangedInputError where a local shard, once opened, is another one now. To ask a server would take time."""
    if "size" in known and is_local(name):
        current = fingerprint(name)
        check_same(name, {key: known.get(key) for key in current}, current)


def check_same(name: str, known: Mapping[str, Any] | None, current: Mapping[str, Any]) -> None:
    if known is not None and (changes := differences(dict(known), dict(current))):
        raise ChangedInputError(
            f"changed input: {shown(name)} is not what it was when the work began: {'; '.join(changes)}",
            hint="put the input back as it was, or start again with --overwrite",
        )


def is_done(parts: Parts, task: Task) -> bool:
    """Another process has finished the task meanwhile."""
    if task.offset is not None:
        return parts.has(task.shard, task.number)
    listed = parts.listed().get(task.shard, Listed())
    return listed.is_complete or (task.number in listed.files and not task.is_last)


def expected_records(work: Work) -> int | None:
    """About how many records there are: those of the first shard, in proportion to the bytes of all.

    None where that cannot be told: from a pipe or afar, compressed, or when the first shard is damaged.
    """
    limit = work.options.limit
    if work.is_piped or not all(map(is_local, work.names)) or not is_seekable(work.names[0]):
        return limit
    sizes = [Path(name).stat().st_size for name in work.names]
    try:
        records = round(len(index_shard(work.names[0])) * sum(sizes) / max(1, sizes[0]))
    except InputError:
        # the work itself will come upon the damage, after the good items
        return None
    return records if limit is None else min(records, limit)
