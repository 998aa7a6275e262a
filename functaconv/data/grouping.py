"""Grouping the members of a tar into records, as webdataset does."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from functaconv.data import limits
from functaconv.data.archive import Tape, members
from functaconv.data.decoders import SUFFIXES
from functaconv.data.ignored import APPLE_DOUBLE, HIDDEN, LINKS, META, NO_SUFFIX, SPECIAL, ignore
from functaconv.data.items import DamageError, Record
from functaconv.data.naming import shown
from functaconv.errors import InputError

# both from webdataset: its names -> (key, suffix), and the names it keeps for itself
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_LONGEST_SUFFIX = 40


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A member of a record that lies apart from the others in its shard."""

    suffix: str
    offset: int
    """of its body"""
    size: int


@dataclass(frozen=True, slots=True)
class RecordLocation:
    """Where a record lies in its shard: a range of bytes, and members that lie elsewhere."""

    record: int
    offset: int
    length: int
    elsewhere: tuple[Elsewhere, ...] = ()
    is_joined: bool = False
    """an earlier record has its members"""


@dataclass(slots=True)
class Group:
    """A record that is being read."""

    key: str
    number: int
    offset: int
    end: int
    size: int = 0
    fields: dict[str, bytes] = field(default_factory=dict)
    problem: str | None = None
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """suffix -> offset and size of the body"""
    links: dict[str, str] = field(default_factory=dict)
    """suffix of a hard link -> name of the member that has the bytes"""
    ignored: Counter[str] = field(default_factory=Counter)
    is_joined: bool = False

    def record(self, shard: int) -> Record:
        fields = {} if self.problem else self.fields
        if self.links:
            ignore(self.ignored, LINKS, len(self.links))
        length = self.end - self.offset
        return Record(shard, self.number, self.key, fields, self.problem, self.ignored, self.is_joined, length)

    def fail(self, problem: str) -> None:
        """Keep the first problem as the reason, and forget the members."""
        self.problem = self.problem or problem
        self.fields.clear()


def groups(
    shard: str,
    tape: Tape,
    *,
    first: int = 0,
    start: int = 0,
    whole: bool = True,
    ignored: Counter[str] | None = None,
    locations: Mapping[int, RecordLocation] | None = None,
    unplaced: Counter[str] | None = None,
) -> Iterator[Group]:
    """The records in order, of which number `first` is the first, before number `start` without bodies.

    A `whole` shard ends at an end marker. `ignored` counts the members that are in no record, `unplaced` those of a
    shard without any record.
    """
    locations = locations or {}
    total = Counter() if ignored is None else ignored
    group: Group | None = None
    waiting = Counter[str]()
    number = first

    def pass_over(kind: str) -> None:
        ignore(waiting if group is None else group.ignored, kind)
        ignore(total, kind)

    try:
        for place in members(tape, whole):
            if place is None:
                if group is not None:
                    yield group
                group = None
                continue
            member, end = place
            is_long = len(member.name) > limits.NAME
            match = _NAME.match(member.name[: limits.NAME])
            if (kind := _passed_over(member, is_named=match is not None or is_long)) is not None:
                if kind:
                    pass_over(kind)
                continue
            key, suffix = (member.name[: limits.NAME], "") if match is None else (match[1], match[2].lower())
            if group is None or group.key != key:
                if group is not None:
                    yield group
                group, waiting = Group(key, number, member.offset, end, ignored=waiting), Counter()
                number += 1
            group.end = end
            if is_long:
                group.fail(f"a name of {len(member.name)} characters, expected at most {limits.NAME}")
                continue
            last = suffix.rpartition(".")[2]
            if last not in SUFFIXES:
                pass_over(f".{last[:_LONGEST_SUFFIX]}")
            elif member.issparse():
                group.fail(f"{member.name} is a sparse member; make the archive again without --sparse")
            elif member.islnk():
                group.links[suffix] = member.linkname
                if not any(one.suffix == suffix for one in _elsewhere(locations, group)):
                    ignore(total, LINKS)
            else:
                group.places[suffix] = (member.offset_data, member.size)
                if group.number >= start:
                    add(group, suffix, member.name, member.size, tape)
        if group is not None:
            yield group
        elif unplaced is not None:
            unplaced.update(waiting)
    except (DamageError, tarfile.TarError, OSError) as error:
        raise damaged(shard, error, number if group is None else group.number, tape.position) from error


def damaged(shard: str, error: Exception, record: int, byte: int) -> InputError:
    """What is wrong with a shard, and where."""
    hint = error.hint if isinstance(error, DamageError) else None
    return InputError(f"{shown(shard)}: {error} (record {record}, byte {byte})", hint=hint)


def _elsewhere(locations: Mapping[int, RecordLocation], group: Group) -> Sequence[Elsewhere]:
    return locations[group.number].elsewhere if group.number in locations else ()


def _passed_over(member: tarfile.TarInfo, *, is_named: bool) -> str | None:
    """The kind under which a member is ignored, empty for folders; None for a member of a record."""
    base = member.name.rpartition("/")[2]
    if member.isdir():
        return ""
    if not (member.isreg() or member.islnk()):
        return LINKS if member.issym() else SPECIAL
    if base.startswith("."):
        return APPLE_DOUBLE if base.startswith("._") else HIDDEN
    if not is_named:
        return NO_SUFFIX
    return META if _META.match(member.name) else None


def add(group: Group, suffix: str, name: str, size: int, tape: Tape) -> None:
    """Read a member of `size` bytes; one above the limits makes the record fail."""
    group.size += size
    if group.problem is not None:
        return
    if suffix in group.fields:
        group.fail(f"two members named {group.key}.{suffix} follow each other, expected one")
    elif len(group.fields) == limits.MEMBERS:
        group.fail(f"more than {limits.MEMBERS} members {group.key}.*: names are one record up to their first dot")
    elif size > limits.MEMBER:
        group.fail(f"{name} has {size} bytes, expected at most {limits.MEMBER}")
    elif group.size > limits.RECORD:
        group.fail(
            f"the members {group.key}.* have {group.size} bytes together, expected at most {limits.RECORD}: "
            "names are one record up to their first dot"
        )
    else:
        group.fields[suffix] = tape.take(size)
