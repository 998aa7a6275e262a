"""Our reader of arrays against zarr's, and against files that claim what is not so."""

import json
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs.blosc import Blosc

from functaconv.errors import InputError
from functaconv.functaset import arrays
from functaconv.functaset.schema import Column
from functaconv.functaset.stored import StoredArray

COLUMNS = [
    Column("latent", "float16", ("row", "latent"), (2, 3), fill=float("nan")),
    Column("codes", "uint8", ("latent",), (5,)),
    Column("label", "int64", fill=-1),
    Column("key", "str", fill=""),
    Column("flag", "bool"),
]


def values_of(column: Column, count: int) -> np.ndarray:
    chance = np.random.default_rng(count)
    if column.dtype == "str":
        return np.array([f"é{row}" * (row % 4) for row in range(count)], object)
    return (chance.random((count, *column.tail)) * 100).astype(column.dtype)


def written(folder: Path, column: Column, count: int) -> tuple[StoredArray, np.ndarray]:
    group = zarr.open_group(folder, mode="a", zarr_format=3)
    values = values_of(column, count)
    writer = arrays.RowWriter(arrays.create_column(group, column, count), column)
    writer.add(values)
    writer.flush()
    return stored(folder, column.name), values


def stored(folder: Path, name: str) -> StoredArray:
    return StoredArray.of(folder, name, json.loads((folder / name / "zarr.json").read_bytes()))


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.dtype)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 40])
def test_rows_are_those_that_zarr_reads(tmp_path: Path, chunks_of_two: None, column: Column, count: int) -> None:
    array, values = written(tmp_path, column, count)
    theirs = zarr.open_array(tmp_path, path=column.name, mode="r")
    assert list(array.lost()) == []
    assert np.array_equal(array.read(), values)
    assert array.read().dtype == values.dtype
    for rows in (slice(0, 3), slice(2, 2), slice(1, count), slice(count, count + 9), slice(3, 30)):
        assert np.array_equal(array.read(rows), np.asarray(theirs[rows]))
    chosen = np.random.default_rng(1).integers(0, max(1, count), 3 * count)
    assert np.array_equal(array.read(chosen), values[chosen])


def test_vectors_are_single_chunks(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path, zarr_format=3)
    arrays.create_vector(group, "latent_mean", np.arange(6.0))
    assert np.array_equal(stored(tmp_path, "latent_mean").read(), np.arange(6, dtype=np.float32))


def sealed(content: bytes) -> bytes:
    return content + google_crc32c.value(content).to_bytes(4, "little")


def blosc(content: bytes, claimed: int | None = None) -> bytes:
    """Compressed as we do it, but for the size that it claims to have had."""
    found = bytearray(Blosc("zstd", 5, Blosc.SHUFFLE).encode(content))
    if claimed is not None:
        found[4:8] = claimed.to_bytes(4, "little")
    return bytes(found)


def in_shard(chunk: bytes, *, offset: int = 0, length: int | None = None) -> bytes:
    """A shard with one chunk, and an index that may say anything of it."""
    entry = np.array([offset, len(chunk) if length is None else length], "<u8")
    return chunk + sealed(entry.tobytes())


