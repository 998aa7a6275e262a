"""Compressed streams, told by their first bytes and decompressed as they are read, in bounded memory.

A stream that is cut or corrupt gives what comes before the damage, then a DamageError; always at the same byte, however
the source delivers, so that a run that goes on finds what the one before found.
"""

import bz2
import importlib
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from functaconv.data.items import DamageError
from functaconv.errors import MissingExtraError

_CHUNK, _AHEAD = 1 << 16, 1 << 20
# the dictionary that a stream asks for is memory of ours: `xz -9` asks for 64 MiB, `zstd --ultra -22` and `--long`
# for 128 MiB, a forged header for anything
_MOST_XZ_MEMORY = 256 << 20
_MOST_ZSTD_WINDOW = 128 << 20
# zstandard gives all that its input expands to at once: at most a block of 128 KiB for every four bytes, 8 MiB
_ZSTD_SLICE = 1 << 8


class Decoder(Protocol):
    """What bz2 and lzma have: decompresses one stream, at most so many bytes a call."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """One member of a gzip file, with its checksum."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Zstd:
    """One frame of a zstd file."""

    def __init__(self) -> None:
        try:
            zstandard = importlib.import_module("zstandard")
        except ImportError as error:
            raise MissingExtraError(
                f"a shard compressed with zstd needs the package zstandard ({error})",
                hint="pip install 'functaconv[zstd]'",
            ) from None
        self._inner = zstandard.ZstdDecompressor(max_window_size=_MOST_ZSTD_WINDOW).decompressobj(write_size=1 << 15)
        self.error: type[Exception] = zstandard.ZstdError
        self._given, self._made = memoryview(b""), memoryview(b"")

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof) and not self._made

    @property
    def needs_input(self) -> bool:
        return not self._given and not self._made

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data) + bytes(self._given)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._given = memoryview(bytes(self._given) + data)
        while self._given and not self._made and not self._inner.eof:
            piece, self._given = self._given[:_ZSTD_SLICE], self._given[_ZSTD_SLICE:]
            try:
                self._made = memoryview(self._inner.decompress(piece))
            except self.error as error:
                raise ValueError(error) from None
        made, self._made = self._made[:max_length], self._made[max_length:]
        return bytes(made)


@dataclass(frozen=True, slots=True)
class Compression:
    """A way to compress."""

    name: str
    starts: tuple[bytes, ...]
    decoder: Callable[[], Decoder]


_COMPRESSIONS = (
    Compression("gzip", (b"\x1f\x8b",), _Gzip),
    Compression("bzip2", (b"BZh",), bz2.BZ2Decompressor),
    Compression("xz", (b"\xfd7zXZ\0",), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_XZ_MEMORY)),
    # pzstd begins with a frame that is to be skipped
    Compression("zstd", (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n, 0x2A, 0x4D, 0x18]) for n in range(16))), _Zstd),
)
LONGEST_START = max(len(start) for compression in _COMPRESSIONS for start in compression.starts)


def compression_of(start: bytes) -> Compression | None:
    """How the stream with these first bytes is compressed; None for a plain tar, and whatever else is not."""
    return next((compression for compression in _COMPRESSIONS if start.startswith(compression.starts)), None)


def plain(stream: BinaryIO) -> BinaryIO:
    """What a stream holds, decompressed if it is compressed: from where it stands, forward only in that case."""
    start = read_fully(stream, LONGEST_START)
    if stream.seekable():
        stream.seek(-len(start), io.SEEK_CUR)
        source = stream
    else:
        source = io.BufferedReader(_Rejoined(start, stream), _AHEAD)
    compression = compression_of(start)
    return source if compression is None else io.BufferedReader(_Decompressed(source, compression), _CHUNK)


def read_fully(stream: BinaryIO, count: int) -> bytes:
    """`count` bytes, or as many as there are: a pipe may give fewer at a time."""
    pieces: list[bytes] = []
    try:
        while count > 0 and (piece := _some(stream, count)):
            pieces.append(piece)
            count -= len(piece)
    except DamageError:
        # a command that failed at the end: what it gave before is good, and it fails again at the next call
        if not pieces:
            raise
    return b"".join(pieces)


def _some(stream: BinaryIO, count: int) -> bytes:
    """What is there, at most `count` bytes; none at the end."""
    piece: bytes = getattr(stream, "read1", stream.read)(count)
    return piece


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece, self._start = self._start[: len(buffer)], self._start[len(buffer) :]
        piece = piece or _some(self._rest, len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class _Decompressed(io.RawIOBase):
    """The content of one or more compressed streams that follow each other."""

    def __init__(self, source: BinaryIO, compression: Compression) -> None:
        self._source, self._compression = source, compression
        self._decoder = compression.decoder()
        self._given = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._piece(min(len(buffer), _CHUNK)) if len(buffer) else b""
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, most: int) -> bytes:
        name = self._compression.name
        while not self._decoder.eof or self._begin_next():
            data, is_last = b"", False
            if self._decoder.needs_input:
                data, self._given = self._given or read_fully(self._source, _CHUNK), b""
                is_last = not data
            try:
                piece = self._decoder.decompress(data, most)
            # OSError is what bz2 raises
            except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
                raise DamageError(f"damaged: no valid {name} stream ({str(error)[:100]})") from error
            if piece:
                return piece
            if is_last and not self._decoder.eof:
                raise DamageError(f"cut short: the {name} stream stops before its end")
        return b""

    def _begin_next(self) -> bool:
        """Go on to the stream that follows; False when there is none."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        # zeros fill the last block of a tape
        while len(rest) < LONGEST_START and (more := read_fully(self._source, _CHUNK)):
            rest = (rest + more).lstrip(b"\0")
        if not rest:
            return False
        if compression_of(rest) is not self._compression:
            raise DamageError(f"damaged: data after the end of the {self._compression.name} stream")
        self._decoder, self._given = self._compression.decoder(), rest
        return True
