"""The arrays of a finished store, read without believing what they say of themselves.

One format is read, the one that `arrays` writes: zarr v3, cut along the first axis, values or texts compressed by blosc
(zstd) with a checksum (crc32c) behind, as single chunks or in shards with their index at the end. zarr and tensorstore
read the same files. This reader is here because a shard that is lost is a loss to it and not a run of fill values, and
because it takes no memory for what a damaged or hostile file claims: the sizes in a file must be those that the
description says, and the description those of the functaset.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Self

import google_crc32c
import numpy as np
from numcodecs.blosc import decompress
from numcodecs.vlen import VLenUTF8
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functaconv.errors import InputError
from functaconv.functaset.files import whole_file
from functaconv.functaset.schema import Column, shown

MOST_IN_CHUNK = 1 << 28
"""bytes of values that a reader is willing to hold for one chunk; a functaset's have half a MiB, or one row"""
MOST_TEXT = 1 << 30
"""bytes of text in a chunk: thousands of rows, of any length"""
MOST_LOST = 1000
"""files: damage of this extent is not listed any further, a damaged count would have us look for ever"""
_INDEX_ENTRY, _CHECKSUM = 16, 4
_NOTHING = 2**64 - 1
"""where and how long a chunk is that was left out because all of it was the fill value; ours never are"""
_BLOSC_HEADER, _BLOSC_OVERHEAD = 16, 16
# https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst: byte 2 holds flags, its upper three bits the codec
_ZSTD, _AS_IT_IS = 4, 0x2
_TYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
_HINT = "`functaconv inspect --verify` lists all damage; restore it from a copy or encode again"

_Length = Annotated[int, Field(strict=True, ge=0, lt=2**48)]
_Lengths = Annotated[tuple[_Length, ...], Field(min_length=1, max_length=5)]


class _Described(BaseModel):
    # what a later zarr may add does not change how the bytes are to be read: that has names of its own
    model_config = ConfigDict(frozen=True)


class _Little(_Described):
    endian: Literal["little"] | None = None


class _Values(_Described):
    name: Literal["bytes"]
    configuration: _Little = _Little()


class _Texts(_Described):
    name: Literal["vlen-utf8"]


class _Zstd(_Described):
    cname: Literal["zstd"]


class _Blosc(_Described):
    name: Literal["blosc"]
    configuration: _Zstd


class _Crc32c(_Described):
    name: Literal["crc32c"]


_Chain = tuple[Annotated[_Values | _Texts, Field(discriminator="name")], _Blosc, _Crc32c]


class _Inner(_Described):
    chunk_shape: _Lengths
    codecs: _Chain
    index_codecs: tuple[_Values, _Crc32c]
    index_location: Literal["end"] = "end"


class _Sharding(_Described):
    name: Literal["sharding_indexed"]
    configuration: _Inner


class _Pieces(_Described):
    chunk_shape: _Lengths


class _Regular(_Described):
    name: Literal["regular"]
    configuration: _Pieces


class _Slash(_Described):
    separator: Literal["/"] = "/"


class _Places(_Described):
    name: Literal["default"]
    configuration: _Slash = _Slash()


class _Array(_Described):
    """The zarr.json of an array, as far as it says how the bytes are to be read."""

    node_type: Literal["array"]
    zarr_format: Literal[3]
    shape: _Lengths
    data_type: Literal["string", "bool", "uint8", "int32", "int64", "float16", "float32", "float64"]
    chunk_grid: _Regular
    chunk_key_encoding: _Places
    codecs: _Chain | tuple[_Sharding]
    storage_transformers: tuple[()] = ()


