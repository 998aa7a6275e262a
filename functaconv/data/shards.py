"""Tar shards as records, read forward with one record in memory; an archive that ends early is always noticed.

A key ends at the first dot of the base name, its folder kept; members with the same key that follow each
other are one record, as webdataset's `group_by_keys` has it. Unlike webdataset's readers this one reads
concatenated archives to the end, limits what it takes into memory, and raises where an archive stops before its
end marker: after the good records, never with a record of which a part may be missing.

In a plain local tar, where it is possible to go back, a hard link is its target, and members of one key that lie apart
are one record: the first one has them all, and those after it are empty.
"""

import hashlib
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from functaconv.data.archive import Tape, members
from functaconv.data.compression import plain
from functaconv.data.grouping import Elsewhere, Group, RecordLocation, add, damaged, groups
from functaconv.data.items import DamageError, Record
from functaconv.data.naming import shown
from functaconv.data.storage import is_seekable, opened
from functaconv.errors import InputError


def read_records(
    shard: str,
    index: int = 0,
    *,
    start: int = 0,
    offset: int | None = None,
    stream: BinaryIO | None = None,
    ignored: Counter[str] | None = None,
    unplaced: Counter[str] | None = None,
) -> Iterator[Record]:
    """The records of one tar from number `start` on, decompressed if need be; of `stream`, if there is one.

    InputError, naming shard and record, when the archive is damaged or stops before its end marker: after
    all records that are known to be complete. ServiceError when a server or command fails: the shard may be sound.
    With `offset`, where that record begins, as `index_shard` tells it, what is before it is not read. `ignored` counts
    by kind the members that are in no record, `unplaced` those of them that follow no record.
    """
    locations = _joins(shard) if stream is None else {}
    with ExitStack() as stack:
        source = stack.enter_context(opened(shard, stream))
        again = stack.enter_context(opened(shard)) if locations else source
        first, tape = (0, _tape(shard, source)) if offset is None else (start, _tape_at(source, offset))
        for group in groups(
            shard, tape, first=first, start=start, ignored=ignored, locations=locations, unplaced=unplaced
        ):
            if group.number >= start:
                yield _completed(group, locations.get(group.number), again).record(index)


def index_shard(
    shard: str, *, stream: BinaryIO | None = None, ignored: Counter[str] | None = None
) -> list[RecordLocation]:
    """Where each record of a local shard lies, from its headers alone; of `stream`, a plain tar, if there is one.

    InputError for a shard that is not `is_seekable`: there is nothing in it that could be returned to.
    """
    if stream is None and not is_seekable(shard):
        raise InputError(
            f"{shown(shard)}: a plain local tar was expected, this one is compressed or lies elsewhere",
            hint="fetch and decompress it first",
        )
    locations = (_known_scan(shard) if stream is None else _scan(shard, stream)).locations
    if ignored is not None:
        with opened(shard, stream) as source:
            joins = {location.record: location for location in locations if location.is_joined or location.elsewhere}
            deque(groups(shard, Tape(source), start=sys.maxsize, ignored=ignored, locations=joins), maxlen=0)
    return list(locations)


def digest_of_names(shard: str) -> str:
    """A digest of keys and offsets of all records of a plain local tar: it shows changes in its middle."""
    return _known_scan(shard).digest


def read_at(
    shard: str,
    location: RecordLocation,
    index: int = 0,
    *,
    stream: BinaryIO | None = None,
) -> Record:
    """The record that `index_shard` found at `location`; `stream` is the shard, if it is open already."""
    with opened(shard, stream) as source:
        tape = _tape_at(source, location.offset, location.length)
        matching = list(groups(shard, tape, first=location.record, whole=False))
        if len(matching) != 1:
            raise InputError(
                f"{shown(shard)}: no record at byte {location.offset}, where record {location.record} was",
                hint="the shard was changed while in use; start again",
            )
        return _completed(matching[0], location, source).record(index)


