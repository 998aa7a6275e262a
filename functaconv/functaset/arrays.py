"""The arrays of a store: how they are cut into chunks, and written whole shards at a time."""

import math
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from functaconv.functaset.schema import Column

# measured: smaller chunks do not make reading one row faster, and shuffle pays from 256 KiB on
_CHUNK_BYTES = 512 * 1024
_CHUNKS_PER_SHARD = 16
# for columns of text, whose length is not known beforehand: few enough that rows of the greatest length (64 KiB, the
# attributes of an item) stay below a reader's limit, and that a file of them fits into memory
_TEXTS_PER_CHUNK, _CHUNKS_OF_TEXT = 1024, 2


def create_column(group: zarr.Group, column: Column, count: int) -> zarr.Array[Any]:
    """The empty array of a column, for `count` rows."""
    is_text = column.dtype == "str"
    if is_text:
        rows, most_chunks = _TEXTS_PER_CHUNK, _CHUNKS_OF_TEXT
    else:
        rows = max(1, _CHUNK_BYTES // (np.dtype(column.dtype).itemsize * math.prod(column.tail)))
        most_chunks = _CHUNKS_PER_SHARD
    rows = min(rows, max(1, count))
    chunks = min(most_chunks, max(1, math.ceil(count / rows)))
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
        # so a missing shard is always damage, never a run of fill values
        config={"write_empty_chunks": True},
    )


class RowWriter:
    """Buffers rows and writes them a whole shard at a time."""

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
        """Write the rows in the buffer; the last shard may be a partial one."""
        if self._filled:
            self._array[self._start : self._start + self._filled] = self._buffer[: self._filled]
        self._start += self._filled
        self._filled = 0
