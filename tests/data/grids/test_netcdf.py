"""NetCDF files, written here with xarray and netCDF4, read back as items."""

import tracemalloc
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.data.grids import FieldChoice, axes_of, open_fields
from functaconv.errors import InputError, UsageError
from tests.data.grids.conftest import CLASSIC, era5, hours, netcdf, read, stored, values


@netcdf
@pytest.mark.parametrize("form", [CLASSIC[0], "NETCDF4"])
def test_packed_integers_become_float32_and_fill_values_nan(tmp_path: Path, form: str) -> None:
    dataset = era5()
    dataset.t2m[1, 2, 3] = np.nan
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32767}
    items = read(stored(dataset, tmp_path / "era5.uk.nc", encoding={"t2m": packing}, form=form))
    assert list(items) == [f"era5_uk_2022-05-01T0{hour}" for hour in range(3)]
    for number, (array, attributes) in enumerate(items.values()):
        np.testing.assert_allclose(array, dataset.t2m[number], atol=0.0051)
        assert attributes["n_missing"] == (number == 1)
        assert attributes["time"] == f"2022-05-01T0{number}:00:00"
        assert (attributes["variable"], attributes["units"]) == ("t2m", "K")
        assert attributes["long_name"] == "2 metre temperature"
        assert attributes["dims"] == ["latitude", "longitude"]
        assert attributes["latitude"] == [60.0, 59.0, 58.0, 57.0]


@netcdf
@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        (np.arange(90.0, -91, -30), np.arange(0.0, 360, 45)),
        (np.arange(-90.0, 91, 30), np.arange(-180.0, 180, 45)),
        (np.array([-1.5, 3.25, 2.0]), np.arange(20.0, 378, 2.5)),
        (np.array([46.65, 46.4], np.float32), np.array([6.57, 6.82, 7.07], np.float32)),
        (np.array([10, 20]), np.array([-10, 0, 10])),
    ],
)
def test_latitudes_and_longitudes_stay_as_the_file_has_them(
    tmp_path: Path, latitude: np.ndarray, longitude: np.ndarray
) -> None:
    import xarray

    raw = values(1, len(latitude), len(longitude))
    dataset = xarray.Dataset(
        # longitude first: arrays are rows of latitude all the same
        {"sst": (("lon", "lat"), raw.T)},
        {"lat": ("lat", latitude, {"units": "degrees_north"}), "lon": ("lon", longitude, {"units": "degrees_east"})},
    )
    ((array, attributes),) = read(stored(dataset, tmp_path / "a.nc")).values()
    np.testing.assert_array_equal(array, raw.astype(np.float32))
    assert attributes["latitude"] == latitude.astype(float).tolist()
    assert attributes["longitude"] == longitude.astype(float).tolist()
    assert "time" not in attributes


@netcdf
def test_axes_are_found_by_units_standard_name_cf_axis_or_usual_names(tmp_path: Path) -> None:
    for latitude, longitude in [
        (("lat", {}), ("lon", {})),
        (("nav_lat", {"units": "degrees"}), ("nav_lon", {"units": "degrees"})),
        (("a", {"units": "degreeN"}), ("b", {"units": "degree_E"})),
        (("a", {"standard_name": "latitude"}), ("b", {"standard_name": "longitude"})),
        (("a", {"axis": "Y", "units": "degrees"}), ("b", {"axis": "X", "units": "degrees"})),
        (("lat", {"units": "degrees north"}), ("lon", {"units": "degrees east"})),
        (("Latitude", {"units": "degN"}), ("Longitude", {"units": "degE"})),
        (("lat", {"units": "decimal degrees"}), ("lon", {"units": "°"})),
        (("latitude", {"units": "1"}), ("longitude", {"units": "none"})),
    ]:
        import xarray

        axes = {name: (name, np.arange(3.0 + plus), attrs) for plus, (name, attrs) in enumerate((latitude, longitude))}
        dataset = xarray.Dataset({"v": ((longitude[0], latitude[0]), values(0, 4, 3))}, axes)
        ((array, _),) = read(stored(dataset, tmp_path / "a.nc")).values()
        assert array.shape == (3, 4)


