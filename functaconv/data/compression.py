"""Compressed streams, recognised by their first bytes and decompressed as they are read.

A stream that is cut or corrupt gives what comes before the damage, then a DamageError.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from functaconv.data.items import DamageError
from functaconv.errors import imported

_CHUNK, _AHEAD = 1 << 16, 1 << 20
# memory for the window that a stream asks for: 128 MiB with `zstd --ultra -22` and `--long`
_MAX_ZSTD_WINDOW = 128 << 20


def _zstd(stream: BinaryIO) -> Any:
    zstandard = imported("zstandard", "zstd", "a shard compressed with zstd")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
    return decompressor.stream_reader(stream, read_across_frames=True)


_STARTS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    # pzstd begins with a frame that is to be skipped
    **{bytes([0x50 + n, 0x2A, 0x4D, 0x18]): "zstd" for n in range(16)},
}
_READERS: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": _zstd,
}
LONGEST_START = max(map(len, _STARTS))


def compression_of(start: bytes) -> str | None:
    """How a stream with these first bytes is compressed; None where it is not, as a plain tar."""
    return next((name for first, name in _STARTS.items() if start.startswith(first)), None)


def plain(stream: BinaryIO) -> BinaryIO:
    """The stream, decompressed if it is compressed. A compressed stream can then only be read forward."""
    if stream.seekable():
        here = stream.tell()
        # past the buffer: of a device its position would mean nothing
        start = getattr(stream, "read1", stream.read)(LONGEST_START)
        stream.seek(here)
    else:
        # a pipe may give fewer bytes at a time than are asked for: the buffer waits for all of them
        stream = io.BufferedReader(cast(io.RawIOBase, stream), _AHEAD)
        start = stream.peek(LONGEST_START)[:LONGEST_START]
    name = compression_of(start)
    return stream if name is None else io.BufferedReader(_Decompressed(stream, name), _CHUNK)


class _Decompressed(io.RawIOBase):
    """The content of one or more compressed streams that follow each other."""

    def __init__(self, source: BinaryIO, name: str) -> None:
        self._name = name
        self._reader = _READERS[name](source)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            # no more than is there: what comes before damage is good
            piece: bytes = getattr(self._reader, "read1", self._reader.read)(len(buffer))
        except EOFError:
            raise DamageError(f"cut short: the {self._name} stream stops before its end") from None
        except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise DamageError(f"damaged: no valid {self._name} stream ({str(error)[:100]})") from error
        except Exception as error:
            # zstandard derives its error from no other
            if type(error).__name__ != "ZstdError":
                raise
            raise DamageError(f"damaged: no valid {self._name} stream ({str(error)[:100]})") from error
        buffer[: len(piece)] = piece
        return len(piece)
