"""The members of a tar, read forward: an archive that stops before its end marker is never taken for a whole one.

Unlike `tarfile` this reader goes on where archives were concatenated, and raises where bytes are missing or are no
header. It reads the tar formats there are (USTAR, GNU, PAX); of sparse members it says that they are.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from functaconv.data.items import DamageError
from functaconv.data.naming import printable

BLOCK = 512
_CHUNK = 1 << 20
# bytes of a long name or PAX header: longer than any path
_LONGEST_HEADER = 1 << 20
Kind = Literal["file", "link", "hard link", "directory", "special", "sparse"]
_KINDS: dict[bytes, Kind] = {
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
    tarfile.DIRTYPE: "directory",
    tarfile.GNUTYPE_SPARSE: "sparse",
}
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class Tape:
    """Bytes read forward; DamageError where there are fewer than asked for."""

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
        """`count` bytes, or as many as there are."""
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
            raise DamageError(f"cut short: {count - len(content)} more bytes expected")
        return content

    def skip(self, count: int) -> None:
        if self._end is not None and self._seekable:
            if self.position + count > self._end:
                raise DamageError(f"cut short: {self.position + count - self._end} more bytes expected")
            self._stream.seek(count, os.SEEK_CUR)
            self.position += count
            return
        while count > 0:
            count -= len(self.take(min(count, _CHUNK)))


@dataclass(slots=True)
class Member:
    """A member, as its headers describe it."""

    name: str
    kind: Kind
    size: int
    offset: int
    """where its first header begins"""
    start: int
    """where its body begins"""
    end: int
    """where its body ends, padded to whole blocks"""
    target: str = ""
    """hard links: the name of the member that holds the bytes"""


def members(tape: Tape, whole: bool) -> Iterator[Member | None]:
    """The members in order, None at each end marker. The rest of a member that was not read is skipped."""
    zeros = 0
    offset: int | None = None
    extended: dict[str, str] = {}
    while True:
        before = tape.position
        block = tape.read(BLOCK)
        blank = not block.strip(b"\0")
        if len(block) < BLOCK and blank and (zeros >= 2 or (not whole and not block)):
            return
        if zeros >= 2 and blank:
            continue
        if len(block) < BLOCK:
            raise DamageError(_early_end(tape.position, zeros))
        if blank:
            if offset is not None:
                raise DamageError("damaged: a long name without the member that has it")
            zeros += 1
            if zeros == 2:
                yield None
            continue
        if zeros == 1:
            raise DamageError("damaged: data after a single block of zeros")
        zeros = 0
        offset = before if offset is None else offset
        info = _header(block, before)
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX):
            extended |= _extension(info, tape)
            continue
        size = _size(extended.get("size", info.size))
        if info.type == tarfile.GNUTYPE_SPARSE:
            _skip_sparse_map(block, tape)
        start = tape.position
        end = start + _padded(size if _has_body(info) else 0)
        kind: Kind = "file" if info.isreg() else "special"
        kind = "sparse" if "sparse" in extended else _KINDS.get(info.type, kind)
        target = extended.get("linkpath", printable(info.linkname))
        yield Member(extended.get("path", info.name), kind, size, offset, start, end, target)
        tape.skip(end - tape.position)
        offset, extended = None, {}


def _early_end(position: int, zeros: int) -> str:
    if position == 0:
        return "an empty file, expected a tar archive"
    if zeros >= 2:
        return "damaged: data after the end of the archive"
    return "cut short: the archive stops before its end marker (two blocks of zeros)"


def _header(block: bytes, position: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        what = "not a tar archive" if position == 0 else "damaged: expected the header of a member"
        raise DamageError(f"{what} ({error})") from error
    _size(info.size)
    info.name = printable(info.name)
    return info


def _has_body(info: tarfile.TarInfo) -> bool:
    # links, devices and directories have none, whatever their size says; unknown types are skipped by it
    return info.isreg() or info.type == tarfile.GNUTYPE_SPARSE or info.type not in tarfile.SUPPORTED_TYPES


def _skip_sparse_map(block: bytes, tape: Tape) -> None:
    """Skip the blocks between the header of a sparse member and its body: each says whether another follows."""
    is_continued = block[482]
    while is_continued:
        is_continued = tape.take(BLOCK)[504]


def _extension(info: tarfile.TarInfo, tape: Tape) -> dict[str, str]:
    """Path, size and link target of the member that follows, from a GNU long name or a PAX header."""
    if info.size > _LONGEST_HEADER:
        raise DamageError(f"damaged: a header of {info.size} bytes")
    content = tape.take(_padded(info.size))[: info.size]
    if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        name = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return {"path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath": printable(name)}
    values: dict[str, str] = {}
    while content.strip(b"\0"):
        match = re.match(rb"(\d{1,7}) ([^=]+)=", content)
        length = int(match[1]) if match else 0
        if match is None or not match.end() < length <= len(content) or content[length - 1 : length] != b"\n":
            raise DamageError("damaged: expected a PAX header")
        value = content[match.end() : length - 1].decode("utf-8", "surrogateescape")
        values[match[2].decode("utf-8", "replace")] = printable(value)
        content = content[length:]
    if any(name.startswith("GNU.sparse") for name in values):
        values["sparse"] = ""
        if "GNU.sparse.name" in values:
            values["path"] = values["GNU.sparse.name"]
    wanted = {name: value for name, value in values.items() if name in ("path", "linkpath", "size", "sparse")}
    if wanted and info.type == tarfile.XGLTYPE:
        raise DamageError("a PAX header that names all members, expected one member each")
    return wanted


def _size(value: str | int) -> int:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,18}", value):
        raise DamageError(f"damaged: a member of {value[:20]!r} bytes")
    if int(value) < 0:
        raise DamageError(f"damaged: a member of {value} bytes")
    return int(value)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