@netcdf
def test_variables_become_channels_in_the_order_asked_for(tmp_path: Path) -> None:
    dataset = era5(u10=(("time", "latitude", "longitude"), values(5, 3, 4, 5), {"units": "m s-1"}))
    path = stored(dataset, tmp_path / "a.nc")
    for names in (("t2m", "u10"), ("u10", "t2m")):
        items = read(path, FieldChoice(variables=names))
        for number, (array, attributes) in enumerate(items.values()):
            for channel, name in enumerate(names):
                np.testing.assert_array_equal(array[..., channel], dataset[name][number].astype(np.float32))
            assert attributes["variable"] == list(names)
            assert attributes["units"] == [dataset[name].units for name in names]
            assert attributes["long_name"] == [dataset[name].attrs.get("long_name", name) for name in names]
            assert attributes["dims"] == ["latitude", "longitude", "channel"]
    ((array, attributes), *_) = read(path, FieldChoice(variables=("u10",))).values()
    assert array.shape == (4, 5)
    assert attributes["variable"] == "u10"
    ((array, attributes), *_) = read(path).values()
    assert attributes["variable"] == ["t2m", "u10"]


@netcdf
def test_fields_on_different_axes_ask_for_a_choice(tmp_path: Path) -> None:
    path = stored(era5(lsm=(("latitude", "longitude"), values(0, 4, 5))), tmp_path / "a.nc")
    with pytest.raises(InputError, match=r"t2m\(time=3, latitude=4, longitude=5\); lsm") as caught:
        read(path)
    assert caught.value.hint == "choose variables that share their axes: --variable t2m, or --variable lsm"
    assert len(read(path, FieldChoice(variables=("t2m",)))) == 3
    assert list(read(path, FieldChoice(variables=("lsm",)))) == ["a"]


@netcdf
def test_levels_and_members_are_items_with_their_place_in_key_and_attributes(tmp_path: Path) -> None:
    import xarray

    base = era5()
    raw = values(2, 2, 3, 3, 4, 5).astype(np.float32)
    dataset = xarray.Dataset(
        {"z": (("number", "time", "pressure_level", "latitude", "longitude"), raw)},
        {
            **base.coords,
            "number": [0, 7],
            "pressure_level": ("pressure_level", [850.0, 500.0, 0.5], {"units": "hPa", "positive": "down"}),
        },
    )
    items = read(stored(dataset, tmp_path / "a.nc"))
    assert len(items) == 18
    array, attributes = items["a_2022-05-01T02_m7_0p5"]
    np.testing.assert_array_equal(array, raw[1, 2, 2])
    assert (attributes["level"], attributes["level_name"], attributes["level_units"]) == (0.5, "pressure_level", "hPa")
    assert attributes["member"] == 7
    assert "number" not in attributes
    chosen = read(tmp_path / "a.nc", FieldChoice(levels=(500,), stride=2))
    assert list(chosen) == [f"a_2022-05-01T0{time}_m{member}_500" for time in (0, 2) for member in (0, 7)]
    with pytest.raises(InputError, match="no level 501") as caught:
        read(tmp_path / "a.nc", FieldChoice(levels=(500, 501)))
    assert "0.5, 500, 850" in str(caught.value.hint)


