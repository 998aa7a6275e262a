"""Weather files and meshes become shards: what is in them, where and when, and nothing that was not."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from functaconv.data.decoders.binvox import read_binvox
from functaconv.data.decoders.transform import ImageTransform
from functaconv.data.grids import FieldChoice
from functaconv.errors import InputError, UsageError
from functaconv.packing import pack, plan
from tests.archives import members_of

xarray = pytest.importorskip("xarray")
pytest.importorskip("netCDF4")

LATITUDE, LONGITUDE = np.arange(50.0, 44, -1), np.arange(-3.0, 5)
BOX = b"OFF\n8 6 0\n0 0 0\n0 0 1\n0 1 0\n0 1 1\n1 0 0\n1 0 1\n1 1 0\n1 1 1\n" + b"".join(
    b"4 %d %d %d %d\n" % quad
    for quad in [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
)


def values(count: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(280, 5, (count, len(LATITUDE), len(LONGITUDE))).astype(np.float32)


def netcdf(path: Path, array: np.ndarray, start: str = "2020-01-01") -> Path:
    time = np.datetime64(start, "ns") + np.arange(len(array)) * np.timedelta64(6, "h")
    xarray.Dataset(
        {"t2m": (("time", "latitude", "longitude"), array, {"units": "K"})},
        {
            "time": time,
            "latitude": ("latitude", LATITUDE, {"units": "degrees_north"}),
            "longitude": ("longitude", LONGITUDE, {"units": "degrees_east"}),
        },
    ).to_netcdf(path, engine="netcdf4")
    return path


def test_a_file_becomes_an_item_for_each_time_in_order(tmp_path: Path) -> None:
    array = values()
    summary = pack(netcdf(tmp_path / "era.nc", array), tmp_path / "shards")
    assert (summary.count, summary.failed) == (6, 0)
    found = members_of(tmp_path / "shards")
    arrays = [np.load(io.BytesIO(content)) for name, content in found.items() if name.endswith("npy")]
    np.testing.assert_array_equal(np.stack(arrays), array)
    said = [json.loads(content) for name, content in found.items() if name.endswith("json")]
    assert [one["time"] for one in said][:2] == ["2020-01-01T00:00:00", "2020-01-01T06:00:00"]
    assert said[0]["latitude"] == LATITUDE.tolist()
    assert (said[0]["variable"], said[0]["units"]) == ("t2m", "K")
    # no place on this machine travels along
    assert str(tmp_path) not in json.dumps(said)


def test_times_are_chosen_and_missing_fields_are_failures(tmp_path: Path) -> None:
    array = values()
    array[2] = np.nan
    array[3, 0, 0] = np.nan
    file = netcdf(tmp_path / "era.nc", array)
    summary = pack(file, tmp_path / "shards", choice=FieldChoice(start="2020-01-01T06:00", stride=1))
    assert (summary.count, summary.failed) == (4, 1)
    assert "missing" in summary.failures[0].reason
    assert plan(file, choice=FieldChoice(stride=2)).items == 3
    assert plan(file).bytes == array.nbytes


def test_a_folder_may_hold_files_of_grids(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    netcdf(folder / "a.nc", values(2), "2020-01-01")
    netcdf(folder / "b.nc", values(3, 1), "2020-02-01")
    (folder / "broken.nc").write_bytes((folder / "a.nc").read_bytes()[:900])
    summary = pack(folder, tmp_path / "shards")
    assert (summary.count, summary.failed) == (5, 1)
    assert summary.failures[0].path == "broken.nc"
    keys = {name.partition(".")[0] for name in members_of(tmp_path / "shards")}
    assert len(keys) == 5


def test_grids_are_not_resized_in_silence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for images"):
        pack(netcdf(tmp_path / "a.nc", values(2)), tmp_path / "shards", transform=ImageTransform(resize=4))


def test_a_broken_source_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    file = netcdf(tmp_path / "a.nc", values(2))
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError):
        pack(file, tmp_path / "shards")
    assert not list((tmp_path / "shards").glob("*")) if (tmp_path / "shards").exists() else True


def test_meshes_become_voxels_of_the_asked_resolution(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    folder = tmp_path / "meshes" / "box"
    folder.mkdir(parents=True)
    (folder / "box.off").write_bytes(BOX)
    (folder / "broken.off").write_bytes(BOX[:60])
    summary = pack(tmp_path / "meshes", tmp_path / "shards", resolution=6)
    assert (summary.count, summary.failed, summary.classes) == (1, 1, ("box",))
    found = members_of(tmp_path / "shards")
    assert read_binvox(found["box/box.binvox"]).all()
    assert found["box/box.cls"] == b"0"


def test_meshes_without_a_resolution_say_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "box.off").write_bytes(BOX)
    with pytest.raises(InputError, match="--resolution"):
        pack(folder, tmp_path / "shards")
    with pytest.raises(UsageError, match="resolution"):
        pack(folder, tmp_path / "shards", resolution=0)
