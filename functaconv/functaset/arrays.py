"""The arrays of a store: how they are cut into chunks, written whole shards at a time, read with care."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from functaconv.errors import InputError
from functaconv.functaset.schema import Column

# measured: smaller chunks do not make reading one row faster, and shuffle pays from 256 KiB on
_CHUNK_BYTES = 512 * 1024
_CHUNKS_PER_SHARD = 16
# a guess for text, whose length is not known beforehand
_TEXT_BYTES = 64
# what a reader is willing to hold for one chunk: a damaged or hostile zarr.json may ask for anything
_LARGEST_CHUNK = 2**31
MOST_IN_CHUNK = 2**28
"""values of an array of axes or masks"""
# damage of this extent is not listed any further: a damaged count would have us look for ever
_MOST_LOST = 1000


def create_column(group: zarr.Group, column: Column, count: int) -> zarr.Array[Any]:
    """The empty array of a column, for `count` rows."""
    is_text = column.dtype == "str"
    size = _TEXT_BYTES if is_text else np.dtype(column.dtype).itemsize
    rows = max(1, _CHUNK_BYTES // (size * math.prod(column.tail)))
    rows = min(rows, max(1, count))
    chunks = min(_CHUNKS_PER_SHARD, max(1, math.ceil(count / rows)))
    return create(
        group,
        column.name,
        shape=(count, *column.tail),
        chunks=(rows, *column.tail),
        shards=(rows * chunks, *column.tail),
        dtype=str if is_text else column.dtype,
        fill_value=column.fill,
        serializer="auto" if is_text else BytesCodec(),
        dimension_names=("item", *column.dims),
        attributes=dict(column.attributes),
    )


def create_vector(group: zarr.Group, name: str, values: np.ndarray) -> None:
    """A float32 array with one number per latent."""
    array = create(
        group,
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype="float32",
        fill_value=float("nan"),
        dimension_names=("latent",),
    )
    array[:] = values.astype(np.float32)


def create(group: zarr.Group, name: str, **options: Any) -> zarr.Array[Any]:
    """An empty array with the codecs, and so the checksums, of all arrays of a store."""
    return group.create_array(
        name,
        **{"serializer": BytesCodec(), **options},
        compressors=[BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        # a shard that is not there is then a loss, never a run of fill values
        config={"write_empty_chunks": True},
    )


class RowWriter:
    """Takes rows in any portions, writes them a whole shard at a time."""

    def __init__(self, array: zarr.Array[Any], column: Column) -> None:
        self._array = array
        rows = min((array.shards or array.chunks)[0], array.shape[0])
        self._buffer = np.empty((rows, *column.tail), column.empty.dtype)
        self._filled = 0
        self._start = 0

    def add(self, rows: np.ndarray) -> None:
        while len(rows):
            taken = min(len(rows), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = rows[:taken]
            self._filled += taken
            rows = rows[taken:]
            if self._filled == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        """Write what is left; the last shard may be a partial one."""
        if self._filled:
            self._array[self._start : self._start + self._filled] = self._buffer[: self._filled]
        self._start += self._filled
        self._filled = 0


def read(array: zarr.Array[Any], rows: slice | np.ndarray) -> np.ndarray:
    """The rows, with an InputError where the stored bytes are damaged."""
    try:
        found = array[rows] if isinstance(rows, slice) else array.oindex[rows]
    # codecs raise whatever they like on damaged bytes
    except Exception as error:
        raise InputError(
            f"{array.name.strip('/')}: {_where(rows)} cannot be read: {error}",
            hint="`functaconv inspect --verify` lists all damage; restore it from a copy or encode again",
        ) from error
    return np.asarray(found)


def missing_shards(array: zarr.Array[Any], root: Path) -> Iterator[tuple[int, int, str]]:
    """First row, end row and problem of shard files that are missing or empty: zarr reads them as fill."""
    shape = array.shards or array.chunks
    lost = 0
    grid = [math.ceil(size / cell) for size, cell in zip(array.shape, shape, strict=True)]
    # the rows lazily: there may be any number of them, and ndindex makes lists
    for place in ((row, *rest) for row in range(grid[0]) for rest in np.ndindex(*grid[1:])):
        file = root / array.path / array.metadata.encode_chunk_key(place)
        try:
            problem = None if file.stat().st_size else "is empty"
        except FileNotFoundError:
            problem = "is missing"
        if problem:
            start = place[0] * shape[0]
            lost += 1
            if lost == _MOST_LOST:
                yield start, array.shape[0], "too many files are missing to look for them all"
                return
            yield start, min(start + shape[0], array.shape[0]), f"{file.relative_to(root)} {problem}"


def difference(array: Any, column: Column, count: int) -> str | None:
    """How what zarr found under the column's name differs from the column, in words."""
    if not isinstance(array, zarr.Array):
        return f"{column.name}: the array is missing"
    expected = (count, *column.tail)
    # text has a dtype of its own per numpy version
    dtype = "str" if array.dtype.kind in "TO" else array.dtype.name
    if array.shape != expected or dtype != column.dtype:
        return f"{column.name}: found {dtype} {array.shape}, expected {column.dtype} {expected}"
    if 0 in (array.shards or ()) or not 0 < math.prod(array.chunks) * array.dtype.itemsize <= _LARGEST_CHUNK:
        return f"{column.name}: found chunks of {array.chunks}, expected 1 to {_LARGEST_CHUNK} bytes"
    return None


def problems(array: Any, column: Column, count: int, root: Path) -> Iterator[str]:
    """What is wrong with an array by its metadata and files alone, unread."""
    if different := difference(array, column, count):
        yield different
        return
    for start, stop, problem in missing_shards(array, root):
        yield f"{column.name}: {rows_in_words(start, stop)} lost: {problem}"


def rows_in_words(start: int, stop: int) -> str:
    return f"row {start}" if stop == start + 1 else f"rows {start} to {stop - 1}"


def _where(rows: slice | np.ndarray) -> str:
    if isinstance(rows, slice):
        whole = rows.start is None or rows.stop is None
        return "the array" if whole else rows_in_words(rows.start, rows.stop)
    return f"one of rows {rows[:8].tolist()}"