@netcdf
@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (FieldChoice(start="2022-05-02"), [6, 12, 18, 24, 30, 36, 42]),
        (FieldChoice(stop="2022-05-01"), [-6, 0]),
        (FieldChoice(start="2022-05-01T12", stop="2022-05-02 00:00:00"), [-6, 0, 6]),
        (FieldChoice(start="2022-05-02", stop="2022-05-02"), [6, 12, 18, 24]),
        (FieldChoice(start="2022", stop="2022-05", stride=4), [-6, 18, 42]),
        (FieldChoice(stop="2022-05-01T18:00Z"), [-6, 0]),
    ],
)
def test_a_range_of_times_takes_all_that_begins_with_its_ends(
    tmp_path: Path, choice: FieldChoice, expected: list[int]
) -> None:
    dataset = era5(9).assign_coords(time=np.datetime64("2022-05-01T12", "ns") + np.arange(9) * np.timedelta64(6, "h"))
    items = read(stored(dataset, tmp_path / "a.nc"), choice)
    hours = np.datetime64("2022-05-01T18", "h") + np.array(expected, "timedelta64[h]")
    assert [attributes["time"][:13] for _, attributes in items.values()] == hours.astype(str).tolist()


@netcdf
def test_a_range_without_times_says_what_there_is(tmp_path: Path) -> None:
    path = stored(era5(), tmp_path / "a.nc")
    with pytest.raises(InputError, match="no time between 2023 and the end") as caught:
        read(path, FieldChoice(start="2023"))
    assert caught.value.hint == "there is 2022-05-01T00:00:00 to 2022-05-01T02:00:00"
    still = stored(era5().isel(time=0, drop=True), tmp_path / "still.nc")
    for choice in (FieldChoice(start="2022"), FieldChoice(stride=2), FieldChoice(levels=(1,))):
        with pytest.raises(InputError, match=r"no times|no axis of time|no levels"):
            read(still, choice)


def test_what_is_no_time_is_refused_at_once() -> None:
    for time in ["yesterday", "2022-5", "2022-05-01T", "01.05.2022", ""]:
        with pytest.raises(UsageError, match="not a time"):
            FieldChoice(start=time)
        with pytest.raises(UsageError, match="1 or more"):
            FieldChoice(stride=0)


@netcdf
def test_old_era5_with_final_and_preliminary_values_is_one_series(tmp_path: Path) -> None:
    import xarray

    raw = values(3, 4, 2, 4, 5).astype(np.float32)
    # preliminary values first; the final ones count where both are there
    raw[:2, 0], raw[3, 1] = np.nan, np.nan
    raw[2, 1, 0, 0] = np.nan
    dataset = xarray.Dataset(
        {"t2m": (("time", "expver", "latitude", "longitude"), raw)}, {**era5(4).coords, "expver": [5, 1]}
    )
    items = read(stored(dataset, tmp_path / "a.nc"))
    assert list(items) == [f"a_2022-05-01T0{hour}" for hour in range(4)]
    expected = np.where(np.isnan(raw[:, 1]), raw[:, 0], raw[:, 1])
    np.testing.assert_array_equal([array for array, _ in items.values()], expected)
    assert not any(attributes["n_missing"] or "expver" in attributes for _, attributes in items.values())


@netcdf
def test_the_new_files_of_the_climate_data_store_give_valid_time_and_version(tmp_path: Path) -> None:
    dataset = era5().rename(time="valid_time").assign_coords(number=0, expver=("valid_time", ["0001", "0001", "0005"]))
    dataset.valid_time.attrs["standard_name"] = "forecast_reference_time"
    items = read(stored(dataset, tmp_path / "a.nc"))
    assert list(items) == [f"a_2022-05-01T0{hour}" for hour in range(3)]
    assert [attributes["expver"] for _, attributes in items.values()] == ["0001", "0001", "0005"]
    assert {attributes["member"] for _, attributes in items.values()} == {0}
    assert "reference_time" not in items["a_2022-05-01T00"][1]