TEXTS = (2).to_bytes(4, "little") + b"".join(len(text).to_bytes(4, "little") + text for text in (b"ab", b"c"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("label", in_shard(sealed(blosc(bytes(16), 2**31 - 1))), "expand to 2147483647"),
        ("label", in_shard(sealed(blosc(bytes(1 << 26)))), "bytes, expected at most"),
        ("label", in_shard(sealed(blosc(bytes(8)))), "expand to 8"),
        ("label", in_shard(sealed(b"\2\1\x21\1" + blosc(bytes(16))[4:])), "not ours"),
        ("label", in_shard(sealed(b"\2\1\x81\1")), "cut short"),
        ("label", in_shard(blosc(bytes(16)) + b"abcd"), "checksum"),
        ("label", in_shard(sealed(blosc(bytes(16))), length=2**40), "cut off"),
        ("label", in_shard(sealed(blosc(bytes(16))), offset=2**63), "cut off"),
        ("label", in_shard(sealed(blosc(bytes(16))), offset=2**64 - 1, length=2**64 - 1), "the chunk is missing"),
        ("label", b"x", "cut short"),
        ("key", in_shard(sealed(blosc((2**28).to_bytes(4, "little") + bytes(8)))), "expected 2 texts"),
        ("key", in_shard(sealed(blosc((2).to_bytes(4, "little") + b"\xff\xff\xff\x7f" * 2))), "truncated"),
        ("key", in_shard(sealed(blosc((2).to_bytes(4, "little") + b"\xff\xff\xff\xff" * 2))), ""),
        ("key", in_shard(sealed(blosc(TEXTS.replace(b"ab", b"\xff\xfe")))), "utf-8"),
        ("key", in_shard(sealed(blosc(bytes(16), 2**31 - 1))), "expand to 2147483647"),
    ],
    ids=range(15),
)
def test_a_chunk_that_claims_what_is_not_so_is_refused_in_little_time_and_memory(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    array, values = written(tmp_path, next(column for column in COLUMNS if column.name == name), 2)
    assert array.read().tolist() == values.tolist()
    (tmp_path / array.file(0)).write_bytes(content)
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"{name}: rows 0 to 1 .*: .*{re.escape(reason)}") as caught:
            array.read()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.hint
    assert time.monotonic() - started < 5


def test_the_crafted_chunks_are_read_where_they_are_right(tmp_path: Path) -> None:
    label, _ = written(tmp_path, COLUMNS[2], 2)
    (tmp_path / label.file(0)).write_bytes(in_shard(sealed(blosc(np.array([3, 4]).tobytes()))))
    assert label.read().tolist() == [3, 4]
    key, _ = written(tmp_path, COLUMNS[3], 2)
    (tmp_path / key.file(0)).write_bytes(in_shard(sealed(blosc(TEXTS))))
    assert key.read().tolist() == ["ab", "c"]


def test_a_file_larger_than_its_rows_can_be_is_lost(tmp_path: Path) -> None:
    array, _ = written(tmp_path, COLUMNS[2], 2)
    with (tmp_path / array.file(0)).open("r+b") as file:
        file.truncate(1 << 40)
    ((start, stop, problem),) = array.lost()
    assert (start, stop) == (0, 2)
    assert "1099511627776 bytes, expected at most" in problem
    with pytest.raises(InputError, match="rows 0 to 1 lost"):
        array.read()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**15]},
        {"shape": [-1]},
        {"shape": ["2"]},
        {"shape": []},
        {"node_type": "group"},
        {"zarr_format": 2},
        {"data_type": "complex64"},
        {"data_type": {"name": "numpy.datetime64"}},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}},
        {"codecs": []},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}]},
        {"storage_transformers": [{}]},
    ],
    ids=str,
)
def test_another_description_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    written(tmp_path, COLUMNS[2], 2)
    description = json.loads((tmp_path / "label/zarr.json").read_bytes())
    with pytest.raises(InputError, match="label: the description of the array is damaged: ") as caught:
        StoredArray.of(tmp_path, "label", {**description, **change})
    assert caught.value.hint


def test_what_a_later_zarr_adds_does_no_harm(tmp_path: Path) -> None:
    array, _ = written(tmp_path, COLUMNS[2], 2)
    description = json.loads((tmp_path / "label/zarr.json").read_bytes())
    assert StoredArray.of(tmp_path, "label", {**description, "more": {"must_understand": False}}) == array


def test_texts_too_long_for_any_reader_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functaconv.functaset.arrays.MOST_TEXT", 100)
    with pytest.raises(InputError, match="of text for 40 items"):
        written(tmp_path, COLUMNS[3], 40)
