"""HDF5 files that name other files: nothing is read but what they hold themselves."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functaconv.data.grids import axes_of
from functaconv.errors import InputError, MissingExtraError
from functaconv.packing import pack, plan
from tests.data.grids.conftest import CLASSIC, era5, netcdf, read, stored

Change = Callable[[Any], None]


def changed(path: Path, change: Change) -> Path:
    import h5py

    with h5py.File(path, "r+") as file:
        change(file)
    return path


def linked_by_name(file: Any) -> None:
    import h5py

    file["other"] = h5py.SoftLink("/t2m")


def linked_to_another_file(file: Any) -> None:
    import h5py

    del file["t2m"]
    file["t2m"] = h5py.ExternalLink("secret.nc", "/t2m")


def linked_in_a_group(file: Any) -> None:
    import h5py

    file.create_group("other")["t2m"] = h5py.ExternalLink("secret.nc", "/t2m")


def in_a_circle(file: Any) -> None:
    file.create_group("other")["root"] = file["/"]


def with_groups_without_end(file: Any) -> None:
    file.create_group("/".join(["group"] * 40))


def with_values_in_another_file(file: Any) -> None:
    file.create_dataset("other", (3,), "f4", external=[("secret.nc", 0, 12)])


def with_values_of_a_variable_elsewhere(file: Any) -> None:
    import h5py

    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("secret.nc", "/t2m", (3,))
    file.create_virtual_dataset("other", layout)


@netcdf
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (linked_by_name, "other is a link"),
        (linked_to_another_file, "t2m is a link"),
        (linked_in_a_group, "other/t2m is a link"),
        (in_a_circle, "other/root is a group that is there twice"),
        (with_groups_without_end, "more than 32 groups in each other"),
        (with_values_in_another_file, "the values of other lie in other files"),
        (with_values_of_a_variable_elsewhere, "the values of other lie in other files"),
    ],
)
def test_a_file_that_names_others_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
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
    def named_twice(file: Any) -> None:
        file.create_group("größe")["t2m"] = file["t2m"]

    assert len(read(changed(stored(era5(), tmp_path / "a.nc"), named_twice))) == 3


@netcdf
def test_what_cannot_be_checked_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(era5(), tmp_path / "a.nc")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match="h5py"):
        read(path)
    for form in CLASSIC:
        assert len(read(stored(era5(), tmp_path / f"{form}.nc", form=form))) == 3