@netcdf
def test_forecasts_have_reference_time_and_step(tmp_path: Path) -> None:
    import xarray

    reference, step = hours(2, 12), np.array([0.0, 6.0, 12.0])
    valid = reference[:, None] + (step * 3600e9).astype("timedelta64[ns]")
    dataset = xarray.Dataset(
        {"t": (("time", "step", "latitude", "longitude"), values(0, 2, 3, 4, 5))},
        {
            **era5().isel(time=slice(2)).coords,
            "time": ("time", reference, {"standard_name": "forecast_reference_time"}),
            "step": ("step", step, {"units": "hours"}),
            "valid_time": (("time", "step"), valid, {"standard_name": "time"}),
        },
    )
    items = read(stored(dataset, tmp_path / "a.nc"))
    assert list(items)[:3] == ["a_2022-05-01T00_step0", "a_2022-05-01T00_step6", "a_2022-05-01T00_step12"]
    _, attributes = items["a_2022-05-01T12_step6"]
    assert attributes["time"] == "2022-05-01T18:00:00"
    assert attributes["reference_time"] == "2022-05-01T12:00:00"
    assert (attributes["step"], attributes["step_units"]) == (6, "hours")


@netcdf
@pytest.mark.parametrize(
    ("time", "attributes", "expected"),
    [
        ([31.0, 60.0], {"units": "days since 0001-01-01", "calendar": "noleap"}, "0001-02-01T00:00:00 noleap"),
        ([10.0, 20.0], {"units": "hours since 1800-01-01", "calendar": "360_day"}, "1800-01-01T10:00:00 360_day"),
        ([-657073.0, -657042.0], {"units": "days since 1800-01-01 00:00:0.0"}, "0001-01-01T00:00:00 standard"),
        # seconds are rounded, not cut off
        ([1 / 3, 2 / 3], {"units": "days since 2000-01-01"}, "2000-01-01T08:00:00 None"),
        ([1, 2], {"units": "minutes since 2000-01-01"}, "2000-01-01T00:01:00 None"),
    ],
)
def test_times_of_any_calendar_are_iso_strings(
    tmp_path: Path, time: list[float], attributes: dict[str, str], expected: str
) -> None:
    dataset = era5(2).assign_coords(time=("time", time, attributes))
    items = read(stored(dataset, tmp_path / "a.nc"))
    first = next(iter(items.values()))[1]
    assert f"{first['time']} {first.get('calendar')}" == expected
    last = len(read(tmp_path / "a.nc", FieldChoice(start=first["time"][:10], stop=first["time"])))
    assert last == 1


@netcdf
def test_keys_show_minutes_and_seconds_only_where_there_are_some(tmp_path: Path) -> None:
    times = np.array(["2022-05-01T03:00", "2022-05-01T03:30", "2022-05-01T03:30:15"], "M8[ns]")
    items = read(stored(era5().assign_coords(time=times), tmp_path / "a.nc"))
    assert list(items) == ["a_2022-05-01T03", "a_2022-05-01T0330", "a_2022-05-01T033015"]


@netcdf
@pytest.mark.parametrize("units", ["months since 1960-01-01", "somehow since never", "day as %Y%m%d.%f"])
def test_times_that_cannot_be_decoded_are_numbers(tmp_path: Path, units: str) -> None:
    dataset = era5().assign_coords(time=("time", [0.5, 1.5, 2.5], {"units": units}))
    items = read(stored(dataset, tmp_path / "a.nc"))
    assert list(items) == ["a_time0p5", "a_time1p5", "a_time2p5"]
    assert items["a_time1p5"][1]["time"] == 1.5
    assert items["a_time1p5"][1]["time_units"] == units
    assert list(read(tmp_path / "a.nc", FieldChoice(stride=2))) == ["a_time0p5", "a_time2p5"]


@netcdf
def test_axes_that_are_measured_otherwise_are_not_taken_for_degrees(tmp_path: Path) -> None:
    for units in ["radians", "m", "km", "degrees_south", "degrees west", "degW"]:
        import xarray

        axes = {name: (name, np.arange(3.0), {"units": units}) for name in ("lat", "lon")}
        path = stored(xarray.Dataset({"v": (("lat", "lon"), values(0, 3, 3))}, axes), tmp_path / "a.nc")
        with pytest.raises(InputError, match="no latitude among its axes"):
            read(path)


