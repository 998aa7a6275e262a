"""Real weather files and meshes, from the file to the store and back; FUNCTACONV_TEST_DATA names their folder."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from functaconv.conversion import encode
from functaconv.data.grids import FieldChoice
from functaconv.errors import InputError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.verify import verify
from functaconv.packing import pack
from functaconv.rendering import arrays, render
from functaconv.reporting import report
from functaconv.training import fit_base
from tests.data.grids.test_real import REAL

pytestmark = pytest.mark.realdata
QUICK = {"training": {"steps": 30}, "latent": {"numbers": 16}, "network": {"width": 32}}


@pytest.mark.parametrize("name", REAL)
def test_every_weather_file_is_packed(name: str, test_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("eccodes" if name.endswith("grib") else "netCDF4")
    summary = pack(test_data / "raw" / "weather" / name, tmp_path / "shards")
    assert (summary.count, summary.failed) == (REAL[name][0], 0)


def test_a_rotated_pole_is_refused_with_a_reason(test_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rotated pole"):
        pack(test_data / "raw" / "weather" / "small_rotPole_precipitation.nc", tmp_path / "shards")


def test_meshes_and_volumes_are_packed_together(test_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    summary = pack(test_data / "raw" / "voxels", tmp_path / "shards", resolution=32)
    assert (summary.count, summary.failed, summary.ignored) == (5, 0, {".gz": 1})


def test_a_file_rendered_at_its_own_size_lies_where_it_lay(test_data: Path, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    file = test_data / "raw" / "weather" / "era5_t2m_italy.nc"
    pack(file, tmp_path / "shards", choice=FieldChoice(stride=20))
    fit_base(str(tmp_path / "shards"), tmp_path / "b.safetensors", settings=QUICK, device="cpu")
    path = encode(tmp_path / "b.safetensors", str(tmp_path / "shards"), tmp_path / "s.zarr", device="cpu").path
    render(path, tmp_path / "all.nc", device="cpu")
    with xarray.open_dataset(tmp_path / "all.nc") as ours, xarray.open_dataset(file) as theirs:
        (name,) = ours.data_vars
        for axis in ("latitude", "longitude"):
            np.testing.assert_array_equal(ours[axis], theirs[axis].values.astype(float))
        original = theirs[name].sel(time=ours["time"])
        assert ours[name].attrs["units"] == original.attrs["units"]
        # cell by cell, as xarray aligns them by their coordinates
        error = (ours[name] - original).values
        assert error.shape == ours[name].shape
        rmse = np.sqrt((error.astype(float) ** 2).mean((1, 2)))
        np.testing.assert_allclose(rmse, open_functaset(path).measure("rmse")[:, 0], rtol=1e-3)


def test_nothing_leaks_from_land_into_the_sea(test_data: Path, tmp_path: Path) -> None:
    shards = test_data / "ersst5_global"
    fit_base(str(shards / "train-000000.tar"), tmp_path / "b.safetensors", settings=QUICK, device="cpu")
    test = str(shards / "test-000000.tar")
    path = encode(tmp_path / "b.safetensors", test, tmp_path / "s.zarr", device="cpu").path
    functaset = open_functaset(path)
    assert np.isfinite(functaset.latents()).all()
    assert np.isfinite(functaset.mse).all()
    assert len(functaset.grids) == 1
    with tarfile.open(test) as tar:
        members = (tar.extractfile(member) for member in tar if member.name.endswith(".npy"))
        originals = [np.load(io.BytesIO(member.read())) for member in members if member is not None]
    for original, (_, array) in zip(originals, arrays(functaset, device="cpu"), strict=True):
        np.testing.assert_array_equal(np.isnan(array[..., 0]), np.isnan(original))
    render(path, tmp_path / "bare", format="npy", masked=False, device="cpu")
    assert all(np.isfinite(np.load(file)).all() for file in (tmp_path / "bare").iterdir())
    assert report(path, against=test).complaint is None
    assert verify(path) == []
