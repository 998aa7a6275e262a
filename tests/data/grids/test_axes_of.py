"""The axes of a file, whether or not a field lies on them."""

from pathlib import Path

import numpy as np
import pytest

from functaconv.data.grids import axes_of
from functaconv.errors import InputError

xarray = pytest.importorskip("xarray")
pytest.importorskip("netCDF4")

LATITUDE, LONGITUDE = [60.0, 50.5, 40.0], [-10.0, 0.0, 10.25, 20.0]


def axes(**others: object) -> dict[str, object]:
    return {
        "lat": ("lat", np.array(LATITUDE), {"units": "degrees_north"}),
        "lon": ("lon", np.array(LONGITUDE, np.float32), {"units": "degrees_east"}),
        **others,
    }


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_a_file_of_nothing_but_axes(tmp_path: Path, kind: str) -> None:
    xarray.Dataset(coords=axes()).to_netcdf(tmp_path / "a.nc", format=kind, engine="netcdf4")
    assert axes_of(tmp_path / "a.nc") == (LATITUDE, LONGITUDE)


def test_fields_that_cannot_be_converted_do_not_matter(tmp_path: Path) -> None:
    """Two that lie on times of different lengths, and a name."""
    fields = {
        "a": (("time", "lat", "lon"), np.zeros((2, 3, 4))),
        "b": (("day", "lat", "lon"), np.zeros((3, 3, 4))),
        "c": (("lat",), np.array(["x", "y", "z"])),
    }
    xarray.Dataset(fields, coords=axes()).to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    assert axes_of(tmp_path / "a.nc") == (LATITUDE, LONGITUDE)


def test_of_several_axes_those_of_the_fields_count(tmp_path: Path) -> None:
    fields = {"a": (("lat", "lon"), np.zeros((3, 4)))}
    other = {"lat2": ("lat2", np.array([1.0, 2.0]), {"units": "degrees_north"})}
    xarray.Dataset(fields, coords=axes(**other)).to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    assert axes_of(tmp_path / "a.nc") == (LATITUDE, LONGITUDE)


def test_a_file_without_axes_or_cut_is_refused(tmp_path: Path) -> None:
    xarray.Dataset({"a": ("x", np.zeros(3))}).to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    with pytest.raises(InputError):
        axes_of(tmp_path / "a.nc")
    xarray.Dataset(coords=axes()).to_netcdf(tmp_path / "b.nc", format="NETCDF3_CLASSIC", engine="netcdf4")
    (tmp_path / "b.nc").write_bytes((tmp_path / "b.nc").read_bytes()[:-20])
    with pytest.raises(InputError):
        axes_of(tmp_path / "b.nc")