@netcdf
def test_written_dates_are_times(tmp_path: Path) -> None:
    for name, written, units, expected in [
        ("date", [20200131, 20200229, 20210301], None, ["2020-01-31T00", "2020-02-29T00", "2021-03-01T00"]),
        ("time", [20200131.0, 20200229.0, 20210301.0], "1", ["2020-01-31T00", "2020-02-29T00", "2021-03-01T00"]),
        ("time", [2020013106, 2020013112, 2020013118], None, ["2020-01-31T06", "2020-01-31T12", "2020-01-31T18"]),
        (
            "when",
            [20200131.0, 20200131.25, 20200131.5],
            "day as %Y%m%d.%f",
            ["2020-01-31T00", "2020-01-31T06", "2020-01-31T12"],
        ),
        (
            "time",
            ["2020-01-31", "2020-01-31T06:00Z", "2020-01-31 12:30"],
            None,
            ["2020-01-31T00", "2020-01-31T06", "2020-01-31T1230"],
        ),
    ]:
        attributes = {} if units is None else {"units": units}
        dataset = (
            era5().assign_coords(time=("time", written, attributes)).rename({"time": name} if name != "time" else {})
        )
        path = stored(dataset, tmp_path / "a.nc")
        assert list(read(path)) == [f"a_{time}" for time in expected]
        assert list(read(path, FieldChoice(start=expected[1][:10]))) == [
            f"a_{time}" for time in expected if time[:10] >= expected[1][:10]
        ]


@netcdf
@pytest.mark.parametrize("numbers", [[20201301, 20201302, 20201303], [1700000000, 1700003600, 1700007200], [1, 2, 3]])
def test_numbers_that_are_no_dates_stay_numbers(tmp_path: Path, numbers: Sequence[int]) -> None:
    path = stored(era5().assign_coords(time=("time", numbers)), tmp_path / "a.nc")
    assert list(read(path)) == [f"a_time{number}" for number in numbers]


@netcdf
@pytest.mark.parametrize("data", ["float32", "float64"])
@pytest.mark.parametrize("said", ["float32", "float64"])
def test_a_missing_value_is_compared_in_the_type_of_the_data(tmp_path: Path, data: str, said: str) -> None:
    import netCDF4

    path = tmp_path / "a.nc"
    dataset = era5()
    dataset.t2m[1, 2, 3] = dataset.t2m[2, 0, 0] = -999.9
    raw = dataset.t2m.to_numpy()
    stored(dataset.drop_vars("t2m"), path)
    with netCDF4.Dataset(path, "a") as file:
        variable = file.createVariable("t2m", data, ("time", "latitude", "longitude"), fill_value=False)
        variable[:] = raw
        with warnings.catch_warnings():
            # that is the point
            warnings.filterwarnings("ignore", ".*missing_value cannot be safely cast")
            variable.missing_value = np.dtype(said).type(-999.9)
    found = np.stack([array for array, _ in read(path).values()])
    np.testing.assert_array_equal(np.isnan(found), raw == np.float32(-999.9))
    np.testing.assert_array_equal(found[~np.isnan(found)], raw[raw != np.float32(-999.9)])


def grouped(path: Path, groups: Sequence[str]) -> np.ndarray:
    """A file with the same axes in all groups; each group's field is its number plus the values."""
    import netCDF4

    raw = values(6, 2, 4, 5).astype(np.float32)
    with netCDF4.Dataset(path, "w") as file:
        for number, name in enumerate(groups):
            group = file.createGroup(name) if name else file
            for axis, axis_values in (("lat", np.arange(4.0)), ("lon", np.arange(5.0))):
                group.createDimension(axis, len(axis_values))
                group.createVariable(axis, "f8", (axis,))[:] = axis_values
                group[axis].units = "degrees_north" if axis == "lat" else "degrees_east"
            group.createDimension("time", 2)
            group.createVariable("v", "f4", ("time", "lat", "lon"))[:] = raw + number
    return raw


