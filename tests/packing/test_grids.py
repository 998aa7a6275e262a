"""Files of grids in folders and archives: variables of the same hours and grid become channels, others ask."""

import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.data.grids import FieldChoice
from functaconv.errors import InputError
from functaconv.packing import pack, plan
from tests.archives import records_of

xarray = pytest.importorskip("xarray")
pytest.importorskip("netCDF4")

LATITUDE, LONGITUDE = np.arange(50.0, 46, -1), np.arange(-3.0, 2)


def field(name: str, times: Sequence[int], *, latitude: np.ndarray = LATITUDE, extra: float = 0) -> Any:
    """A variable in which each hour, place and name has a value of its own."""
    shape = (len(times), len(latitude), len(LONGITUDE))
    values = np.arange(np.prod(shape[1:])).reshape(shape[1:]) + 1000.0 * np.array(times)[:, None, None]
    return xarray.Dataset(
        {name: (("valid_time", "latitude", "longitude"), (values + extra).astype(np.float32), {"units": f"{name}s"})},
        {
            "valid_time": np.datetime64("2020-01-01", "ns") + np.array(times) * np.timedelta64(1, "h"),
            "latitude": ("latitude", latitude, {"units": "degrees_north"}),
            "longitude": ("longitude", LONGITUDE, {"units": "degrees_east"}),
        },
    )


