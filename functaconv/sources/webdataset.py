"""Tar shards as records: forward only, one record in memory, and no end that goes unnoticed.

A key ends at the first dot of the base name, its folder kept; members with the same key that follow each
other are one record, as webdataset's `group_by_keys` has it. Unlike webdataset's readers this one reads
concatenated archives to the end, limits what it takes into memory, and raises where an archive stops before its
end marker: after the good records, never with a record of which a part may be missing.
"""

import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from functaconv.errors import InputError
from functaconv.sources.archive import Member, Tape, members
from functaconv.sources.compression import plain
from functaconv.sources.decoders import DEFAULT_LIMITS, SUFFIXES, Limits
from functaconv.sources.expansion import expand_shards
from functaconv.sources.items import DamageError, Record
from functaconv.sources.openers import fingerprint, is_read_once, is_seekable, opened, shown

__all__ = [
    "MOST_COMPARED",
    "RecordLocation",
    "Tally",
    "count_named",
    "expand_shards",
    "fingerprint",
    "index_shard",
    "is_read_once",
    "is_seekable",
    "read_at",
    "read_records",
    "shown",
]

# both from webdataset: its names -> (key, suffix), and the names it keeps for itself
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
# some 64 MiB of hashes: of a shard with more records the later ones are not compared
MOST_COMPARED = 1 << 20
_MOST_NAMED = 1000
_OTHERS = "(others)"


@dataclass(slots=True)
class Tally:
    """What a reader passed over or wondered at, counted while it reads. Counts add up over shards."""

    ignored: Counter[str] = field(default_factory=Counter)
    """last suffix with its dot -> members; "(no suffix)" besides. The first thousand by name, the rest as
    "(others)"."""
    duplicates: Counter[str] = field(default_factory=Counter)
    """key -> records that have it although an earlier one of the same shard has; they are records all the same. The
    first thousand keys by name, the rest as "(others)"."""

    def ignore(self, suffix: str) -> None:
        count_named(self.ignored, suffix)


def count_named(counter: Counter[str], name: str) -> None:
    """One more of a name, or of the others where there are very many names."""
    counter[name if name in counter or len(counter) < _MOST_NAMED else _OTHERS] += 1


@dataclass(frozen=True, slots=True)
class RecordLocation:
    """Where in its shard a record lies: all its headers and bodies, in one stretch of bytes."""

    record: int
    offset: int
    length: int


