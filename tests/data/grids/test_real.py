"""Files as weather services publish them, compared with what xarray or ecCodes reads."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.data.grids import is_fields
from functaconv.errors import InputError
from tests.data.grids.conftest import Items, grib, netcdf, read

REAL: dict[str, tuple[int, tuple[int, ...], str | list[str], str]] = {
    "cams_total_column_co2_31x161x320.nc": (31, (161, 320), "tcco2", "2006-01-01T06:00:00"),
    "ecmwf_mslp_4x451x900_int16.nc": (4, (451, 900), "msl", "2022-08-17T00:00:00"),
    "era5-2mt-2019-03-uk.grib": (624, (33, 49), "t2m", "2019-03-01T00:00:00"),
    "era5-levels-members.grib": (70, (61, 120, 2), ["z", "t"], "2017-01-01T00:00:00"),
    "era5_t2m_italy.nc": (424, (43, 48), "t2m", "2022-05-01T00:00:00"),
    "era5_t_global_0p25_one.grib": (1, (721, 1440), "t", "1940-03-01T13:00:00"),
    "era5_wgust_global_0p25_one.nc": (1, (721, 1440), "i10fg", "2011-08-01T00:00:00"),
    "era5land_t2m_australia_newCDS.nc": (1, (351, 481), "t2m", "2025-11-01T00:00:00"),
    "eraint_uvz.nc": (6, (241, 480, 3), ["z", "u", "v"], ""),
    "ersst5_sst.mnmean.nc": (114, (89, 180), "sst", "2010-01-01T00:00:00"),
    "fields_with_missing_values.grib": (2, (91, 180), "t2m", "2017-10-18T00:00:00"),
    "ghcn_cams_air_0p5_8mo.nc": (8, (360, 720), "air", "2018-01-01T00:00:00"),
    "ncep_air_sig995_mon_ltm.nc": (12, (73, 144, 2), ["air", "valid_yr_count"], "0001-01-01T00:00:00"),
    "regular_gg_sfc.grib": (1, (96, 192), "u10", "2017-10-18T12:00:00"),
}
"""items, shape, variables, first time"""
REFUSED = {"small_rotPole_precipitation.nc": r"pr: rotated pole: latitude has 2 axes \(rlat, rlon\)"}


@pytest.mark.realdata
def test_every_real_file_is_accounted_for(test_data: Path) -> None:
    assert {path.name for path in (test_data / "raw" / "weather").iterdir()} == {*REAL, *REFUSED}


@pytest.mark.realdata
@netcdf
@grib
@pytest.mark.parametrize("name", REAL)
def test_real_files_give_what_xarray_or_eccodes_reads(test_data: Path, name: str) -> None:
    path = test_data / "raw" / "weather" / name
    assert is_fields(path)
    items = read(path)
    count, shape, variables, first_time = REAL[name]
    array, attributes = next(iter(items.values()))
    assert (len(items), array.shape, attributes["variable"]) == (count, shape, variables)
    assert attributes.get("time", "") == first_time
    assert all(array.size > attributes["n_missing"] for array, attributes in items.values())
    compare = compare_with_eccodes if path.suffix == ".grib" else compare_with_xarray
    compare(path, items)


def compare_with_xarray(path: Path, items: Items) -> None:
    import xarray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xarray.SerializationWarning)
        dataset = xarray.load_dataset(path, engine="netcdf4")
    _, attributes = next(iter(items.values()))
    names = attributes["variable"] if isinstance(attributes["variable"], list) else [attributes["variable"]]
    raw = np.stack([dataset[name].to_numpy() for name in names], -1).astype(np.float32)
    raw = raw.reshape(-1, *raw.shape[-3:])
    for (array, attributes), expected in zip(items.values(), raw, strict=True):
        np.testing.assert_array_equal(array.reshape(expected.shape), expected)
        assert attributes["units"] == (
            dataset[names[0]].units if len(names) == 1 else [dataset[name].attrs.get("units", "") for name in names]
        )
    latitude, longitude = dataset[names[0]].dims[-2:]
    np.testing.assert_array_equal(np.float32(attributes["latitude"]), np.float32(dataset[latitude]))
    np.testing.assert_array_equal(np.float32(attributes["longitude"]), np.float32(dataset[longitude]))


def compare_with_eccodes(path: Path, items: Items) -> None:
    """Point by point, in the order of the messages."""
    import eccodes

    fields: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}
    with path.open("rb") as stream:
        while (handle := eccodes.codes_grib_new_from_file(stream)) is not None:
            date, time, level, member, name = (
                eccodes.codes_get(handle, key)
                for key in ("validityDate", "validityTime", "level", "number", "cfVarName")
            )
            points = eccodes.codes_get_array(handle, "latLonValues").reshape(-1, 3)
            points[points[:, 2] == eccodes.codes_get(handle, "missingValue"), 2] = np.nan
            fields.setdefault((date, time, level, member), {})[name] = points
            eccodes.codes_release(handle)
    assert len(fields) == len(items)
    for array, attributes in items.values():
        moment = "".join(character for character in attributes["time"] if character.isdigit())
        key = (int(moment[:8]), int(moment[8:12]), attributes["level"], attributes.get("member", 0))
        names = attributes["variable"] if isinstance(attributes["variable"], list) else [attributes["variable"]]
        for channel, name in enumerate(names):
            points = fields[key][name]
            grid = np.meshgrid(attributes["latitude"], attributes["longitude"], indexing="ij")
            np.testing.assert_allclose(np.stack(grid, -1).reshape(-1, 2), points[:, :2], atol=1e-6)
            np.testing.assert_array_equal(array.reshape(-1, len(names))[:, channel], points[:, 2].astype(np.float32))


@pytest.mark.realdata
@netcdf
@pytest.mark.parametrize("name", REFUSED)
def test_real_files_on_other_grids_are_refused_with_a_reason(test_data: Path, name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name]) as caught:
        read(test_data / "raw" / "weather" / name)
    assert "regrid" in str(caught.value.hint)
