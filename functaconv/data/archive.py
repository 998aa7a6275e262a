"""The members of a tar, read forward: an archive that stops before its end marker is never taken for a whole one.

Headers are read by `tarfile` (USTAR, GNU, PAX). Unlike its archives this reader goes on where they were concatenated,
and raises where bytes are missing or are no header. Of sparse members it says that they are.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from functaconv.data.items import DamageError
from functaconv.data.naming import printable

BLOCK = 512
_CHUNK = 1 << 20
# bytes of a long name or PAX header: longer than any path
_LONGEST_HEADER = 1 << 20


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


class _Headers(io.RawIOBase):
    """What `tarfile` reads the headers of a member from; the first block was read already."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.block = b""

    def read(self, size: int = -1) -> bytes:
        if self.block:
            block, self.block = self.block, b""
            return block
        if size > _LONGEST_HEADER:
            raise DamageError(f"damaged: a header of {size} bytes")
        return self._tape.take(size)

    def tell(self) -> int:
        return self._tape.position


def members(tape: Tape, whole: bool) -> Iterator[tuple[tarfile.TarInfo, int] | None]:
    """The members in order, and where the body of each ends, padded to whole blocks; None at each end marker.

    `offset` is where the first header of a member begins. The rest of a member that was not read is skipped.
    """
    headers = _Headers(tape)
    # in this mode nothing is read before it is asked for
    reader = tarfile.TarFile(fileobj=headers, mode="w")
    zeros = 0
    while True:
        offset = tape.position
        block = tape.read(BLOCK)
        blank = not block.strip(b"\0")
        if len(block) < BLOCK and blank and (zeros >= 2 or (not whole and not block)):
            return
        if zeros >= 2 and blank:
            continue
        if len(block) < BLOCK:
            raise DamageError(_early_end(tape.position, zeros))
        if blank:
            zeros += 1
            if zeros == 2:
                yield None
            continue
        if zeros == 1:
            raise DamageError("damaged: data after a single block of zeros")
        zeros = 0
        headers.block = block
        try:
            info = tarfile.TarInfo.fromtarfile(reader)
        except (tarfile.TarError, ValueError, RecursionError) as error:
            what = "not a tar archive" if offset == 0 else "damaged: expected the header of a member"
            raise DamageError(f"{what} ({str(error)[:100]})") from error
        info.offset, info.offset_data, end = offset, tape.position, reader.offset
        if info.size < 0 or end < info.offset_data:
            raise DamageError(f"damaged: a member of {info.size} bytes")
        info.name, info.linkname = printable(info.name), printable(info.linkname)
        yield info, end
        tape.skip(end - tape.position)


def _early_end(position: int, zeros: int) -> str:
    if position == 0:
        return "an empty file, expected a tar archive"
    if zeros >= 2:
        return "damaged: data after the end of the archive"
    return "cut short: the archive stops before its end marker (two blocks of zeros)"
