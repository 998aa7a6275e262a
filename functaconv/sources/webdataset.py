"""Tar shards as records: forward only, one record in memory, and no end that goes unnoticed.

A key ends at the first dot of the base name, its folder kept; members with the same key that follow each
other are one record, as webdataset's `group_by_keys` has it. Unlike webdataset's readers this one reads
concatenated archives to the end, limits what it takes into memory, and raises where an archive stops before its
end marker: after the good records, never with a record of which a part may be missing.
"""

import glob
import hashlib
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import braceexpand

from functaconv.errors import InputError, UsageError
from functaconv.sources.decoders import ARRAY_SUFFIXES, DEFAULT_LIMITS, SUFFIXES, Limits
from functaconv.sources.items import Record

_BLOCK = 512
_CHUNK = 1 << 20
# longer than any path; what claims more is no header of ours
_LONGEST_HEADER = 1 << 20
# both from webdataset: its names -> (key, suffix), and the names it keeps for itself
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SUPPORTED = "supported are local tar files, globs, braces {000..003}, directories of .tar files, and - for stdin"


@dataclass(slots=True)
class Tally:
    """What a reader passed over, counted while it reads."""

    ignored: Counter[str] = field(default_factory=Counter)
    """last suffix with its dot -> members; "(no suffix)" besides"""


@dataclass(frozen=True, slots=True)
class RecordLocation:
    """Where in its shard a record lies: all its headers and bodies, in one stretch of bytes."""

    record: int
    offset: int
    length: int


def expand_shards(specs: Sequence[str]) -> list[str]:
    """The shards that paths, globs, braces, directories, comma lists and `-` stand for, in that order.

    A name that exists is taken as it is, whatever it contains. The same shard twice is an error.
    """
    shards = [shard for spec in specs for shard in _expand(spec)]
    if not shards:
        raise UsageError("no shards given", hint=_SUPPORTED)
    counts = Counter(os.path.realpath(shard) if shard != "-" else "-" for shard in shards)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        raise UsageError(f"given more than once: {', '.join(repeated)}", hint="name each shard once")
    return shards


def read_records(
    shard: str,
    index: int = 0,
    *,
    start: int = 0,
    stream: BinaryIO | None = None,
    limits: Limits = DEFAULT_LIMITS,
    tally: Tally | None = None,
) -> Iterator[Record]:
    """The records of one tar from number `start` on; `-` reads stdin, `stream` whatever is given.

    InputError, naming shard and record, when the archive is damaged or stops before its end marker: after
    all records that are known to be complete.
    """
    with _opened(shard, stream) as opened:
        tape = _Tape(opened)
        for group in _groups(shard, tape, start, limits, tally, whole=True):
            if group.number >= start:
                yield group.record(index)


def index_shard(shard: str, *, tally: Tally | None = None) -> list[RecordLocation]:
    """Where each record of a local shard lies, from its headers alone."""
    with _opened(shard, None) as opened:
        groups = _groups(shard, _Tape(opened), sys.maxsize, DEFAULT_LIMITS, tally, whole=True)
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
    with _opened(shard, stream) as opened:
        opened.seek(location.offset)
        tape = _Tape(opened, location.offset, location.length)
        groups = list(_groups(shard, tape, 0, limits, None, whole=False, first=location.record))
    if len(groups) != 1:
        raise InputError(
            f"{shard}: no record at byte {location.offset}, where record {location.record} was",
            hint="the shard was changed while in use; start again",
        )
    return groups[0].record(index)


def fingerprint(shard: str) -> dict[str, str | int]:
    """Name, size and a checksum of both ends: enough to notice that a shard is not the one it was.

    `sha256` is over the first and the last 64 KiB (a smaller file: over all of it). stdin has a name only.
    """
    if shard == "-":
        return {"name": "-"}
    with _opened(shard, None) as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        digest = hashlib.sha256(opened.read(1 << 16))
        opened.seek(max(opened.tell(), size - (1 << 16)))
        digest.update(opened.read(1 << 16))
    return {"name": Path(shard).name, "size": size, "sha256": digest.hexdigest()}