def _joins(shard: str) -> Mapping[int, RecordLocation]:
    """The records of a plain local tar of which members lie apart, by number."""
    if not is_seekable(shard):
        return {}
    try:
        scan = _known_scan(shard)
    except InputError:
        # reported when the damage is reached; without an index nothing is joined
        return {}
    return {one.record: one for one in scan.locations if one.elsewhere or one.is_joined}


@dataclass(frozen=True)
class _Scan:
    """The records of a plain tar, from its headers."""

    locations: tuple[RecordLocation, ...]
    digest: str


def _known_scan(shard: str) -> _Scan:
    status = Path(shard).stat()
    return _scan_file(shard, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _scan_file(shard: str, size: int, modified: int) -> _Scan:  # noqa: ARG001 - as keys
    with opened(shard) as stream:
        return _scan(shard, stream)


def _scan(shard: str, stream: BinaryIO) -> _Scan:
    """The records of a plain tar; records of one key are joined to the first of them unless they share a suffix."""
    locations: list[RecordLocation] = []
    # 64 bits in place of a key: there may be millions
    first_of: dict[int, int] = {}
    suffixes: list[frozenset[str]] = []
    same: dict[frozenset[str], frozenset[str]] = {}
    links: list[tuple[int, str, str]] = []
    digest = hashlib.sha256()
    for group in groups(shard, Tape(stream), start=sys.maxsize):
        digest.update(f"{group.offset} {group.end} {group.key}\n".encode("utf-8", "surrogateescape"))
        own_suffixes = frozenset((*group.places, *group.links))
        first = first_of.setdefault(hash(group.key), group.number)
        is_joined = first != group.number and bool(own_suffixes) and not own_suffixes & suffixes[first]
        home = first if is_joined else group.number
        links += [(home, suffix, target) for suffix, target in group.links.items()]
        locations.append(RecordLocation(group.number, group.offset, group.end - group.offset, (), is_joined))
        suffixes.append(same.setdefault(own_suffixes, own_suffixes))
        if is_joined:
            apart = tuple(Elsewhere(suffix, *place) for suffix, place in group.places.items())
            locations[home] = replace(locations[home], elsewhere=locations[home].elsewhere + apart)
            suffixes[home] |= own_suffixes
    places = _places_of({target for _, _, target in links}, stream) if links else {}
    for number, suffix, target in links:
        if target in places:
            apart = (*locations[number].elsewhere, Elsewhere(suffix, *places[target]))
            locations[number] = replace(locations[number], elsewhere=apart)
    return _Scan(tuple(locations), digest.hexdigest()[:32])


def _places_of(names: set[str], stream: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where the bodies of the members with these names are, and their sizes."""
    stream.seek(0)
    infos = (place[0] for place in members(Tape(stream), whole=True) if place is not None)
    return {
        info.name: (info.offset_data, info.size)
        for info in infos
        if info.isreg() and not info.issparse() and info.name in names
    }


def _completed(group: Group, location: RecordLocation | None, stream: BinaryIO) -> Group:
    """The record with its members elsewhere in the shard; an empty one if an earlier record has its members."""
    if location is None:
        return group
    if location.is_joined:
        group.is_joined = True
        group.fields.clear()
        group.links.clear()
    for one in location.elsewhere:
        group.links.pop(one.suffix, None)
        add(group, one.suffix, f"{group.key}.{one.suffix}", one.size, _tape_at(stream, one.offset, one.size))
    return group


def _tape(shard: str, stream: BinaryIO) -> Tape:
    """The shard from its beginning, decompressed."""
    try:
        return Tape(plain(stream))
    except (DamageError, OSError) as error:
        # a command that fails at once
        raise damaged(shard, error, 0, 0) from error


def _tape_at(stream: BinaryIO, offset: int, length: int | None = None) -> Tape:
    stream.seek(offset)
    return Tape(stream, offset, length)
