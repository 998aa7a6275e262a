"""HDF5 files that name other files: nothing is read but what they hold themselves."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functaconv.errors import InputError
from functaconv.packing import pack, plan
from functaconv.sources.grids import axes_of
from tests.sources.grids.conftest import CLASSIC, era5, netcdf, read, stored


def changed(path: Path, change: Callable[[Any, int], object]) -> Path:
    """The file after something was done to it with the library that netCDF4 brings."""
    import netCDF4

    library = ctypes.CDLL(netCDF4._netCDF4.__file__)
    for name in ("H5Fopen", "H5Pcreate", "H5Screate_simple", "H5Dcreate2", "H5Gcreate2"):
        getattr(library, name).restype = ctypes.c_int64
    file = library.H5Fopen(bytes(path), 1, number(0))
    assert file >= 0
    change(library, number(file))
    assert library.H5Fclose(number(file)) >= 0
    return path


number = ctypes.c_int64
NONE = number(0)


def linked_by_name(library: Any, file: ctypes.c_int64) -> None:
    assert library.H5Lcreate_soft(b"/t2m", file, b"other", NONE, NONE) >= 0


def linked_to_another_file(library: Any, file: ctypes.c_int64) -> None:
    assert library.H5Ldelete(file, b"t2m", NONE) >= 0
    assert library.H5Lcreate_external(b"secret.nc", b"/t2m", file, b"t2m", NONE, NONE) >= 0


def linked_in_a_group(library: Any, file: ctypes.c_int64) -> None:
    assert library.H5Gcreate2(file, b"other", NONE, NONE, NONE) >= 0
    assert library.H5Lcreate_external(b"secret.nc", b"/t2m", file, b"other/t2m", NONE, NONE) >= 0


def in_a_circle(library: Any, file: ctypes.c_int64) -> None:
    assert library.H5Gcreate2(file, b"other", NONE, NONE, NONE) >= 0
    assert library.H5Lcreate_hard(file, b"/", file, b"other/root", NONE, NONE) >= 0


def with_groups_without_end(library: Any, file: ctypes.c_int64) -> None:
    for depth in range(1, 1024 // 16 + 2):
        assert library.H5Gcreate2(file, b"/".join([b"fifteen letters"] * depth), NONE, NONE, NONE) >= 0


def with_values_in_another_file(library: Any, file: ctypes.c_int64) -> None:
    create(library, file, lambda made, _: library.H5Pset_external(made, b"secret.nc", number(0), number(12)))


def with_values_of_a_variable_elsewhere(library: Any, file: ctypes.c_int64) -> None:
    create(library, file, lambda made, space: library.H5Pset_virtual(made, space, b"secret.nc", b"/t2m", space))


def create(library: Any, file: ctypes.c_int64, set_up: Callable[[ctypes.c_int64, ctypes.c_int64], int]) -> None:
    kinds = {name: number.in_dll(library, name) for name in ("H5P_CLS_DATASET_CREATE_ID_g", "H5T_NATIVE_FLOAT_g")}
    made, space = (
        number(library.H5Pcreate(kinds["H5P_CLS_DATASET_CREATE_ID_g"])),
        number(library.H5Screate_simple(1, (ctypes.c_uint64 * 1)(3), None)),
    )
    assert set_up(made, space) >= 0
    item = library.H5Dcreate2(file, b"other", kinds["H5T_NATIVE_FLOAT_g"], space, NONE, made, NONE)
    assert item >= 0
    library.H5Dclose(number(item))


@netcdf
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (linked_by_name, "other is a link"),
        (linked_to_another_file, "t2m is a link"),
        (linked_in_a_group, "other/t2m is a link"),
        (in_a_circle, "other/root is a group that is there twice"),
        (with_groups_without_end, "cannot read: its structure is damaged"),
        (with_values_in_another_file, "the values of other lie in other files"),
        (with_values_of_a_variable_elsewhere, "the values of other lie in other files"),
    ],
)
def test_a_file_that_names_others_is_refused(
    tmp_path: Path, change: Callable[[Any, ctypes.c_int64], None], reason: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    stored(era5(), tmp_path / "secret.nc")
    path = changed(stored(era5(), folder / "a.nc"), change)
    for look in (read, plan, axes_of):
        with pytest.raises(InputError, match=rf"a\.nc: {reason}"):
            look(path)
    stored(era5(2), folder / "good.nc")
    summary = pack(folder, tmp_path / "shards")
    assert (summary.count, [failure.path for failure in summary.failures]) == (2, ["a.nc"])
    assert reason in summary.failures[0].reason


@netcdf
def test_a_variable_with_two_names_and_names_beyond_ascii_are_no_harm(tmp_path: Path) -> None:
    def named_twice(library: Any, file: ctypes.c_int64) -> None:
        assert library.H5Gcreate2(file, "größe".encode(), NONE, NONE, NONE) >= 0
        assert library.H5Lcreate_hard(file, b"/t2m", file, "größe/t2m".encode(), NONE, NONE) >= 0

    assert len(read(changed(stored(era5(), tmp_path / "a.nc"), named_twice))) == 3


@netcdf
def test_what_cannot_be_checked_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(era5(), tmp_path / "a.nc")
    monkeypatch.setattr("functaconv.sources.grids.hdf5.ctypes.CDLL", lambda _: object())
    with pytest.raises(InputError, match="cannot find out whether it reads other files"):
        read(path)
    for form in CLASSIC:
        assert len(read(stored(era5(), tmp_path / f"{form}.nc", form=form))) == 3