@netcdf
def test_the_only_group_with_fields_is_read(tmp_path: Path) -> None:
    raw = grouped(tmp_path / "a.nc4", ["HDFEOS/GRIDS/Data"])
    items = read(tmp_path / "a.nc4")
    np.testing.assert_array_equal(np.stack([array for array, _ in items.values()]), raw)


@netcdf
def test_several_groups_with_fields_are_named_and_one_is_chosen(tmp_path: Path) -> None:
    raw = grouped(tmp_path / "a.nc4", ["day/one", "night"])
    with pytest.raises(InputError, match="fields in 2 groups") as caught:
        read(tmp_path / "a.nc4")
    assert caught.value.hint == "choose one with --group: day/one, night"
    for path in ("night", "/night/"):
        items = read(tmp_path / "a.nc4", FieldChoice(group=path))
        np.testing.assert_array_equal(np.stack([array for array, _ in items.values()]), raw + 1)
    with pytest.raises(InputError, match="no group 'dusk'"):
        read(tmp_path / "a.nc4", FieldChoice(group="dusk"))
    with pytest.raises(InputError, match="no group 'day'") as caught:
        read(stored(era5(), tmp_path / "b.nc"), FieldChoice(group="day"))
    assert caught.value.hint == "it has no groups"


@netcdf
def test_the_file_itself_goes_before_its_groups_which_are_counted(tmp_path: Path) -> None:
    raw = grouped(tmp_path / "a.nc4", ["", "day", "night"])
    with open_fields(tmp_path / "a.nc4") as fields:
        np.testing.assert_array_equal(np.stack([array for _, array, _ in fields]), raw)
        assert fields.ignored == {"further groups with fields": 2}


@netcdf
def test_a_group_has_the_axes_of_the_groups_around_it(tmp_path: Path) -> None:
    import netCDF4

    raw = values(6, 4, 5).astype(np.float32)
    with netCDF4.Dataset(tmp_path / "a.nc4", "w") as file:
        for axis, count in (("lat", 4), ("lon", 5)):
            file.createDimension(axis, count)
            file.createVariable(axis, "f8", (axis,))[:] = np.arange(count)
        file.createGroup("products/rain").createVariable("v", "f4", ("lat", "lon"))[:] = raw
    ((array, attributes),) = read(tmp_path / "a.nc4").values()
    np.testing.assert_array_equal(array, raw)
    assert attributes["longitude"] == [0, 1, 2, 3, 4]


@netcdf
def test_other_axes_are_axes_of_items_under_their_own_names(tmp_path: Path) -> None:
    import xarray

    horizontal = {name: era5().coords[name] for name in ("latitude", "longitude")}
    dataset = xarray.Dataset(
        {"v": (("month", "source", "bin", "latitude", "longitude"), values(0, 2, 2, 2, 4, 5))},
        {**horizontal, "month": [1, 7], "source": ["a.b", "c/d"]},
    )
    items = read(stored(dataset, tmp_path / "clim.nc"))
    assert len(items) == 8
    attributes = items["clim_month7_sourcec_d_bin1"][1]
    # `source` is the name of the file
    assert (attributes["month"], attributes["source_"], attributes["source"]) == (7, "c/d", "clim.nc")


@netcdf
def test_times_that_occur_twice_still_have_keys_of_their_own(tmp_path: Path) -> None:
    dataset = era5().assign_coords(time=hours(1).repeat(3))
    items = read(stored(dataset, tmp_path / "a.nc"))
    assert list(items) == ["a_2022-05-01T00", "a_2022-05-01T00-2", "a_2022-05-01T00-3"]