@dataclass(frozen=True)
class StoredArray:
    """An array on disk: `shape`, cut along its first axis into files of `chunks` chunks of `rows` rows each."""

    root: Path
    """the store"""
    name: str
    shape: tuple[int, ...]
    dtype: str
    """as a `Column` has it: "str" for text"""
    rows: int
    chunks: int
    is_sharded: bool

    @classmethod
    def of(cls, root: Path, name: str, description: object) -> Self:
        """The array that zarr's metadata describe; an InputError unless it is cut and encoded as we do it."""
        try:
            found = _Array.model_validate(description)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(str(step) for step in problem["loc"])
            raise _damaged(name, f"{place}: {problem['msg']} (found {shown(problem['input'])})") from None
        outer = found.chunk_grid.configuration.chunk_shape
        is_sharded = isinstance(found.codecs[0], _Sharding)
        inner = found.codecs[0].configuration.chunk_shape if isinstance(found.codecs[0], _Sharding) else outer
        chain = found.codecs[0].configuration.codecs if isinstance(found.codecs[0], _Sharding) else found.codecs
        rest = found.shape[1:]
        if outer[1:] != rest or inner[1:] != rest or not inner[0] or not outer[0] or outer[0] % inner[0]:
            raise _damaged(name, f"an array of {found.shape} in chunks of {inner} and files of {outer}")
        if isinstance(chain[0], _Texts) != (found.data_type == "string") or (found.data_type == "string" and rest):
            raise _damaged(name, f"{found.data_type} of {found.shape} encoded as {chain[0].name}")
        dtype = "str" if found.data_type == "string" else found.data_type
        array = cls(root, name, found.shape, dtype, inner[0], outer[0] // inner[0], is_sharded)
        # a chunk is full size on disk, also where it reaches beyond the end
        count = max(1, found.shape[0])
        if inner[0] > count or outer[0] >= count + inner[0]:
            raise _damaged(name, f"found chunks of {inner} in files of {outer} for {found.shape}")
        if array.rows > 1 and array.rows * array.row_bytes > MOST_IN_CHUNK:
            raise _damaged(name, f"found chunks of {inner}, expected at most {MOST_IN_CHUNK} bytes")
        return array

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_text(self) -> bool:
        return self.dtype == "str"

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory; of a text those of the reference to it."""
        return (8 if self.is_text else np.dtype(self.dtype).itemsize) * math.prod(self.shape[1:])

    @property
    def files(self) -> int:
        return math.ceil(len(self) / (self.rows * self.chunks))

    def file(self, number: int) -> str:
        """The name of a file, below the store."""
        return "/".join((self.name, "c", str(number), *("0" for _ in self.shape[1:])))

    def lost(self) -> Iterator[tuple[int, int, str]]:
        """First row, end row and problem of the files that are missing, empty, or of a size that cannot be."""
        count, each = 0, self.rows * self.chunks
        for number in range(self.files):
            problem = self._problem(number)
            if problem is None:
                continue
            count += 1
            if count == MOST_LOST:
                yield number * each, len(self), "too many files are missing to look for them all"
                return
            yield number * each, min((number + 1) * each, len(self)), problem

    def bytes_on_disk(self) -> int:
        """Of all files that are there."""
        sizes = ((self.root / self.file(number)) for number in range(self.files))
        return sum(path.stat().st_size for path in sizes if path.is_file())

    def read(self, rows: slice | np.ndarray | None = None) -> np.ndarray:
        """The rows (a slice of step 1, or numbers that are there), whole and checked; an InputError where damaged."""
        if isinstance(rows, np.ndarray):
            return self._picked(rows)
        start, stop, _ = (rows or slice(None)).indices(len(self))
        return self._run(start, max(start, stop))

    def spans(self, lost: Sequence[tuple[int, int, str]]) -> Iterator[tuple[int, int]]:
        """First row and end row of every chunk, but for those of the files that are `lost`."""
        start = 0
        for first, end, _ in [*lost, (len(self), len(self), "")]:
            # of a length that is made up nearly all is lost
            for row in range(start, first, self.rows):
                yield row, min(row + self.rows, len(self))
            start = end

    def _run(self, start: int, stop: int) -> np.ndarray:
        result = self._room(stop - start)
        for number in range(start // self.rows, math.ceil(stop / self.rows)):
            first = number * self.rows
            low, high = max(start, first), min(stop, first + self.rows)
            result[low - start : high - start] = self._chunk(number)[low - first : high - first]
        return result

    def _picked(self, rows: np.ndarray) -> np.ndarray:
        result = self._room(len(rows))
        order = np.argsort(rows // self.rows, kind="stable")
        numbers, starts = np.unique(rows[order] // self.rows, return_index=True)
        for number, chosen in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):
            result[chosen] = self._chunk(number)[rows[chosen] - number * self.rows]
        return result

    def _room(self, count: int) -> np.ndarray:
        try:
            return np.empty((count, *self.shape[1:]), dtype=object if self.is_text else self.dtype)
        except (MemoryError, ValueError):
            raise InputError(
                f"{self.name}: {count} rows of {self.shape[1:]} {self.dtype} do not fit into memory",
                hint="read it in batches",
            ) from None

    def _chunk(self, number: int) -> np.ndarray:
        start = number * self.rows
        where = rows_in_words(start, min(start + self.rows, len(self)))
        try:
            with whole_file(self.root, self.file(number // self.chunks), self._most_in_file).open("rb") as file:
                return self._decoded(self._encoded(file, number % self.chunks))
        except InputError as error:
            raise InputError(f"{self.name}: {where} lost: {error}", hint=_HINT) from error
        except OSError as error:
            raise InputError(f"{self.name}: {where} cannot be read: {error.strerror or error}", hint=_HINT) from error
        # the decoders raise whatever they like on damaged bytes
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"{self.name}: {where} cannot be read: {reason}", hint=_HINT) from error

    def _encoded(self, file: BinaryIO, number: int) -> bytes:
        """The bytes of one of a file's chunks, their checksum taken off."""
        if not self.is_sharded:
            return _checked(file.read())
        index = self.chunks * _INDEX_ENTRY + _CHECKSUM
        end = file.seek(0, 2) - index
        if end < 0:
            raise ValueError("the file is cut short")
        file.seek(end)
        entries = np.frombuffer(_checked(file.read(index)), "<u8").reshape(-1, 2)
        offset, length = entries[number].tolist()
        if offset + length > end:
            raise ValueError("the chunk is missing" if offset == length == _NOTHING else "the chunk is cut off")
        file.seek(offset)
        return _checked(file.read(length))

    def _decoded(self, content: bytes) -> np.ndarray:
        """Full-size: as many rows as a chunk has."""
        if len(content) < _BLOSC_HEADER:
            raise ValueError("the chunk is cut short")
        claimed, compressed = (int.from_bytes(content[place : place + 4], "little") for place in (4, 12))
        expected = self.rows * self.row_bytes
        if compressed != len(content) or (claimed > MOST_TEXT if self.is_text else claimed != expected):
            raise ValueError(f"{compressed} bytes that expand to {claimed}, found {len(content)}")
        if content[2] >> 5 != _ZSTD and not content[2] & _AS_IT_IS:
            raise ValueError("compressed in a way that is not ours")
        values = decompress(content)
        if not self.is_text:
            dtype = np.dtype(np.uint8 if self.dtype == "bool" else self.dtype).newbyteorder("<")
            return np.frombuffer(values, dtype).reshape(self.rows, *self.shape[1:])
        # it makes room for as many texts as the first number says, before it looks for them
        if int.from_bytes(values[:4], "little") != self.rows or len(values) < 4 * (self.rows + 1):
            raise ValueError(f"expected {self.rows} texts")
        return np.asarray(VLenUTF8().decode(values), dtype=object)

    def _problem(self, number: int) -> str | None:
        name = self.file(number)
        try:
            size = (self.root / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if not size:
            return f"{name} is empty"
        try:
            whole_file(self.root, name, self._most_in_file)
        except InputError as error:
            return str(error)
        return None

    @property
    def _most_in_chunk(self) -> int:
        return (MOST_TEXT if self.is_text else self.rows * self.row_bytes) + _BLOSC_OVERHEAD + _CHECKSUM

    @property
    def _most_in_file(self) -> int:
        return self.chunks * (self._most_in_chunk + _INDEX_ENTRY) + _CHECKSUM


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


def _checked(content: bytes) -> bytes:
    """The content before its checksum, which must be right."""
    if len(content) <= _CHECKSUM:
        raise ValueError("the file is cut short")
    values = content[:-_CHECKSUM]
    found, stored = google_crc32c.value(values), int.from_bytes(content[-_CHECKSUM:], "little")
    if found != stored:
        raise ValueError(f"the checksum is {found:08x}, stored is {stored:08x}")
    return values


def _damaged(name: str, reason: str) -> InputError:
    return InputError(
        f"{name}: the description of the array is damaged: {reason}",
        hint="restore zarr.json from a copy, or encode again with --overwrite",
    )