def save(dataset: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_netcdf(path, engine="netcdf4")
    return path


def items(target: Path) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    found = records_of(target)
    return {key: (np.load(io.BytesIO(it["npy"])), json.loads(it["json"])) for key, it in found.items()}


def download(folder: Path, times: Sequence[int] = range(3)) -> dict[str, Any]:
    """What the climate data store sends: variables of each step type in a file of their own."""
    parts = {
        "instant": field("t2m", times).merge(field("d2m", times, extra=0.25)),
        "accum": field("tp", times, extra=0.5),
        "max": field("mx2t", times, extra=0.75),
    }
    for name, dataset in parts.items():
        save(dataset, folder / f"data_stream-oper_stepType-{name}.nc")
    return parts


def check(target: Path, parts: dict[str, Any], variables: Sequence[str], times: int = 3) -> None:
    whole = xarray.merge(parts.values())
    found = items(target)
    assert len(found) == times
    for array, said in found.values():
        assert said["variable"] == list(variables)
        assert said["units"] == [f"{name}s" for name in variables]
        assert said["dims"] == ["latitude", "longitude", "channel"]
        assert said["shape"] == list(array.shape) == [4, 5, len(variables)]
        for channel, name in enumerate(variables):
            np.testing.assert_array_equal(array[..., channel], whole[name].sel(valid_time=said["time"]))


def test_one_download_in_several_files_is_one_item_for_each_hour(tmp_path: Path) -> None:
    parts = download(tmp_path / "cds")
    summary = pack(tmp_path / "cds", tmp_path / "shards")
    assert (summary.count, summary.failed, summary.ignored) == (3, 0, {})
    check(tmp_path / "shards", parts, ["tp", "t2m", "d2m", "mx2t"])
    assert sorted(items(tmp_path / "shards"))[0] == "data_stream-oper_stepType_2020-01-01T00"
    assert (plan(tmp_path / "cds").files, plan(tmp_path / "cds").items) == (3, 3)
    chosen = FieldChoice(variables=("mx2t", "t2m"), start="2020-01-01T01")
    summary = pack(tmp_path / "cds", tmp_path / "chosen", choice=chosen)
    assert summary.ignored == {"files without the chosen variables": 1}
    check(tmp_path / "chosen", parts, ["mx2t", "t2m"], times=2)
    with pytest.raises(InputError, match="no variable 'sst'"):
        pack(tmp_path / "cds", tmp_path / "none", choice=FieldChoice(variables=("t2m", "sst")))


def test_files_of_a_year_each_follow_each_other(tmp_path: Path) -> None:
    for year in (1, 0, 2):
        hours = range(10 * year, 10 * year + 2)
        save(field("t2m", hours), tmp_path / "all" / f"t2m_{9 - year}.nc")
        save(field("tp", hours, extra=0.5), tmp_path / "all" / f"tp_{year}.nc")
    pack(tmp_path / "all", tmp_path / "shards", seed=None)
    hours = [0, 1, 10, 11, 20, 21]
    check(tmp_path / "shards", {"a": field("t2m", hours), "b": field("tp", hours, extra=0.5)}, ["t2m", "tp"], times=6)


def test_what_channels_do_not_have_in_common_is_a_list(tmp_path: Path) -> None:
    for name, height in (("t2m", 2.0), ("u10", 10.0)):
        dataset = field(name, range(2)).assign_coords(height=((), height, {"units": "m"}))
        save(dataset, tmp_path / "all" / f"{name}.nc")
    pack(tmp_path / "all", tmp_path / "shards")
    for _, said in items(tmp_path / "shards").values():
        assert (said["level"], said["level_units"]) == ([2.0, 10.0], "m")
        assert said["source"] == "t2m.nc, u10.nc"


def test_variables_in_a_folder_each_are_channels_not_classes(tmp_path: Path) -> None:
    parts = {"a": field("t2m", range(3)), "b": field("tp", range(3), extra=0.5)}
    for name, dataset in zip(("t2m", "tp"), parts.values(), strict=True):
        save(dataset, tmp_path / "all" / name / "2020.nc")
    summary = pack(tmp_path / "all", tmp_path / "shards")
    assert (summary.count, summary.classes) == (3, ())
    check(tmp_path / "shards", parts, ["t2m", "tp"])
    assert not (tmp_path / "shards" / "classes.txt").exists()
    # of one variable each folder is a class
    save(field("t2m", range(10, 12)), tmp_path / "by" / "europe" / "a.nc")
    save(field("t2m", range(3)), tmp_path / "by" / "asia" / "a.nc")
    assert pack(tmp_path / "by", tmp_path / "labelled").classes == ("asia", "europe")


@pytest.mark.parametrize(
    ("other", "hint"),
    [
        # some hours are missing
        (field("tp", range(1, 3)), "--variable t2m, or --variable tp"),
        # waves come on a grid of their own
        (field("swh", range(3), latitude=LATITUDE[::2]), "--variable t2m, or --variable swh"),
        # no hours at all
        (field("lsm", [0]).isel(valid_time=0, drop=True), "--variable t2m, or --variable lsm"),
        # a variable twice
        (field("tp", range(3)).merge(field("t2m", range(3))), "--variable t2m --variable tp"),
    ],
)
def test_variables_that_cannot_be_channels_ask_at_once(tmp_path: Path, other: Any, hint: str) -> None:
    save(field("t2m", range(3)), tmp_path / "all" / "a.nc")
    save(other, tmp_path / "all" / "b.nc")
    with pytest.raises(InputError, match=r"cannot be channels of one item: t2m \(a\.nc: 3 x 4 x 5\)") as caught:
        pack(tmp_path / "all", tmp_path / "shards")
    assert caught.value.exit_code == 65
    assert caught.value.hint == f"choose variables that share them: {hint}"
    assert not (tmp_path / "shards").exists()
    with pytest.raises(InputError):
        plan(tmp_path / "all")
    assert pack(tmp_path / "all", tmp_path / "shards", choice=FieldChoice(variables=("t2m",))).count >= 3


def test_files_that_have_nothing_in_common_are_packed_as_they_are(tmp_path: Path) -> None:
    save(field("t2m", range(3)), tmp_path / "all" / "a.nc")
    save(field("sst", range(50, 54), latitude=LATITUDE[::2]), tmp_path / "all" / "b.nc")
    # the same variable on another grid, too
    save(field("t2m", range(3), latitude=LATITUDE[1:]), tmp_path / "all" / "c.nc")
    summary = pack(tmp_path / "all", tmp_path / "shards")
    assert summary.count == 10
    assert summary.notes == (
        "items of different variables, of which one set can be learned: t2m (6); sst (4); --variable chooses",
    )


def test_a_damaged_file_beside_others_is_a_failure(tmp_path: Path) -> None:
    download(tmp_path / "cds")
    (tmp_path / "cds" / "z.nc").write_bytes(b"<html>")
    summary = pack(tmp_path / "cds", tmp_path / "shards")
    assert (summary.count, summary.failed) == (3, 1)
    assert summary.failures[0].reason == "expected NetCDF or GRIB, found HTML, SVG or XML"


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("name", ["download.nc", "download.zip", "download", "download.grib"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_zip_of_netcdf_files_is_read_like_a_folder_of_them(
    tmp_path: Path, temporary: Path, name: str, as_folder: bool
) -> None:
    parts = download(tmp_path / "cds")
    path = zipped(tmp_path / "cds", tmp_path / "got" / name)
    source = path.parent if as_folder else path
    assert plan(source).items == 3
    summary = pack(source, tmp_path / "shards")
    assert (summary.count, summary.failed, summary.ignored) == (3, 0, {})
    check(tmp_path / "shards", parts, ["tp", "t2m", "d2m", "mx2t"])
    start = "download/data_stream" if as_folder else "data_stream"
    assert all(key.startswith(start) for key in items(tmp_path / "shards"))
    assert str(temporary) not in json.dumps([said for _, said in items(tmp_path / "shards").values()])
    assert not list(temporary.iterdir())


def test_reasons_speak_of_the_archive_not_of_where_it_was_unpacked(tmp_path: Path, temporary: Path) -> None:
    folder = tmp_path / "cds"
    save(field("t2m", range(2)), folder / "a.nc")
    (folder / "b.nc").write_bytes((folder / "a.nc").read_bytes()[:700])
    summary = pack(zipped(folder, tmp_path / "all" / "d.zip").parent, tmp_path / "shards")
    (failure,) = summary.failures
    assert failure.path == "d.zip/b.nc"
    assert str(temporary) not in failure.reason


def test_a_zip_of_other_things_is_counted_in_a_folder_and_packed_when_it_is_the_source(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    zipped(folder, tmp_path / "source" / "more.zip")
    Image.new("RGB", (8, 8)).save(tmp_path / "source" / "b.png")
    assert pack(tmp_path / "source", tmp_path / "shards").ignored == {".zip": 1}
    assert pack(tmp_path / "source" / "more.zip", tmp_path / "unzipped").count == 1
    (tmp_path / "nothing").mkdir()
    zipped(folder, tmp_path / "nothing" / "a.nc")
    with pytest.raises(InputError, match=r"a\.nc: a zip archive without NetCDF files"):
        pack(tmp_path / "nothing", tmp_path / "none")


def test_names_in_an_archive_lead_nowhere_else(tmp_path: Path, temporary: Path) -> None:
    content = save(field("t2m", range(2)), tmp_path / "a.nc").read_bytes()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("../../escaped.nc", "/tmp/absolute.nc"):  # noqa: S108 - a name in the archive
            archive.writestr(name, content)
    before = sorted(os.listdir(tmp_path))  # noqa: PTH208
    assert pack(tmp_path / "evil.zip", tmp_path / "shards").count == 4
    assert sorted(set(os.listdir(tmp_path)) - {"shards"}) == before  # noqa: PTH208
    assert not list(temporary.iterdir())


def test_archives_of_absurd_size_are_refused_before_they_are_unpacked(tmp_path: Path, temporary: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("a.nc", bytes(100))
    content = bytearray(bomb.read_bytes())
    # the size in the directory
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (3 << 30).to_bytes(4, "little")
    bomb.write_bytes(content)
    with pytest.raises(InputError, match=r"bomb.zip: a zip archive of \d+ bytes that would expand to 3221225472"):
        pack(bomb, tmp_path / "shards")
    whole = zipped(save(field("t2m", range(2)), tmp_path / "one" / "a.nc").parent, tmp_path / "whole.zip").read_bytes()
    for cut in (30, len(whole) // 2, len(whole) - 5):
        (tmp_path / "cut.zip").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"cut.zip: cannot read the zip archive"):
            pack(tmp_path / "cut.zip", tmp_path / "shards")


def test_stores_in_a_folder_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    # the second has no suffix
    for number, name in enumerate(("a.zarr", "deep/b")):
        field("t2m", range(3 * number, 3 * number + 3)).to_zarr(folder / name, zarr_format=2)
    assert plan(folder).items == 6
    summary = pack(folder, tmp_path / "shards")
    assert (summary.count, summary.failed, summary.ignored) == (6, 0, {})
    whole = field("t2m", range(6)).t2m
    for array, said in items(tmp_path / "shards").values():
        np.testing.assert_array_equal(array, whole.sel(valid_time=said["time"]))
    assert pack(folder, tmp_path / "field", field="zarr").count == 3 * 1 + 3


@pytest.mark.parametrize(
    ("form", "prefix", "name"),
    [(2, "", "t2m.zarr.zip"), (3, "store.zarr/", "t2m.zip"), (3, "", "t2m.zarr")],
)
def test_a_store_in_one_file_is_packed(tmp_path: Path, form: int, prefix: str, name: str) -> None:
    dataset = field("t2m", range(3))
    dataset.to_zarr(tmp_path / "made", zarr_format=form, consolidated=form == 2)
    path = zipped(tmp_path / "made", tmp_path / "folder" / name, prefix)
    for number, source in enumerate((path, path.parent)):
        summary = pack(source, tmp_path / f"shards{number}")
        assert (summary.count, summary.failed) == (3, 0)
        for array, said in items(tmp_path / f"shards{number}").values():
            np.testing.assert_array_equal(array, dataset.t2m.sel(valid_time=said["time"]))