@netcdf
def test_fields_measured_in_hours_are_no_times(tmp_path: Path) -> None:
    dataset = era5()
    dataset.t2m.attrs["units"] = "hours"
    items = read(stored(dataset, tmp_path / "a.nc"))
    np.testing.assert_array_equal([array for array, _ in items.values()], dataset.t2m)


@netcdf
def test_what_was_never_written_is_missing_though_no_attribute_says_so(tmp_path: Path) -> None:
    import netCDF4

    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        for name, size, units in (("time", None, "hours since 2000-01-01"), ("lat", 2, "degrees_north"),
                                  ("lon", 3, "degrees_east")):  # fmt: skip
            file.createDimension(name, size)
            variable = file.createVariable(name, "f8", (name,))
            variable.units = units
            variable[:] = np.arange(size or 2)
        file.createVariable("v", "f4", ("time", "lat", "lon"))[0] = 1
    first, second = (array for array, _ in read(tmp_path / "a.nc").values())
    assert (first == 1).all()
    assert np.isnan(second).all()


@netcdf
def test_values_beyond_float32_are_an_error(tmp_path: Path) -> None:
    path = stored(era5(v=(("time", "latitude", "longitude"), values(0, 3, 4, 5) * 1e40)), tmp_path / "a.nc")
    with pytest.raises(InputError, match="beyond float32"):
        read(path, FieldChoice(variables=("v",)))


@netcdf
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pr", r"rotated pole: latitude has 2 axes \(rlat, rlon\)"),
        ("sst", r"curvilinear grid: latitude has 2 axes \(y, x\)"),
        ("cells", "unstructured grid: latitude and longitude share the axis cell"),
        ("zonal", r"no longitude among its axes \(lat\)"),
        ("names", "values of type"),
        ("nothing", r"no variable 'nothing'"),
    ],
)
def test_what_is_no_field_says_why(tmp_path: Path, name: str, reason: str) -> None:
    import xarray

    def degrees(axes: Sequence[str], *shape: int) -> dict[str, Any]:
        north, east = {"standard_name": "latitude"}, {"standard_name": "longitude"}
        return {f"lat_{axes[0]}": (axes, values(0, *shape), north), f"lon_{axes[0]}": (axes, values(0, *shape), east)}

    dataset = xarray.Dataset(
        {
            "pr": (("rlat", "rlon"), values(0, 3, 4), {"grid_mapping": "pole"}),
            "pole": ((), 0, {"grid_mapping_name": "rotated_latitude_longitude"}),
            "sst": (("y", "x"), values(0, 2, 5)),
            "cells": (("cell",), values(0, 7)),
            "zonal": (("lat",), values(0, 2)),
            "names": (("lat", "lon"), np.array([["a", "b"], ["c", "d"]], object)),
        },
        {
            "rlat": ("rlat", [1.0, 2, 3], {"standard_name": "grid_latitude", "units": "degrees", "axis": "Y"}),
            **degrees(("rlat", "rlon"), 3, 4),
            **degrees(("y", "x"), 2, 5),
            **degrees(("cell",), 7),
            "lat": ("lat", [0.0, 1], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 1], {"units": "degrees_east"}),
        },
    )
    path = stored(dataset, tmp_path / "a.nc")
    with pytest.raises(InputError, match=reason) as caught:
        read(path, FieldChoice(variables=(name,)))
    if "axes" in reason and "no " not in reason:
        assert "regrid" in str(caught.value.hint)
    with pytest.raises(InputError, match=r"no field on latitude and longitude .*rotated pole.*curvilinear"):
        read(path)


@netcdf
def test_missing_degrees_are_an_error(tmp_path: Path) -> None:
    dataset = era5()
    dataset = dataset.assign_coords(latitude=("latitude", [1.0, np.nan, 2, 3], dataset.latitude.attrs))
    with pytest.raises(InputError, match="latitude is not a list of degrees"):
        read(stored(dataset, tmp_path / "a.nc"))


