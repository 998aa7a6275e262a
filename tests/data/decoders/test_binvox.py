"""Occupancy as voxel files have it: what is read, what is written, and the reasons given when a file is not one."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from functaconv.data.decoders.attributes import unpacked
from functaconv.data.decoders.binvox import read_binvox, write_binvox
from functaconv.errors import ItemError

HEADER = b"#binvox 1\ndim 2 3 4\ntranslate -1.5 0 2e-3\nscale 22.1528\ndata\n"

occupancies = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9), elements=st.integers(0, 1))


def test_y_is_stored_fastest_then_z_then_x() -> None:
    # dim: 2 along x, 3 along z, 4 along y; the reference reader's index is x * 3 * 4 + z * 4 + y
    x, y, z = 1, 3, 2
    before = x * 12 + z * 4 + y
    occupancy = read_binvox(HEADER + bytes([0, before, 1, 1]))
    assert occupancy.shape == (2, 4, 3)
    assert occupancy.dtype == np.uint8
    assert occupancy.flags.c_contiguous
    assert np.argwhere(occupancy).tolist() == [[x, y, z]]


@given(occupancies)
def test_what_is_written_is_read(occupancy: np.ndarray) -> None:
    np.testing.assert_array_equal(read_binvox(write_binvox(occupancy)), occupancy)
    assert write_binvox(occupancy.astype(bool)) == write_binvox(occupancy) == write_binvox(occupancy.astype(float))


@pytest.mark.parametrize(
    "header",
    [
        b"#binvox 1\ndim 2 3 4\ndata\n",
        b"#binvox 1\r\ndim 2 3 4\r\nscale 1\r\ndata\r\n",
        b"#binvox 1\nscale 1\ntranslate 0 0 0\n  dim  2\t3 4 \ndata\n",
        b"#binvox 1\n# a remark\nauthor unknown\n\ndim 2 3 4\ndata\n",
    ],
    ids=["bare", "windows", "another-order", "unknown-lines"],
)
def test_headers_as_other_writers_make_them_are_read(header: bytes) -> None:
    assert read_binvox(header + bytes([1, 24])).all()


def test_files_that_are_not_binvox_are_refused_with_the_reason() -> None:
    for content, reason in [
        (b"", "starts with #binvox"),
        (b"OFF\n1 2 3\n", "starts with #binvox; found 'OFF'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "starts with #binvox"),
        (b"#binvoxel 1\ndim 1 1 1\ndata\n\1\1", "starts with #binvox"),
        (b"#binvox 2\ndim 1 1 1\ndata\n\1\1", "version 1, found '#binvox 2'"),
        (b"#binvox 1", "no line `data`"),
        (b"#binvox 1\ndim 1 1 1\n\1\1", "no line `data` in the first 22 bytes"),
        (b"#binvox 1\n" + b"author x\n" * 1000 + b"dim 1 1 1\ndata\n\1\1", "no line `data` in the first 4096 bytes"),
        (b"#binvox 1\ndata\n\1\1", "0 lines `dim X Z Y`"),
        (b"#binvox 1\ndim 1 1 1\ndim 1 1 1\ndata\n\1\1", "2 lines `dim X Z Y`"),
        (b"#binvox 1\ndim 1 1\ndata\n\1\1", "found 'dim 1 1'"),
        (b"#binvox 1\ndim 1 1 1 1\ndata\n\1\1", "three lengths"),
        (b"#binvox 1\ndim 0 1 1\ndata\n", "three lengths of one or more, found 'dim 0 1 1'"),
        (b"#binvox 1\ndim -1 -1 1\ndata\n\1\1", "three lengths"),
        (b"#binvox 1\ndim 1.0 1 1\ndata\n\1\1", "three lengths"),
        (b"#binvox 1\ndim 1 1 many\ndata\n\1\1", "three lengths"),
        (b"#binvox 1\ndim 1_0 1 1\ndata\n\1\1", "three lengths"),
        (b"#binvox 1\ndim 1 1 " + b"9" * 4000 + b"\ndata\n\1\1", "three lengths"),
        (HEADER + bytes([0, 23, 1]), "3 bytes of data, expected pairs"),
        (HEADER + bytes([0, 20, 7, 4]), "value 7 in run 1"),
        (HEADER + bytes([0, 20, 1, 0, 1, 4]), "run 1 has no voxels"),
        (HEADER, "needs 24 voxels, found 0"),
        (HEADER + bytes([0, 23]), "needs 24 voxels, found 23"),
        (HEADER + bytes([0, 255]), "needs 24 voxels, found 255 in 1 runs"),
        (HEADER + bytes([0, 24, 0, 10]), "found 34 in 2 runs"),
    ]:
        with pytest.raises(ItemError, match=reason):
            read_binvox(content)


def test_only_occupancy_is_written() -> None:
    for occupancy, reason in [
        (np.zeros((2, 2)), r"shape \(2, 2\)"),
        (np.zeros((2, 0, 2)), r"shape \(2, 0, 2\)"),
        (np.full((1, 1, 1), 2), "other than 0 and 1"),
        (np.full((1, 1, 1), -1), "other than 0 and 1"),
        (np.full((1, 1, 1), 256), "other than 0 and 1"),
        (np.full((1, 1, 1), 0.5), "other than 0 and 1"),
        (np.full((1, 1, 1), np.nan), "other than 0 and 1"),
    ]:
        with pytest.raises(ItemError, match=reason):
            write_binvox(occupancy)


@given(
    arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, max_side=11), elements=st.integers(0, 1)),
    st.booleans(),
    st.booleans(),
)
def test_packed_bits_are_unpacked(occupancy: np.ndarray, little: bool, rows: bool) -> None:
    order: Literal["little", "big"] = "little" if little else "big"
    packed = np.packbits(occupancy, axis=-1 if rows else None, bitorder=order)
    found = unpacked(packed, {"packed_bits": list(occupancy.shape), "bit_order": order})
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, occupancy)


def test_packed_bits_that_do_not_fit_are_refused() -> None:
    for packed, shape, reason in [
        (np.zeros(3, np.uint8), (3, 3, 3), r"shape \[3\], expected \[4\] or \[3, 3, 1\] for voxels \[3, 3, 3\]"),
        (np.zeros(5, np.uint8), (3, 3, 3), r"shape \[5\]"),
        (np.zeros((3, 3, 2), np.uint8), (3, 3, 3), r"shape \[3, 3, 2\]"),
        (np.zeros((2, 2), np.uint8), (3, 3, 3), r"shape \[2, 2\]"),
        (np.zeros(0, np.uint8), (3, 0, 3), r"\[3, 0, 3\] is more than [0-9]+ voxels, or none"),
        (np.zeros(1, np.uint8), (-1, -1, 1), "or none"),
        (np.zeros(1, np.uint8), (), "expected the shape of the array"),
        (np.zeros(4, np.uint8), (1 << 60, 1 << 60), "more than [0-9]+ voxels"),
        (np.zeros(4, np.int8), (3, 3, 3), "type int8, expected uint8"),
        (np.zeros(4, bool), (3, 3, 3), "type bool"),
    ]:
        with pytest.raises(ItemError, match=reason):
            unpacked(packed, {"packed_bits": list(shape)})


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "side", "share"),
    [("bunny", 32, 0.1127), ("toilet_obj_30", 30, 0.1937), ("toilet_off_256", 256, 0.1490)],
)
def test_real_files_are_read_and_written_byte_for_byte(test_data: Path, name: str, side: int, share: float) -> None:
    content = (test_data / "raw" / "voxels" / f"{name}.binvox").read_bytes()
    occupancy = read_binvox(content)
    assert occupancy.shape == (side, side, side)
    assert occupancy.mean() == pytest.approx(share, abs=1e-4)
    assert write_binvox(occupancy).partition(b"\ndata\n")[2] == content.partition(b"\ndata\n")[2]
