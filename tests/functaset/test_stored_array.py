"""Arrays as zarr reads them, and what it would pass on in silence: lost and cut files, flipped bits, absurd sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from functaconv.errors import InputError
from functaconv.functaset import arrays
from functaconv.functaset.schema import Column
from functaconv.functaset.stored_array import StoredArray

COLUMNS = [
    # 32 rows in a chunk, 512 in a file
    Column("latent", "float16", ("row", "latent"), (2, 4096), fill=float("nan")),
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
    return StoredArray(folder, name, zarr.open_array(folder, path=name, mode="r", zarr_format=3))


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.dtype)
def test_rows_are_those_that_were_written(tmp_path: Path, column: Column) -> None:
    for count in (0, 1, 33, 600, *([5000] if column.dtype == "str" else [])):
        assert_read_as_written(tmp_path / str(count), column, count)


def assert_read_as_written(folder: Path, column: Column, count: int) -> None:
    array, values = written(folder, column, count)
    assert list(array.lost()) == []
    assert array.implausible() is None
    assert np.array_equal(array.read(), values)
    assert array.read().dtype == values.dtype
    for rows in (slice(0, 3), slice(2, 2), slice(1, count), slice(count, count + 9), slice(3, 30), slice(500, 530)):
        assert np.array_equal(array.read(rows), values[rows])
    chosen = np.random.default_rng(1).integers(0, max(1, count), min(count, 20))
    assert np.array_equal(array.read(chosen), values[chosen])


def test_vectors_are_single_chunks(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path, zarr_format=3)
    arrays.create_vector(group, "latent_mean", np.arange(6.0))
    assert np.array_equal(stored(tmp_path, "latent_mean").read(), np.arange(6, dtype=np.float32))


@pytest.mark.parametrize("how", ["missing", "empty", "folder", "link"])
def test_a_file_that_is_lost_is_never_fill_values(tmp_path: Path, how: str) -> None:
    array, values = written(tmp_path / "store", Column("key", "str", fill=""), 5000)
    each = array.rows_per_file
    assert len(values) > 2 * each
    file = tmp_path / "store" / array.file(1)
    content = file.read_bytes()
    file.unlink()
    if how == "empty":
        file.write_bytes(b"")
    elif how == "folder":
        file.mkdir()
    elif how == "link":
        (tmp_path / "outside").write_bytes(content)
        file.symlink_to(tmp_path / "outside")
    assert [(start, stop) for start, stop, _ in array.lost()] == [(each, 2 * each)]
    # the array was opened before
    for rows in (None, slice(each, each + 1), np.array([0, each])):
        with pytest.raises(InputError, match=f"key: rows {each} to {2 * each - 1} lost: .*key/c/1"):
            array.read(rows)
    assert np.array_equal(array.read(slice(0, each)), values[:each])


@pytest.mark.parametrize("column", COLUMNS[1:4], ids=lambda column: column.dtype)
def test_a_cut_file_is_an_error_however_much_is_left(tmp_path: Path, column: Column) -> None:
    array, _ = written(tmp_path, column, 4)
    file = tmp_path / array.file(0)
    content = file.read_bytes()
    for length in (*range(0, 40, 7), *range(40, len(content), max(1, len(content) // 50))):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match=column.name):
            array.read()


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.dtype)
def test_a_flipped_bit_is_never_a_value(tmp_path: Path, column: Column) -> None:
    array, values = written(tmp_path, column, 4)
    file = tmp_path / array.file(0)
    content = file.read_bytes()
    for place in range(0, 8 * len(content), max(5, len(content) // 10)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(bytes(damaged))
        with pytest.raises(InputError, match=column.name):
            array.read()
    file.write_bytes(content)
    assert np.array_equal(array.read(), values)


def described(folder: Path, name: str, change: dict[str, Any], **inner: Any) -> None:
    file = folder / name / "zarr.json"
    found = json.loads(file.read_bytes())
    found["codecs"][0]["configuration"].update(inner)
    file.write_text(json.dumps({**found, **change}))


PLAIN: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
SUMS: dict[str, Any] = {"name": "crc32c", "configuration": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codecs": [PLAIN]}, "no checksums"),
        ({"codecs": [PLAIN, SUMS, {"name": "gzip", "configuration": {"level": 5}}]}, "no checksums"),
        ({"codecs": [{"name": "transpose", "configuration": {"order": [0]}}, PLAIN, SUMS]}, "no functaset uses"),
        ({"shape": []}, "an array of|dimension"),
    ],
    ids=["none", "not last", "filter", "scalar"],
)
def test_arrays_that_would_be_read_wrong_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    written(tmp_path, Column("label", "int64", fill=-1), 4)
    described(tmp_path, "label", change)
    with pytest.raises((InputError, ValueError), match=message):
        stored(tmp_path, "label")


def test_chunks_larger_than_the_array_are_refused(tmp_path: Path) -> None:
    written(tmp_path, Column("label", "int64", fill=-1), 4)
    grid = {"name": "regular", "configuration": {"chunk_shape": [10**12]}}
    described(tmp_path, "label", {"chunk_grid": grid}, chunk_shape=[10**12])
    with pytest.raises(InputError, match="found chunks of"):
        stored(tmp_path, "label")


def test_a_few_bytes_do_not_stand_for_terabytes(tmp_path: Path) -> None:
    written(tmp_path, Column("label", "int64", fill=-1), 4)
    grid = {"name": "regular", "configuration": {"chunk_shape": [10**12]}}
    described(tmp_path, "label", {"chunk_grid": grid, "shape": [10**12]}, chunk_shape=[10**12])
    array = stored(tmp_path, "label")
    assert list(array.lost()) == []
    assert "cannot be in" in str(array.implausible())


def test_endless_missing_files_are_not_all_looked_for(tmp_path: Path) -> None:
    written(tmp_path, Column("label", "int64", fill=-1), 4)
    described(tmp_path, "label", {"shape": [10**12]})
    *_, last = stored(tmp_path, "label").lost()
    assert last[1:] == (10**12, "too many files are missing to look for them all")