def _expand(spec: str) -> list[str]:
    if spec == "-":
        return [spec]
    path = Path(spec)
    if spec and os.path.lexists(spec):
        return _tars(path) if path.is_dir() else [spec]
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|pipe:", spec):
        # the part after @ and the query may hold credentials: only the scheme is repeated
        raise UsageError(f"cannot read from {spec.partition(':')[0]}: yet", hint=_SUPPORTED)
    parts = re.split(r",(?![^{}]*\})", spec)
    if len(parts) > 1:
        return [shard for part in parts if part for shard in _expand(part)]
    if "{" in spec:
        try:
            names = list(braceexpand.braceexpand(spec))
        except ValueError as error:
            raise UsageError(f"unbalanced braces in {spec!r}", hint="write {000000..000003}, in quotes") from error
        if names != [spec]:
            return [shard for name in names for shard in _expand(name)]
    if glob.has_magic(spec):
        names = glob.glob(spec, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = sorted(name for name in names if not Path(name).is_dir())
        if not found:
            raise InputError(f"no file matches {spec!r}", hint="check the pattern, and quote it in the shell")
        return found
    raise InputError(f"no such shard: {spec!r}", hint=_SUPPORTED)


def _tars(folder: Path) -> list[str]:
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read the directory {folder}: {error.strerror or error}") from error
    tars = sorted(str(path) for path in files if path.suffix.lower() == ".tar" and path.is_file())
    if not tars:
        raw = any(path.is_dir() or path.suffix.lower().removeprefix(".") in ARRAY_SUFFIXES for path in files)
        hint = f"run `functaconv pack {folder} SHARDS` first" if raw else "expected files named *.tar in it"
        raise InputError(f"no tar shards in the directory {folder}", hint=hint)
    return tars


def _opened(shard: str, stream: BinaryIO | None) -> AbstractContextManager[BinaryIO]:
    if stream is not None or shard == "-":
        return nullcontext(stream or sys.stdin.buffer)
    try:
        return Path(shard).open("rb")
    except OSError as error:
        raise InputError(f"cannot read the shard {shard}: {error.strerror or error}") from error


class _DamageError(Exception):
    """What is wrong with the bytes; `_groups` adds where."""


class _Tape:
    """Bytes to be read forward, that says so when there are fewer than promised."""

    def __init__(self, stream: BinaryIO, position: int = 0, length: int | None = None) -> None:
        self._stream = stream
        self._seekable = stream.seekable()
        self.position = position
        self._end = None if length is None else position + length
        if length is None and self._seekable:
            here = stream.tell()
            self._end = position + stream.seek(0, os.SEEK_END) - here
            stream.seek(here)

    def read(self, count: int) -> bytes:
        """`count` bytes, or as many as are left."""
        if self._end is not None:
            count = min(count, self._end - self.position)
        pieces = []
        while count > 0 and (piece := self._stream.read(min(count, _CHUNK))):
            pieces.append(piece)
            count -= len(piece)
            self.position += len(piece)
        return b"".join(pieces)

    def take(self, count: int) -> bytes:
        content = self.read(count)
        if len(content) < count:
            raise _DamageError(f"cut short: {count - len(content)} more bytes expected")
        return content

    def skip(self, count: int) -> None:
        if self._end is not None and self._seekable:
            if self.position + count > self._end:
                raise _DamageError(f"cut short: {self.position + count - self._end} more bytes expected")
            self._stream.seek(count, os.SEEK_CUR)
            self.position += count
            return
        while count > 0:
            count -= len(self.take(min(count, _CHUNK)))


@dataclass(slots=True)
class _Member:
    name: str
    is_file: bool
    size: int
    offset: int
    """of its first header"""
    end: int
    """with the padding to whole blocks"""


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


def _groups(
    shard: str, tape: _Tape, start: int, limits: Limits, tally: Tally | None, *, whole: bool, first: int = 0
) -> Iterator[_Group]:
    """The records in order; before number `start` without bodies. A `whole` archive has an end marker."""
    ignored = Counter[str]() if tally is None else tally.ignored
    group: _Group | None = None
    number = first
    try:
        for member in _members(tape, whole):
            if member is None:
                if group is not None:
                    yield group
                group = None
                continue
            match = _NAME.match(member.name)
            if not member.is_file or match is None or _META.match(member.name):
                if member.is_file:
                    ignored["(no suffix)" if match is None else "(meta)"] += 1
                continue
            key, suffix = match[1], match[2].lower()
            if group is None or group.key != key:
                if group is not None:
                    yield group
                group = _Group(key, number, member.offset, member.end)
                number += 1
            group.end = member.end
            kind = suffix.rpartition(".")[2]
            if kind not in SUFFIXES:
                ignored[f".{kind}"] += 1
            elif group.number >= start:
                _add(group, suffix, member, tape, limits)
        if group is not None:
            yield group
    except (_DamageError, tarfile.TarError, OSError) as error:
        where = f"record {number if group is None else group.number}, byte {tape.position}"
        hint = None if isinstance(error, OSError) else "the archive is incomplete or damaged: fetch or pack it again"
        if tape.position <= _BLOCK and "compressed" in str(error):
            hint = "decompress it first, for example with `gunzip`"
        name = "stdin" if shard == "-" else shard
        raise InputError(f"{name}: {error} ({where})", hint=hint) from error


def _add(group: _Group, suffix: str, member: _Member, tape: _Tape, limits: Limits) -> None:
    group.size += member.size
    if group.problem is not None:
        return
    if suffix in group.fields:
        group.fail(f"two members named {group.key}.{suffix} follow each other, expected one")
    elif member.size > limits.member:
        group.fail(f"{member.name} has {member.size} bytes, expected at most {limits.member}")
    elif group.size > limits.expanded:
        group.fail(
            f"the members {group.key}.* have {group.size} bytes together, expected at most {limits.expanded}: "
            "names are one record up to their first dot"
        )
    else:
        group.fields[suffix] = tape.take(member.size)


def _members(tape: _Tape, whole: bool) -> Iterator[_Member | None]:
    """The members in order, None at each end marker. What the reader of a member leaves is skipped."""
    zeros = 0
    offset: int | None = None
    extended: dict[str, str] = {}
    while True:
        before = tape.position
        block = tape.read(_BLOCK)
        blank = not block.strip(b"\0")
        compression = next((name for start, name in _COMPRESSED.items() if block.startswith(start)), None)
        if before == 0 and compression:
            raise _DamageError(f"compressed with {compression}, expected a plain tar archive")
        if len(block) < _BLOCK and blank and (zeros >= 2 or (not whole and not block)):
            return
        if zeros >= 2 and blank:
            continue
        if len(block) < _BLOCK:
            raise _DamageError(_early_end(tape.position, zeros))
        if blank:
            if offset is not None:
                raise _DamageError("damaged: a long name without the member that has it")
            zeros += 1
            if zeros == 2:
                yield None
            continue
        if zeros == 1:
            raise _DamageError("damaged: data after a single block of zeros")
        zeros = 0
        offset = before if offset is None else offset
        info = _header(block, before)
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX):
            extended |= _extension(info, tape)
            continue
        size = _size(extended.pop("size", info.size))
        name = extended.pop("path", info.name)
        end = tape.position + _padded(size if _has_body(info) else 0)
        yield _Member(name, info.isreg(), size, offset, end)
        tape.skip(end - tape.position)
        offset, extended = None, {}