@netcdf
@pytest.mark.parametrize(
    ("form", "unlimited", "kind"),
    [
        (CLASSIC[0], True, "int8"),
        (CLASSIC[1], False, "int16"),
        (CLASSIC[2], True, "float64"),
        (CLASSIC[0], False, "float64"),
        ("NETCDF4", True, "int16"),
    ],
)
def test_a_truncated_file_is_an_error_wherever_it_ends(tmp_path: Path, form: str, unlimited: bool, kind: str) -> None:
    dataset = era5(3, 3, 5)
    dataset["t2m"] = dataset.t2m.astype(kind)
    if unlimited:
        dataset.encoding["unlimited_dims"] = ["time"]
    whole = stored(dataset, tmp_path / "whole.nc", form=form).read_bytes()
    assert len(read(tmp_path / "whole.nc")) == 3
    for end in [*range(1, len(whole), 97), len(whole) - 4]:
        (tmp_path / "a.nc").write_bytes(whole[:end])
        with pytest.raises(InputError) as caught:
            read(tmp_path / "a.nc")
        assert caught.value.hint


@netcdf
@pytest.mark.parametrize("form", [*CLASSIC, "NETCDF4"])
def test_a_damaged_header_is_no_traceback(tmp_path: Path, form: str) -> None:
    whole = stored(era5(), tmp_path / "whole.nc", form=form).read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(4, 400, 60):
        damaged = bytearray(whole)
        damaged[position] ^= int(random.integers(1, 256))
        (tmp_path / "a.nc").write_bytes(damaged)
        with warnings.catch_warnings(), suppress(InputError):
            # what a flipped bit means is for the libraries to say
            warnings.simplefilter("ignore")
            with open_fields(tmp_path / "a.nc") as fields:
                assert sum(1 for _ in fields) == fields.count


def unwritten(path: Path, chunks: Mapping[str, Sequence[int]] | None = None, **lengths: int) -> Path:
    """A file with a field, and long axes, that no value was ever written to."""
    import netCDF4

    chunks, lengths = chunks or {}, {"time": 4, "lat": 2, "lon": 3, **lengths}
    units = {"lat": "degrees_north", "lon": "degrees_east", "time": "days since 2000-01-01"}
    with netCDF4.Dataset(path, "w") as file:
        for axis, length in lengths.items():
            file.createDimension(axis, length)
        for axis, unit in units.items():
            variable = file.createVariable(axis, "f8", (axis,), chunksizes=chunks.get(axis, (1,)))
            variable.units = unit
            if lengths[axis] < 5:
                variable[:] = np.arange(lengths[axis])
        file.createVariable("v", "f8", tuple(lengths), chunksizes=chunks.get("v", (1,) * len(lengths)))
    return path


@netcdf
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lat", "1000000000 latitudes and 3 longitudes, expected at most 65536"),
        ("lon", "2 latitudes and 1000000000 longitudes"),
        ("time", "2000000000 places along time, expected at most 4194304"),
        ("other", "1000000008 places along time, other"),
    ],
)
def test_axes_of_any_length_are_refused_before_they_are_read(tmp_path: Path, name: str, reason: str) -> None:
    path = unwritten(tmp_path / "a.nc", **{name: 10**9})
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=reason):
            read(path)
        if name in ("lat", "lon"):
            with pytest.raises(InputError, match=reason):
                axes_of(path)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@netcdf
@pytest.mark.parametrize(("name", "chunk"), [("v", (1 << 27, 1, 1)), ("time", (1 << 27,))])
def test_a_chunk_of_any_size_is_refused_before_it_is_decoded(tmp_path: Path, name: str, chunk: Sequence[int]) -> None:
    path = unwritten(tmp_path / "a.nc", {name: chunk}, time=1 << 27)
    with pytest.raises(InputError, match=f"a chunk of {name} has 1073741824 bytes, expected at most 536870912"):
        read(path)
