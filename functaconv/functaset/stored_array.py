"""An array of a finished store. zarr reads it, once the files that its shape calls for are seen to be there.

zarr returns fill values for a file that is missing or empty, and takes memory for whatever a description claims: both
are checked here, before anything is read.
"""

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, VLenUTF8Codec, ZstdCodec

from functaconv.errors import InputError
from functaconv.functaset.files import read_json, whole_file
from functaconv.functaset.schema import Column

# lost files that are listed: a count that is damaged may call for millions
MOST_LOST = 1000
# arrays up to so many bytes are always plausible; larger ones when they are at most so many times their bytes on disk
MOST_UNQUESTIONED, MOST_EXPANSION = 1 << 30, 1000
# bytes of a file of texts, and of a file of numbers beyond their size in memory
MOST_TEXT_FILE, OVERHEAD = 1 << 31, 1 << 20
HINT = "`functaconv inspect --verify` lists all damage; restore it from a copy or encode again"

_SERIALIZERS = (BytesCodec, VLenUTF8Codec)
_COMPRESSORS = (BloscCodec, ZstdCodec, GzipCodec, Crc32cCodec)


class StoredArray:
    """An array on disk: `shape`, cut along its first axis into files of `rows_per_file` rows each."""

    def __init__(self, root: Path, name: str, array: "zarr.Array[Any]") -> None:
        """InputError unless the array is cut along its first axis, with checksums and codecs of the zarr standard."""
        self.root, self.name, self.zarr = root, name, array
        self.shape = tuple(array.shape)
        self.dtype = "str" if array.dtype.kind in "OT" else array.dtype.name
        self.rows_per_chunk = array.chunks[0]
        outer = array.shards or array.chunks
        self.rows_per_file = outer[0]
        if not self.shape or outer[1:] != self.shape[1:] or array.chunks[1:] != self.shape[1:]:
            raise _damaged(name, f"an array of {self.shape} in chunks of {array.chunks} and files of {outer}")
        count = max(1, self.shape[0])
        if array.chunks[0] > count or outer[0] >= count + array.chunks[0]:
            raise _damaged(name, f"found chunks of {array.chunks} in files of {outer} for {self.shape}")
        compressors = array.compressors
        if array.filters or not all(isinstance(codec, _COMPRESSORS) for codec in compressors):
            raise _damaged(name, "a codec that no functaset uses")
        if not isinstance(array.serializer, _SERIALIZERS) or not isinstance((None, *compressors)[-1], Crc32cCodec):
            raise _damaged(name, "its chunks have no checksums, or their values are stored in an unknown way")
        self.is_sharded = array.shards is not None
        codecs: Any = array.metadata.to_dict()["codecs"]
        if self.is_sharded and codecs[0]["configuration"].get("index_location") != "end":
            raise _damaged(name, "its files begin with their index, which no functaset's do")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory; of a text those of the reference to it."""
        return (8 if self.dtype == "str" else np.dtype(self.dtype).itemsize) * math.prod(self.shape[1:])

    def file(self, number: int) -> str:
        """The name of a file, below the store."""
        return "/".join((self.name, "c", str(number), *("0" for _ in self.shape[1:])))

    def lost(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, int, str]]:
        """First row, end row and problem of the files (all, or these) that are missing, empty or cannot be read."""
        count, each = 0, self.rows_per_file
        for number in range(math.ceil(len(self) / each)) if numbers is None else numbers:
            problem = self._problem(number)
            if problem is None:
                continue
            count += 1
            if count == MOST_LOST:
                yield number * each, len(self), "too many files are missing to look for them all"
                return
            yield number * each, min((number + 1) * each, len(self)), problem

    def implausible(self) -> str | None:
        """In words, when the array claims far more than its files can hold: reading it would fill the memory."""
        claimed = len(self) * self.row_bytes
        if claimed <= MOST_UNQUESTIONED:
            return None
        files = (self.root / self.file(number) for number in range(math.ceil(len(self) / self.rows_per_file)))
        disk = sum(file.stat().st_size for file in files)
        if claimed <= MOST_EXPANSION * disk:
            return None
        return f"{self.name}: {len(self)} rows of {self.row_bytes} bytes cannot be in {disk} bytes"

    def read(self, rows: slice | np.ndarray | None = None) -> np.ndarray:
        """The rows (a slice of step 1, or numbers that are there), whole and checked; an InputError where damaged."""
        if isinstance(rows, np.ndarray):
            numbers: Iterable[int] = np.unique(rows // self.rows_per_file).tolist()
            where, is_empty = f"one of rows {rows[:8].tolist()}", not len(rows)
        else:
            start, stop, _ = (rows or slice(None)).indices(len(self))
            numbers = range(start // self.rows_per_file, math.ceil(stop / self.rows_per_file))
            rows, where, is_empty = slice(start, stop), rows_in_words(start, stop), stop <= start
        if is_empty:
            return np.empty((0, *self.shape[1:]), object if self.dtype == "str" else self.dtype)
        # at every read: a file may be lost while the functaset is open
        for start, stop, problem in self.lost(numbers):
            raise InputError(f"{self.name}: {rows_in_words(start, stop)} lost: {problem}", hint=HINT)
        try:
            values = self.zarr[rows] if isinstance(rows, slice) else self.zarr.oindex[rows]
            # zarr gives texts in a type of numpy's own
            return np.asarray(values, object if self.dtype == "str" else self.dtype)
        # codecs raise errors of many kinds on damaged bytes
        except Exception as error:
            raise InputError(f"{self.name}: {where} cannot be read: {_reason(error)}", hint=HINT) from error

    def _problem(self, number: int) -> str | None:
        name = self.file(number)
        most = MOST_TEXT_FILE if self.dtype == "str" else OVERHEAD + 2 * self.rows_per_file * self.row_bytes
        try:
            file = whole_file(self.root, name, most)
        except InputError as error:
            return (
                f"{name} is missing"
                if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError))
                else str(error)
            )
        size = file.stat().st_size
        if not size:
            return f"{name} is empty"
        return f"{name} lacks a chunk" if self.is_sharded and self._lacks_chunk(file, size, number) else None

    def _lacks_chunk(self, file: Path, size: int, number: int) -> bool:
        """Whether the index at the end of a file lacks a chunk, or places it outside: zarr reads fill values there."""
        chunks = self.rows_per_file // self.rows_per_chunk
        index = 16 * chunks + 4
        if size < index:
            # zarr says so
            return False
        used = math.ceil(min(self.rows_per_file, len(self) - number * self.rows_per_file) / self.rows_per_chunk)
        with file.open("rb") as opened:
            opened.seek(-index, os.SEEK_END)
            starts, lengths = np.frombuffer(opened.read(16 * used), "<u8").reshape(used, 2).T
        end = size - index
        # first one by one: their sum may be beyond 64 bits
        return bool(((lengths == 0) | (lengths > end) | (starts > end) | (starts + lengths > end)).any())


def open_array(root: Path, name: str, description: object) -> StoredArray:
    """The array of that name in a store; an InputError unless its own zarr.json is the `description` in the root's."""
    file = root / name / "zarr.json"
    if read_json(file, within=root) != description:
        raise InputError(f"{name}/zarr.json differs from what the root's zarr.json says about it", hint=HINT)
    try:
        array = zarr.open_array(root, path=name, mode="r", zarr_format=3)
    # zarr raises errors of many kinds on damaged descriptions
    except Exception as error:
        raise _damaged(name, _reason(error)) from error
    return StoredArray(root, name, array)


def difference(array: StoredArray | None, column: Column, count: int) -> str | None:
    """How the array under the column's name differs from the column, in words."""
    if array is None:
        return f"{column.name}: the array is missing"
    expected = (count, *column.tail)
    if array.shape != expected or array.dtype != column.dtype:
        return f"{column.name}: found {array.dtype} {array.shape}, expected {column.dtype} {expected}"
    return None


def rows_in_words(start: int, stop: int) -> str:
    return f"row {start}" if stop == start + 1 else f"rows {start} to {stop - 1}"


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


def _damaged(name: str, reason: str) -> InputError:
    return InputError(
        f"{name}: the description of the array is damaged: {reason}",
        hint="restore zarr.json from a copy, or encode again with --overwrite",
    )