def _early_end(position: int, zeros: int) -> str:
    if position == 0:
        return "an empty file, expected a tar archive"
    if zeros >= 2:
        return "damaged: data after the end of the archive"
    return "cut short: the archive stops before its end marker (two blocks of zeros)"


_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def _header(block: bytes, position: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        what = "not a tar archive" if position == 0 else "damaged: expected the header of a member"
        raise _DamageError(f"{what} ({error})") from error
    if info.type == tarfile.GNUTYPE_SPARSE:
        raise _DamageError("sparse members cannot be read; make the archive again without --sparse")
    _size(info.size)
    info.name = _printable(info.name)
    return info


def _has_body(info: tarfile.TarInfo) -> bool:
    # links, devices and directories have none, whatever their size says; unknown types are skipped by it
    return info.isreg() or info.type not in tarfile.SUPPORTED_TYPES


def _extension(info: tarfile.TarInfo, tape: _Tape) -> dict[str, str]:
    """What a GNU long name or a PAX header says of the member that follows: its path, its size."""
    if info.size > _LONGEST_HEADER:
        raise _DamageError(f"damaged: a header of {info.size} bytes")
    content = tape.take(_padded(info.size))[: info.size]
    if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        name = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return {"path": _printable(name)} if info.type == tarfile.GNUTYPE_LONGNAME else {}
    values: dict[str, str] = {}
    while content.strip(b"\0"):
        match = re.match(rb"(\d{1,7}) ([^=]+)=", content)
        length = int(match[1]) if match else 0
        if match is None or not match.end() < length <= len(content) or content[length - 1 : length] != b"\n":
            raise _DamageError("damaged: expected a PAX header")
        value = content[match.end() : length - 1].decode("utf-8", "surrogateescape")
        values[match[2].decode("utf-8", "replace")] = _printable(value)
        content = content[length:]
    if any(name.startswith("GNU.sparse") for name in values):
        raise _DamageError("sparse members cannot be read; make the archive again without --sparse")
    wanted = {name: value for name, value in values.items() if name in ("path", "size")}
    if wanted and info.type == tarfile.XGLTYPE:
        raise _DamageError("a PAX header that names all members, expected one member each")
    return wanted


def _size(value: str | int) -> int:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,18}", value):
        raise _DamageError(f"damaged: a member of {value[:20]!r} bytes")
    if int(value) < 0:
        raise _DamageError(f"damaged: a member of {value} bytes")
    return int(value)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _printable(name: str) -> str:
    # bytes that are no UTF-8 cannot be written to JSON; the escape keeps different names different
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
