"""Latitude-longitude grids, the whole way: shards to functaset to NetCDF, in physical units and physical places."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.checkpoint import read_base
from functaconv.conversion import encode
from functaconv.documents import merged
from functaconv.errors import InputError, OutputExistsError, UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.schema import NO_TIME
from functaconv.functaset.verify import verify
from functaconv.modalities.latlon_grid import GlobeGrid
from functaconv.modalities.sphere import Globe
from functaconv.rendering import View, arrays, render
from functaconv.reporting import report
from functaconv.training import fit_base
from tests.conftest import TINY, npy, tar

LATITUDE = np.arange(80.0, -81, -16)
LONGITUDE = np.arange(0.0, 360, 20)
GAUSS_NEWTON = merged(TINY, {"solver": {"kind": "gauss-newton", "steps": 2}, "training": {"optimizer": "muon"}})


def field(seed: int, latitude: np.ndarray = LATITUDE, longitude: np.ndarray = LONGITUDE) -> np.ndarray:
    """A smooth temperature in kelvin, a function of the place on earth."""
    random = np.random.default_rng(seed)
    down, along = np.meshgrid(np.radians(latitude), np.radians(longitude), indexing="ij")
    phase, size = random.uniform(0, 6), random.uniform(2, 8)
    return np.asarray(
        250 + 40 * np.cos(down) + size * np.cos(down) * np.sin(along + phase) + 3 * np.sin(2 * down), np.float32
    )


def record(number: int, array: np.ndarray, **said: Any) -> dict[str, bytes]:
    about = {
        "variable": "t2m", "units": "K", "latitude": LATITUDE.tolist(), "longitude": LONGITUDE.tolist(),
        "time": f"2019-03-{1 + number % 28:02d}T{number % 24:02d}:00:00", **said,
    }  # fmt: skip
    return {f"f{number:04d}.npy": npy(array), f"f{number:04d}.json": json.dumps(about).encode()}


def records(count: int, start: int = 0) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number in range(start, start + count):
        members |= record(number, field(number))
    return members


QUICK = merged(GAUSS_NEWTON, {"training": {"steps": 5}})
"""where it does not matter how good a base is"""


def learned(shards: Path, path: Path, settings: Mapping[str, Any] = QUICK) -> Path:
    fit_base(str(shards), path, settings=settings, device="cpu")
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tar(tmp_path_factory.mktemp("grids") / "train.tar", records(40))


@pytest.fixture(scope="module")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(shards, tmp_path_factory.mktemp("base") / "grids.safetensors", GAUSS_NEWTON)


@pytest.fixture(scope="module")
def store(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    return encode(base, str(tar(folder / "test.tar", records(12, 100))), folder / "grids.zarr", device="cpu").path


@pytest.fixture(scope="module")
def masked_members() -> dict[str, bytes]:
    """Grids of which the same part is missing."""
    land = np.zeros((len(LATITUDE), len(LONGITUDE)), bool)
    land[1:4, 2:5] = True
    members: dict[str, bytes] = {}
    for number in range(6):
        members |= record(number, np.where(land, np.float32(np.nan), field(number)))
    return members


@pytest.fixture(scope="module")
def masked(base: Path, masked_members: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    return encode(base, str(tar(folder / "m.tar", masked_members)), folder / "m.zarr", device="cpu").path


@pytest.fixture
def masked_store(masked: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return shutil.copytree(masked, tmp_path / "m.zarr")


def test_a_base_knows_variables_units_and_region(base: Path) -> None:
    stored = read_base(base)
    assert stored.base.axes.kind == "grid"
    assert (stored.base.axes.variables, stored.base.axes.units) == (("t2m",), ("K",))
    assert isinstance(stored.base.geometry, Globe)
    assert stored.base.geometry.is_closed
    assert stored.base.geometry.kind == "sphere"


def test_measures_are_what_numpy_finds_in_physical_units(store: Path, base: Path) -> None:
    functaset = open_functaset(store)
    peak = read_base(base).base.normalizer.scale[0]
    weights = np.cos(np.radians(LATITUDE))[:, None]
    for row, (_, array) in enumerate(arrays(functaset, device="cpu")):
        error = array[..., 0].astype(np.float64) - field(100 + row)
        assert functaset.measure("rmse")[row, 0] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)
        assert functaset.measure("max_error")[row, 0] == pytest.approx(np.abs(error).max(), rel=1e-3)
        weighted = np.sqrt((error**2 * weights).sum() / (weights.sum() * len(LONGITUDE)))
        assert functaset.measure("weighted_rmse")[row, 0] == pytest.approx(weighted, rel=1e-3)
        assert functaset.psnr[row] == pytest.approx(-10 * np.log10((error**2).mean() / peak**2), abs=0.02)
    assert functaset.attributes.psnr_peak == pytest.approx((peak,))
    assert functaset.report["units"] == {"t2m": "K"}


@pytest.mark.parametrize("unit", [1e-33, 1e25])
def test_values_of_any_size_are_learned_and_measured(tmp_path: Path, unit: float) -> None:
    def scaled(seed: int) -> np.ndarray:
        return ((field(seed).astype(np.float64) - 250) * unit).astype(np.float32)

    members: dict[str, bytes] = {}
    for number in range(8):
        members |= record(number, scaled(number))
    shards = tar(tmp_path / "all.tar", members)
    base = learned(shards, tmp_path / "b.safetensors")
    functaset = open_functaset(encode(base, str(shards), tmp_path / "s.zarr", device="cpu").path)
    assert verify(functaset.path) == []
    for row, (_, array) in enumerate(arrays(functaset, device="cpu")):
        error = (array[..., 0].astype(np.float64) - scaled(row)) / unit
        assert functaset.measure("rmse")[row, 0] / unit == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)
        assert functaset.measure("max_error")[row, 0] / unit == pytest.approx(np.abs(error).max(), rel=1e-3)
    # beyond the arithmetic of float32 they are refused before anything is learned
    beyond = record(0, scaled(0) * np.float32(1e-5 if unit < 1 else 1e7))
    with pytest.raises(InputError, match="expected at most 1e") as caught:
        learned(tar(tmp_path / "beyond.tar", beyond), tmp_path / "beyond.safetensors")
    assert caught.value.hint == "store them in other units"
    assert not (tmp_path / "beyond.safetensors").exists()


def test_axes_and_times_are_kept_once_and_open_in_xarray(store: Path) -> None:
    import xarray

    functaset = open_functaset(store)
    assert len(functaset.grids) == 1
    np.testing.assert_array_equal(functaset.grids[0].latitude, LATITUDE)
    np.testing.assert_array_equal(functaset.grids[0].longitude, LONGITUDE)
    with xarray.open_zarr(store) as dataset:
        assert str(dataset["time"].values[3])[:16] == "2019-03-20T07:00"
        assert dataset["rmse"].dims == ("item", "variable")
    assert "latitude" not in functaset.meta(0) if functaset.meta(0) else True
    assert verify(store) == []


def test_latents_are_those_of_the_place_not_of_the_file(base: Path, tmp_path: Path) -> None:
    half, latents = len(LONGITUDE) // 2, {}
    ways: dict[str, tuple[np.ndarray, np.ndarray, Any]] = {
        "plain": (LATITUDE, LONGITUDE, np.s_[:]),
        "flipped": (LATITUDE[::-1], LONGITUDE, np.s_[::-1]),
        "rolled": (LATITUDE, np.roll(LONGITUDE, half), np.s_[:, np.r_[half : 2 * half, 0:half]]),
        "west": (LATITUDE, LONGITUDE - 360, np.s_[:]),
    }
    for name, (latitude, longitude, order) in ways.items():
        members: dict[str, bytes] = {}
        for number in range(100, 104):
            said = {"latitude": latitude.tolist(), "longitude": longitude.tolist()}
            members |= record(number, field(number)[order], **said)
        shard = str(tar(tmp_path / f"{name}.tar", members))
        path = encode(base, shard, tmp_path / f"{name}.zarr", device="cpu", bits="float32").path
        latents[name] = open_functaset(path).latents()
        np.testing.assert_allclose(latents[name], latents["plain"], atol=1e-3 * np.abs(latents["plain"]).max())


def test_netcdf_has_the_inputs_axes_times_and_units(store: Path, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    render(store, tmp_path / "one.nc", items=[3], device="cpu")
    with xarray.open_dataset(tmp_path / "one.nc") as dataset:
        assert list(dataset.data_vars) == ["t2m"]
        assert dataset["t2m"].attrs["units"] == "K"
        np.testing.assert_array_equal(dataset["latitude"], LATITUDE)
        np.testing.assert_array_equal(dataset["longitude"], LONGITUDE)
        assert str(dataset["time"].values)[:16] == "2019-03-20T07:00"
        error = dataset["t2m"].values - field(103)
        assert np.sqrt((error**2).mean()) == pytest.approx(open_functaset(store).measure("rmse")[3, 0], rel=1e-3)
    render(store, tmp_path / "all.nc", device="cpu")
    with xarray.open_dataset(tmp_path / "all.nc") as dataset:
        assert dataset["t2m"].dims == ("time", "latitude", "longitude")
        assert dataset.sizes["time"] == 12
    render(store, tmp_path / "all.zarr", items=["2:5"], device="cpu")
    with xarray.open_zarr(tmp_path / "all.zarr", consolidated=False) as dataset:
        assert dataset["t2m"].shape == (3, len(LATITUDE), len(LONGITUDE))
    for name in ("all.nc", "all.zarr"):
        with pytest.raises(OutputExistsError, match="exists"):
            render(store, tmp_path / name, items=["2:4"], device="cpu")
        render(store, tmp_path / name, items=["2:4"], device="cpu", overwrite=True)
    with xarray.open_zarr(tmp_path / "all.zarr", consolidated=False) as dataset:
        assert dataset.sizes["time"] == 2
    with xarray.open_dataset(tmp_path / "all.nc") as dataset:
        assert dataset.sizes["time"] == 2
    # a functaset is none that render made
    with pytest.raises(OutputExistsError, match="render did not make it"):
        render(store, store, items=["2:4"], device="cpu", overwrite=True)
    assert len(open_functaset(store)) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.nc", "all.zarr", "one.nc"]


def test_what_is_missing_costs_nothing_and_is_nan_again(base: Path, tmp_path: Path) -> None:
    land = np.zeros((len(LATITUDE), len(LONGITUDE)), bool)
    land[2:5, 3:9] = True
    masked, poisoned, whole = {}, {}, {}
    for number in range(100, 106):
        array = field(number)
        masked |= record(number, np.where(land, np.float32(np.nan), array))
        poisoned |= record(number, np.where(land, np.float32(np.inf), array))
        whole |= record(number, array)
    found = {}
    for name, members in {"masked": masked, "poisoned": poisoned, "whole": whole}.items():
        shard = tar(tmp_path / f"{name}.tar", members)
        found[name] = open_functaset(
            encode(base, str(shard), tmp_path / f"{name}.zarr", device="cpu", bits="float32").path
        )
    # what stands in for a missing value does not matter
    np.testing.assert_array_equal(found["masked"].latents(), found["poisoned"].latents())
    assert np.isfinite(found["masked"].latents()).all()
    assert not np.array_equal(found["masked"].latents(), found["whole"].latents())
    for _, array in arrays(found["masked"], device="cpu"):
        np.testing.assert_array_equal(np.isnan(array[..., 0]), land)
    _, twice = next(arrays(found["masked"], [0], view=View(scale=2), device="cpu"))
    np.testing.assert_array_equal(np.isnan(twice[..., 0]), land.repeat(2, 0).repeat(2, 1))
    render(found["masked"], tmp_path / "bare.npy", items=[0], format="npy", masked=False, device="cpu")
    assert np.isfinite(np.load(tmp_path / "bare.npy")).all()
    # one mask for all, kept once
    assert [grid.masks for grid in found["masked"].grids] == [1]
    assert [grid.masks for grid in found["whole"].grids] == [0]


def test_an_item_without_any_value_is_a_failed_item(base: Path, tmp_path: Path) -> None:
    members = records(3, 100) | record(200, np.full((len(LATITUDE), len(LONGITUDE)), np.nan, np.float32))
    path = encode(base, str(tar(tmp_path / "t.tar", members)), tmp_path / "o.zarr", max_error_rate=1).path
    functaset = open_functaset(path)
    assert len(functaset) == 3
    assert [failure.key for failure in functaset.failures] == ["f0200"]


def test_scaling_keeps_pole_rows_and_refines_the_rest(store: Path) -> None:
    native = GlobeGrid((90.0, 45.0, 0.0, -45.0, -90.0), (0.0, 90.0, 180.0, 270.0))
    fine = native.resampled(View(scale=2))
    assert fine.latitude == (90.0, 67.5, 45.0, 22.5, 0.0, -22.5, -45.0, -67.5, -90.0)
    assert fine.longitude == (-22.5, 22.5, 67.5, 112.5, 157.5, 202.5, 247.5, 292.5)
    without = GlobeGrid((10.0, 0.0, -10.0), (0.0, 10.0)).resampled(View(scale=3))
    np.testing.assert_allclose(without.latitude[1::3], (10, 0, -10), atol=1e-9)
    (_, native_array), (_, thrice) = (
        next(arrays(open_functaset(store), [0], view=View(scale=scale), device="cpu")) for scale in (1, 3)
    )
    np.testing.assert_allclose(thrice[1::3, 1::3], native_array, rtol=1e-5)


def test_a_region_is_in_degrees(store: Path) -> None:
    (_, array) = next(arrays(open_functaset(store), [0], view=View(region=((-20, 40), (-50, 50))), device="cpu"))
    grid = GlobeGrid(tuple(LATITUDE), tuple(LONGITUDE)).resampled(View(region=((-20, 40), (-50, 50))))
    assert all(-20 <= value <= 40 for value in grid.latitude)
    assert {round((value + 180) % 360 - 180) for value in grid.longitude} == {-40, -20, 0, 20, 40}
    assert array.shape == (*grid.shape, 1)
    with pytest.raises(UsageError, match="no point"):
        next(arrays(open_functaset(store), [0], view=View(region=((1, 2), (1, 2))), device="cpu"))


def test_levels_far_apart_have_ranges_of_their_own(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(24):
        level = (850, 500)[number % 2]
        values = field(number) / 10 + (1000.0 if level == 500 else 0.0)
        members |= record(number, np.asarray(values, np.float32), level=level)
    shards = tar(tmp_path / "levels.tar", members)
    apart = learned(shards, tmp_path / "apart.safetensors")
    together = learned(shards, tmp_path / "together.safetensors", merged(QUICK, {"data": {"levels": "together"}}))
    assert set(read_base(apart).base.normalizer.levels) == {"850", "500"}
    assert not read_base(together).base.normalizer.levels
    found = {}
    for name, path in {"apart": apart, "together": together}.items():
        store = encode(path, str(shards), tmp_path / f"{name}.zarr", device="cpu").path
        functaset = open_functaset(store)
        # both in units of the range of all levels
        assert functaset.attributes.psnr_peak[0] > 900
        for row, (_, array) in enumerate(arrays(functaset, device="cpu")):
            level = 1000.0 if row % 2 else 0.0
            error = array[..., 0] - (field(row) / 10 + level)
            assert functaset.measure("rmse")[row, 0] == pytest.approx(np.sqrt((error**2).mean()), rel=0.02, abs=1e-3)
        checked = report(functaset, against=str(shards))
        assert checked.complaint is None
        found[name] = float(functaset.psnr.mean())
    assert found["apart"] > found["together"] + 3


def test_sites_learn_on_the_globe(shards: Path, tmp_path: Path) -> None:
    """The global latent is that of the base of these tests, the plane that of the closed form."""
    latent = {"numbers": 4, "sites": [2, 3], "interpolation": "linear"}
    data, training = {"geometry": "sphere", "weights": "area"}, {"steps": 250, "one_step": 1.0}
    settings = merged(GAUSS_NEWTON, {"latent": latent, "data": data, "training": training})
    path = learned(shards, tmp_path / "b.safetensors", settings)
    stored = read_base(path)
    assert stored.base.by_area
    functaset = open_functaset(encode(path, str(shards), tmp_path / "s.zarr", device="cpu", limit=10).path)
    # 11 dB without learning
    assert functaset.psnr.mean() > 14
    assert report(functaset, against=str(shards)).complaint is None


def test_variables_of_another_kind_are_refused_early(base: Path, shards: Path, tmp_path: Path) -> None:
    mixed = records(3) | record(7, field(7), variable="sst")
    with pytest.raises(InputError, match=r"mixed dataset.*t2m.*sst"):
        learned(tar(tmp_path / "mixed.tar", mixed), tmp_path / "b.safetensors")
    other = {
        name: content for number in range(3) for name, content in record(number, field(number), variable="sst").items()
    }
    with pytest.raises(InputError, match="grids"):
        encode(base, str(tar(tmp_path / "o.tar", other)), tmp_path / "o.zarr")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"latitude": LATITUDE[:-1].tolist()}, "latitudes"),
        ({"latitude": [95.0, *LATITUDE[1:].tolist()]}, "degrees"),
        ({"longitude": ["a"] * len(LONGITUDE)}, "degrees"),
    ],
)
def test_axes_that_make_no_sense_are_failed_items(
    said: dict[str, Any], reason: str, base: Path, tmp_path: Path
) -> None:
    members = records(1, 100) | record(200, field(3), **said)
    path = encode(base, str(tar(tmp_path / "t.tar", members)), tmp_path / "o.zarr", max_error_rate=1).path
    failures = open_functaset(path).failures
    assert [failure.key for failure in failures] == ["f0200"]
    assert reason in failures[0].reason


def test_several_variables_are_channels(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(8):
        both = np.stack([field(number) - 273, 5 * field(number + 50)], -1)
        said = {"variable": ["u", "v"], "units": ["degC", "m s-1"], "dims": ["latitude", "longitude", "channel"]}
        members |= record(number, both, **said)
    shards = tar(tmp_path / "two.tar", members)
    base = learned(shards, tmp_path / "b.safetensors")
    functaset = open_functaset(encode(base, str(shards), tmp_path / "s.zarr", device="cpu").path)
    assert functaset.attributes.variables == ("u", "v")
    assert set(functaset.report["rmse"]) == {"u", "v"}
    assert functaset.report["units"] == {"u": "degC", "v": "m s-1"}


def test_items_that_say_no_time_have_none(base: Path, tmp_path: Path) -> None:
    members = record(0, field(0), time=None) | record(1, field(1), time="360-day 30 Feb") | record(2, field(2))
    functaset = open_functaset(encode(base, str(tar(tmp_path / "t.tar", members)), tmp_path / "o.zarr").path)
    assert functaset.measure("time").tolist()[:2] == [NO_TIME, NO_TIME]
    assert functaset.measure("time")[2] != NO_TIME
    assert functaset.meta(1) == {"time": "360-day 30 Feb"}


@pytest.mark.parametrize(
    ("name", "damage"), [("latitude", "removed"), ("longitude", "emptied"), ("mask", "flipped"), ("mask", "removed")]
)
def test_damage_to_axes_and_masks_is_found(name: str, damage: str, masked_store: Path, tmp_path: Path) -> None:
    path = masked_store
    assert verify(path) == []
    (file,) = [file for file in (path / "grids" / "0" / name).rglob("*") if file.is_file() and file.name != "zarr.json"]
    content = bytearray(file.read_bytes())
    if damage == "removed":
        file.unlink()
    elif damage == "emptied":
        file.write_bytes(b"")
    else:
        content[len(content) // 3] ^= 4
        file.write_bytes(content)
    assert any(f"grids/0/{name}" in problem for problem in verify(path))
    with pytest.raises(InputError, match="grids/0"):
        render(open_functaset(path), tmp_path / "out", device="cpu")


def test_rows_that_point_to_no_grid_are_found(masked_store: Path) -> None:
    import zarr

    zarr.open_array(masked_store / "mask", mode="r+")[2] = 7
    assert any("row 2" in problem for problem in verify(masked_store))


def test_items_on_another_grid_are_not_the_stored_ones(store: Path, tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(100, 112):
        members |= record(number, field(number), latitude=(LATITUDE + 1).tolist())
    found = report(store, against=str(tar(tmp_path / "other.tar", members)))
    assert found.complaint is not None
    assert "another grid" in str(found.complaint)


@pytest.mark.parametrize(
    ("longitude", "expected"),
    [
        ((170.0, 175.0, 180.0, -175.0, -170.0), np.arange(168.75, 192, 2.5)),
        ((180.0, 270.0, 0.0, 90.0), np.arange(157.5, 480, 45)),
        ((350.0, 355.0, 0.0, 5.0), np.arange(348.75, 367, 2.5)),
    ],
)
def test_an_axis_that_begins_anew_is_refined_on_its_way(longitude: tuple[float, ...], expected: np.ndarray) -> None:
    found = GlobeGrid((10.0, 0.0), longitude).resampled(View(scale=2))
    np.testing.assert_allclose(np.array(found.longitude) % 360, expected % 360, atol=1e-9)
    assert (np.diff(found.longitude) > 0).all()


def test_a_region_runs_from_west_to_east() -> None:
    grid = GlobeGrid((10.0, 0.0), tuple(np.arange(0.0, 360, 20).tolist()))
    assert grid.resampled(View(region=((-5, 15), (-50, 50)))).longitude == (-40.0, -20.0, 0.0, 20.0, 40.0)
    assert grid.resampled(View(region=((-5, 15), (0, 360)))).longitude == grid.longitude
    rolled = GlobeGrid((10.0, 0.0), (180.0, 270.0, 0.0, 90.0))
    assert rolled.resampled(View((1, 4), region=((-5, 15), (0, 40)))).longitude == (5.0, 15.0, 25.0, 35.0)


def test_a_variable_that_an_item_misses_altogether_has_no_error(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(9):
        second = 5 * field(number + 50)
        both = np.stack([field(number), np.full_like(second, np.nan) if number % 3 == 0 else second], -1)
        members |= record(number, both, variable=["u", "v"], units=["K", "m"])
    shards = tar(tmp_path / "two.tar", members)
    path = encode(learned(shards, tmp_path / "b.safetensors"), str(shards), tmp_path / "s.zarr", device="cpu").path
    functaset = open_functaset(path)
    rmse = functaset.measure("rmse")
    np.testing.assert_array_equal(np.isnan(rmse[:, 1]), np.arange(9) % 3 == 0)
    assert functaset.report["rmse"]["v"] == pytest.approx(np.sqrt(np.nanmean(rmse[:, 1].astype(float) ** 2)), rel=1e-3)
    assert verify(path) == []
    assert report(path, against=str(shards)).complaint is None


@pytest.mark.parametrize("year", ["1000", "2500"])
def test_any_year_is_written_as_it_is(year: str, base: Path, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    members = record(0, field(0), time=f"{year}-02-03T04:00:00") | record(1, field(1), time=f"{year}-02-03T05:00:00")
    path = encode(base, str(tar(tmp_path / "t.tar", members)), tmp_path / "o.zarr", device="cpu").path
    for name, items in {"one.nc": [0], "both.nc": None, "both.zarr": None}.items():
        render(path, tmp_path / name, items=items, device="cpu")
        # nanoseconds, the default, reach from 1678 to 2262
        seconds = xarray.coders.CFDatetimeCoder(time_unit="s")
        opened = (
            xarray.open_zarr(tmp_path / name, consolidated=False, decode_times=seconds)
            if name.endswith("zarr")
            else xarray.open_dataset(tmp_path / name, decode_times=seconds)
        )
        with opened as dataset:
            first = np.atleast_1d(dataset["time"].values)[0]
            assert str(first).startswith(f"{year}-02-03T04:00")


def test_items_without_a_time_share_a_file_with_what_tells_them_apart(base: Path, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    members: dict[str, bytes] = {}
    for number in range(3):
        members |= record(number, field(number), time=None, member=number, model="one")
    path = encode(base, str(tar(tmp_path / "t.tar", members)), tmp_path / "o.zarr", device="cpu").path
    render(path, tmp_path / "all.nc", device="cpu")
    with xarray.open_dataset(tmp_path / "all.nc") as dataset:
        assert dataset["t2m"].dims == ("item", "latitude", "longitude")
        assert dataset["member"].values.tolist() == [0, 1, 2]
        assert "time" not in dataset.variables
        assert "_FillValue" not in dataset["latitude"].encoding


def test_other_variables_or_units_in_a_later_shard_are_told_before_any_work(tmp_path: Path) -> None:
    tar(tmp_path / "shards" / "a.tar", records(80))
    later: dict[str, bytes] = {}
    for number in range(80, 90):
        later |= record(number, field(number) - 273, units="degC")
    tar(tmp_path / "shards" / "b.tar", later)
    with pytest.raises(InputError, match=r"t2m in K.*t2m in degC"):
        learned(tmp_path / "shards", tmp_path / "b.safetensors")


def test_a_circle_is_closed_whatever_the_degrees_are_rounded_to() -> None:
    exact = np.arange(3600) / 10
    grids = [
        GlobeGrid(tuple(np.arange(-9.0, 10)), tuple(axis.tolist()))
        for axis in (exact, exact.astype(np.float32).astype(float), (exact - 180).astype(np.float32).astype(float))
    ]
    geometry = Globe.around(grids, "sphere")
    assert geometry.is_closed
    assert (geometry.north, geometry.south) == (9.5, -9.5)


def with_holes(count: int, seed: int | None) -> dict[str, bytes]:
    """Grids that miss values: the same ones without a seed, each its own with one."""
    members: dict[str, bytes] = {}
    for number in range(count):
        random = np.random.default_rng(0 if seed is None else seed + number)
        hole = random.uniform(size=(len(LATITUDE), len(LONGITUDE))) < 0.2
        members |= record(number, np.where(hole, np.float32(np.nan), field(number)))
    return members


def test_pca_is_told_where_items_miss_values_of_their_own(masked: Path, shards: Path, tmp_path: Path) -> None:
    against = str(masked.with_name("m.tar"))
    whole = report(masked, against=against, train=str(shards), baseline="pca").summary["pca"]
    holed = str(tar(tmp_path / "holed.tar", with_holes(40, seed=1)))
    found = report(masked, against=against, train=holed, baseline="pca").summary["pca"]
    assert found["train_items"] == 40
    # the fields are sums of few functions: these are found exactly, and found again nearly so
    assert whole["psnr"] > 99
    assert found["psnr"] > 60


def test_pca_of_values_that_training_items_all_miss_is_left_out(store: Path, tmp_path: Path) -> None:
    against, train = (str(tar(tmp_path / name, members)) for name, members in
                      (("a.tar", records(12, 100)), ("t.tar", with_holes(40, seed=None))))  # fmt: skip
    found = report(store, against=against, train=train, baseline="pca").summary["pca"]
    assert found["psnr"] is None
    assert "miss" in found["reason"]


@pytest.mark.parametrize("variable", ["", "x" * 300])
def test_variables_without_a_name_are_told_at_once(variable: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names"):
        learned(tar(tmp_path / "t.tar", record(0, field(0), variable=variable)), tmp_path / "b.safetensors")


def test_a_time_beyond_the_calendar_is_a_failed_item(base: Path, tmp_path: Path) -> None:
    times = {
        0: "0001-01-01T00:00:00+23:59", 1: "9999-12-31T23:59:59-23:59",
        2: "0001-01-01T23:59:00+23:59", 3: "9999-12-31T23:59:59",
    }  # fmt: skip
    members: dict[str, bytes] = {}
    for number, time in times.items():
        members |= record(number, field(number), time=time)
    encode(base, str(tar(tmp_path / "a.tar", members)), tmp_path / "a.zarr", device="cpu", max_error_rate=1)
    functaset = open_functaset(tmp_path / "a.zarr")
    assert functaset.keys.tolist() == ["f0002", "f0003"]
    for failure in functaset.failures:
        assert "expected a time in the years 1 to 9999" in failure.reason
    for name in ("a.nc", "out.zarr"):
        assert render(functaset, tmp_path / name, device="cpu").count == 2