def read_records(
    shard: str,
    index: int = 0,
    *,
    start: int = 0,
    begin: tuple[int, int] | None = None,
    stream: BinaryIO | None = None,
    limits: Limits = DEFAULT_LIMITS,
    tally: Tally | None = None,
    known: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """The records of one tar from number `start` on, decompressed if need be; of `stream`, if there is one.

    InputError, naming shard and record, when the archive is damaged or stops before its end marker: after
    all records that are known to be complete. ServiceError when a server or command fails: the shard may be sound.
    `known` is the `fingerprint` of a URL when the work began: another object is a ChangedInputError. `begin` is a
    record's number and offset, as `index_shard` tells them: what is before it is not read.
    """
    with opened(shard, stream, known=known) as source:
        for group in _groups(_Source(shard, source, begin=begin), start, limits, tally):
            if group.number >= start:
                yield group.record(index)


def index_shard(shard: str, *, stream: BinaryIO | None = None, tally: Tally | None = None) -> list[RecordLocation]:
    """Where each record of a local shard lies, from its headers alone; of `stream`, a plain tar, if there is one.

    InputError for a shard that is not `is_seekable`: there is nothing in it that could be returned to.
    """
    if stream is None and not is_seekable(shard):
        raise InputError(
            f"{shown(shard)}: a plain local tar was expected, this one is compressed or lies elsewhere",
            hint="fetch and decompress it first",
        )
    with opened(shard, stream) as source:
        groups = _groups(_Source(shard, source, is_plain=True), sys.maxsize, DEFAULT_LIMITS, tally)
        return [RecordLocation(group.number, group.offset, group.end - group.offset) for group in groups]


def read_at(
    shard: str,
    location: RecordLocation,
    index: int = 0,
    *,
    stream: BinaryIO | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Record:
    """The record that `index_shard` found at `location`; `stream` is the shard, if it is open already."""
    with opened(shard, stream) as source:
        groups = list(_groups(_Source(shard, source, location), 0, limits, None))
    if len(groups) != 1:
        raise InputError(
            f"{shown(shard)}: no record at byte {location.offset}, where record {location.record} was",
            hint="the shard was changed while in use; start again",
        )
    return groups[0].record(index)


@dataclass(frozen=True, slots=True)
class _Source:
    """A shard that is open, all of it or the place of one record."""

    shard: str
    stream: BinaryIO
    location: RecordLocation | None = None
    is_plain: bool = False
    """offsets are to be those of the stream"""
    begin: tuple[int, int] | None = None
    """number and offset of the record with which to begin, instead of the first"""

    @property
    def first(self) -> int:
        """The number of the first record that is read."""
        return self.location.record if self.location is not None else (self.begin or (0, 0))[0]

    @property
    def tape(self) -> Tape:
        if self.location is None and self.begin is not None:
            self.stream.seek(self.begin[1])
            return Tape(self.stream, self.begin[1])
        if self.location is None:
            return Tape(self.stream if self.is_plain else plain(self.stream))
        self.stream.seek(self.location.offset)
        return Tape(self.stream, self.location.offset, self.location.length)


@dataclass(slots=True)
class _Group:
    """A record while it is read."""

    key: str
    number: int
    offset: int
    end: int
    size: int = 0
    fields: dict[str, bytes] = field(default_factory=dict)
    problem: str | None = None

    def record(self, shard: int) -> Record:
        fields = {} if self.problem else self.fields
        return Record(shard, self.number, self.key, fields, self.problem)

    def fail(self, problem: str) -> None:
        """The first problem is the reason; the members read so far are of no use any more."""
        self.problem = self.problem or problem
        self.fields.clear()


class _Keys:
    """The keys of a shard as far as they have come, 64 bits of each."""

    def __init__(self, tally: Tally | None) -> None:
        self._duplicates = None if tally is None else tally.duplicates
        self._seen = set[int]()

    def note(self, key: str) -> None:
        if self._duplicates is None:
            return
        number = hash(key)
        if number in self._seen:
            count_named(self._duplicates, key)
        elif len(self._seen) < MOST_COMPARED:
            self._seen.add(number)


def _groups(source: _Source, start: int, limits: Limits, tally: Tally | None) -> Iterator[_Group]:
    """The records in order; before number `start` without bodies. Without a location to an end marker."""
    passed_over = tally or Tally()
    keys = _Keys(tally)
    group: _Group | None = None
    number = source.first
    tape: Tape | None = None
    try:
        tape = source.tape
        for member in members(tape, whole=source.location is None):
            if member is None:
                if group is not None:
                    yield group
                group = None
                continue
            is_long = len(member.name) > limits.name
            match = _NAME.match(member.name[: limits.name])
            if not member.is_file or (match is None and not is_long) or _META.match(member.name):
                if member.is_file:
                    passed_over.ignore("(no suffix)" if match is None else "(meta)")
                continue
            key, suffix = (member.name[: limits.name], "") if match is None else (match[1], match[2].lower())
            if group is None or group.key != key:
                if group is not None:
                    yield group
                group = _Group(key, number, member.offset, member.end)
                number += 1
                keys.note(key)
            group.end = member.end
            if is_long:
                group.fail(f"a name of {len(member.name)} characters, expected at most {limits.name}")
                continue
            kind = suffix.rpartition(".")[2]
            if kind not in SUFFIXES:
                passed_over.ignore(f".{kind}")
            elif group.number >= start:
                _add(group, suffix, member, tape, limits)
        if group is not None:
            yield group
    except (DamageError, tarfile.TarError, OSError) as error:
        place = f"record {number if group is None else group.number}, byte {0 if tape is None else tape.position}"
        hint = error.hint if isinstance(error, DamageError) else None
        raise InputError(f"{shown(source.shard)}: {error} ({place})", hint=hint) from error


def _add(group: _Group, suffix: str, member: Member, tape: Tape, limits: Limits) -> None:
    group.size += member.size
    if group.problem is not None:
        return
    if suffix in group.fields:
        group.fail(f"two members named {group.key}.{suffix} follow each other, expected one")
    elif len(group.fields) == limits.members:
        group.fail(f"more than {limits.members} members {group.key}.*: names are one record up to their first dot")
    elif member.size > limits.member:
        group.fail(f"{member.name} has {member.size} bytes, expected at most {limits.member}")
    elif group.size > limits.record:
        group.fail(
            f"the members {group.key}.* have {group.size} bytes together, expected at most {limits.record}: "
            "names are one record up to their first dot"
        )
    else:
        group.fields[suffix] = tape.take(member.size)
