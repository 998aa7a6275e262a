"""Zarr stores: every chunk read once, from a directory or a URL, and nothing unpickled."""

import json
import math
import os
import pickle
import shutil
import socket
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.data.grids import FieldChoice, open_fields
from functaconv.data.grids.chunks import BLOCK_BYTES, blocks
from functaconv.errors import InputError, ServiceError
from functaconv.packing import pack, plan
from tests.data.conftest import SHORT
from tests.data.grids.conftest import arco, netcdf, read
from tests.data.servers import Answer, Script, serving_folder

SECRET = "".join(["hush", "hush"])
"""not in the lines of a traceback"""


def told(error: BaseException) -> str:
    """What `-v` prints."""
    return "".join(traceback.format_exception(error))


def as_zarr(dataset: Any, path: Path | str, chunks: Sequence[int], form: int = 2, **options: Any) -> Path | str:
    encoding = {name: {"chunks": tuple(chunks), **options} for name in dataset.data_vars}
    dataset.to_zarr(path, zarr_format=form, consolidated=form == 2, encoding=encoding)
    return path


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each key of a local zarr store is read."""
    from zarr.storage import LocalStore

    counted: Counter[str] = Counter()
    get = LocalStore.get

    async def counting_get(self: Any, key: str, *rest: Any, **named: Any) -> Any:
        counted[key] += 1
        return await get(self, key, *rest, **named)

    monkeypatch.setattr(LocalStore, "get", counting_get)
    return counted


# times 2 and 5 of level 200
LAST_OF_THREE = FieldChoice(start="2022-05-01T02", stop="2022-05-01T05", stride=3, levels=(200,))


def chunks_read(requests: Counter[str]) -> Counter[str]:
    return Counter({key: count for key, count in requests.items() if key.split("/")[0] in ("temperature", "wind")
                    and not key.endswith(("zarr.json", ".zarray", ".zattrs"))})  # fmt: skip


@netcdf
@pytest.mark.parametrize(
    ("form", "chunks", "choice", "positions", "levels"),
    [
        (2, (1, 3, 4, 5), FieldChoice(), range(7), (0, 1, 2)),
        (3, (3, 3, 4, 5), FieldChoice(levels=(300, 100)), range(7), (0, 2)),
        (2, (2, 1, 2, 5), FieldChoice(stride=2), range(0, 7, 2), (0, 1, 2)),
        (3, (7, 2, 4, 5), LAST_OF_THREE, (2, 5), (1,)),
    ],
)
def test_every_chunk_of_a_store_is_read_once(
    tmp_path: Path,
    requests: Counter[str],
    form: int,
    chunks: tuple[int, ...],
    choice: FieldChoice,
    positions: Sequence[int],
    levels: Sequence[int],
) -> None:
    dataset = arco()
    path = as_zarr(dataset, tmp_path / "era5.zarr", chunks, form)
    requests.clear()
    with open_fields(path, choice):
        assert not chunks_read(requests), "opening reads no value"
    items = read(path, choice)
    names = [f"era5_2022-05-01T0{time}_{100 * level + 100}" for time in positions for level in levels]
    assert sorted(items) == sorted(names)
    for time in positions:
        for level in levels:
            array, attributes = items[f"era5_2022-05-01T0{time}_{100 * level + 100}"]
            np.testing.assert_array_equal(array[..., 0], dataset.temperature[time, level])
            np.testing.assert_array_equal(array[..., 1], dataset.wind[time, level])
            assert (attributes["level"], attributes["level_name"]) == (100 * level + 100, "level")
    read_chunks = chunks_read(requests)
    wanted = {(time // chunks[0], level // chunks[1]) for time in positions for level in levels}
    assert len(read_chunks) == 2 * len(wanted) * math.ceil(4 / chunks[2]), "chunks that are not needed stay unread"
    assert max(read_chunks.values()) == 1


def test_a_chunk_larger_than_a_block_is_read_in_parts() -> None:
    axes = [np.arange(7), np.arange(3)]
    for block_items in (100, 21, 20, 3, 2, 1):
        pieces = blocks(axes, (7, 3), BLOCK_BYTES // block_items)
        assert [np.concatenate(parts).tolist() for parts in pieces] == [axis.tolist() for axis in axes]
        assert max(map(len, pieces[0])) * max(map(len, pieces[1])) <= block_items


@netcdf
def test_a_url_is_read_like_a_directory(tmp_path: Path) -> None:
    dataset = arco()
    local = read(as_zarr(dataset, tmp_path / "era5.zarr", (2, 3, 4, 5)))
    with serving_folder(tmp_path) as url:
        remote = read(f"{url}/era5.zarr")
    assert list(remote) == list(local)
    for key, (array, attributes) in remote.items():
        np.testing.assert_array_equal(array, local[key][0])
        assert attributes == local[key][1]


@netcdf
def test_a_packed_store_is_decoded(tmp_path: Path) -> None:
    dataset = arco()
    dataset.wind[1, 1, 1, 1] = np.nan
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32767}
    for form in (2, 3):
        path = as_zarr(dataset, tmp_path / f"{form}.zarr", (2, 3, 4, 5), form, **packing)
        items = read(path, FieldChoice(variables=("wind",)))
        assert sum(attributes["n_missing"] for _, attributes in items.values()) == 1
        array, _ = items[f"{form}_2022-05-01T03_200"]
        np.testing.assert_allclose(array, dataset.wind[3, 1], atol=0.0051)


@netcdf
def test_zeros_are_values_in_a_store_whose_fill_value_nobody_chose(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "rain.zarr", mode="w", zarr_format=2)
    arrays = {
        "time": (np.arange(2), ["time"], {"units": "hours since 2022-05-01"}),
        "lat": (np.arange(3.0), ["lat"], {"units": "degrees_north"}),
        "lon": (np.arange(4.0), ["lon"], {"units": "degrees_east"}),
        "rain": (np.zeros((2, 3, 4), np.float32), ["time", "lat", "lon"], {"units": "mm"}),
    }
    for name, (raw, dims, attributes) in arrays.items():
        array = group.create_array(name, shape=raw.shape, dtype=raw.dtype)
        array[:] = raw
        array.attrs.update({"_ARRAY_DIMENSIONS": dims, **attributes})
    items = read(tmp_path / "rain.zarr")
    assert list(items) == ["rain_2022-05-01T00", "rain_2022-05-01T01"]
    assert all((array == 0).all() for array, _ in items.values())


@netcdf
def test_a_damaged_chunk_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    as_zarr(arco(), path, (1, 3, 4, 5))
    chunk = path / "wind" / "3.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(InputError, match=r"a\.zarr: cannot read wind") as caught:
        read(path)
    assert caught.value.hint


@netcdf
def test_a_directory_without_zarr_metadata_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot open the zarr store"):
        read(tmp_path)
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="cannot open the zarr store"):
        read(tmp_path)


@netcdf
@pytest.mark.parametrize("form", [2, 3])
def test_links_are_followed_only_within_a_store(tmp_path: Path, form: int) -> None:
    path = tmp_path / "a.zarr"
    as_zarr(arco(), path, (1, 3, 4, 5), form)
    whole = read(path)
    chunks = path / "wind" / ("c" if form == 3 else ".")
    inner, outer = [chunk for chunk in sorted(chunks.rglob("*")) if chunk.is_file() and chunk.name != ".zarray"][1:3]
    inner.replace(path / "wind" / "other")
    inner.symlink_to(path / "wind" / "other")
    # the store itself may be known by a link
    (tmp_path / "b").symlink_to(path)
    assert [array.tolist() for array, _ in read(tmp_path / "b", name="a").values()] == [
        array.tolist() for array, _ in whole.values()
    ]
    outer.replace(tmp_path / "secret")
    outer.symlink_to(tmp_path / "secret")
    for place in (path, tmp_path / "b"):
        with pytest.raises(InputError, match=rf"{outer.relative_to(path)} is a link that leads out of the store"):
            read(place)
    outer.unlink()
    (path / "wind").rename(tmp_path / "wind")
    (path / "wind").symlink_to(tmp_path / "wind")
    with pytest.raises(InputError, match="wind is a link that leads out of the store"):
        read(path)
    with pytest.raises(InputError, match="known by its path"):
        read(f"file://{path}")


@netcdf
def test_a_pipe_in_a_store_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    as_zarr(arco(), path, (1, 3, 4, 5))
    (path / "wind" / "3.0.0.0").unlink()
    os.mkfifo(path / "wind" / "3.0.0.0")
    with pytest.raises(InputError, match=r"wind/3\.0\.0\.0 is neither a file nor a folder"):
        read(path)


class MakesFolder:
    """What unpickling it does shows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@netcdf
@pytest.mark.parametrize(
    ("place", "kind", "name", "others"),
    [
        ("filters", "<f4", "wind", []),
        ("filters", "|O", "level", []),
        ("filters", "|O", "wind", [{"id": "vlen-utf8"}]),
        ("compressor", "<f4", "level", [{"id": "vlen-utf8"}]),
        ("compressor", "|O", "wind", []),
    ],
)
def test_nothing_in_a_store_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, kind: str, name: str, others: list[dict[str, str]]
) -> None:
    # as older versions of numcodecs are
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path = tmp_path / "a.zarr"
    as_zarr(arco(), path, (1, 3, 4, 5))
    (path / ".zmetadata").unlink()
    codecs = {"filters": others or None, "compressor": None}
    codecs[place] = [*others, {"id": "pickle"}] if place == "filters" else {"id": "pickle"}
    described = json.loads((path / name / ".zarray").read_text()) | {"dtype": kind, "fill_value": None, **codecs}
    (path / name / ".zarray").write_text(json.dumps(described))
    for chunk in (path / name).glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(MakesFolder(tmp_path / "mark")))
    with pytest.raises(InputError):
        read(path)
    assert not (tmp_path / "mark").exists()


@netcdf
@pytest.mark.parametrize("query", ["", "?token=sec/secret.x", "#secret"])
def test_nothing_that_may_be_a_password_is_written(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, query: str
) -> None:
    import zarr

    dataset = arco(2)
    dataset["temperature"][1] = dataset["wind"][1] = np.nan
    store = tmp_path / "served" / "era5.zarr"
    as_zarr(dataset, store, (1, 3, 4, 5), 3)
    with warnings.catch_warnings():
        # consolidated metadata is no part of zarr 3 yet
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    # of a store that contradicts itself, zarr warns with the URL
    (store / ".zgroup").write_bytes(b'{"zarr_format": 2}')
    warnings.simplefilter("always")
    with serving_folder(store.parent) as server:
        url = f"{server}/era5.zarr"
        secret = f"{url.replace('//', '//user:secret@')}{query}"
        summary = pack(secret, tmp_path / "shards")
        assert (summary.count, summary.failed) == (3, 3)
        assert {failure.path for failure in summary.failures} == {url}
        assert all(failure.key.startswith("era5_2022") for failure in summary.failures)
        assert not recwarn
        for path in (tmp_path / "shards").iterdir():
            assert b"sec" not in path.read_bytes()
        for name in ("temperature", "wind"):
            shutil.rmtree(store / name / "c")
        with pytest.raises(InputError, match="every value is missing") as caught:
            pack(secret, tmp_path / "others")
        assert "sec" not in str(caught.value)
        for look in (plan, lambda source: pack(source, tmp_path / "others")):
            with pytest.raises(InputError, match=rf"no zarr store by its name: {server}/era5$"):
                look(f"{server.replace('//', '//user:secret@')}/era5{query}")


@netcdf
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_silent_server_is_named_and_not_its_password(
    hasty: None, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("FUNCTACONV_SOURCE_TIMEOUT", SHORT)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, SECRET)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{place}")
        url = {"http": f"http://user:{SECRET}@{place}/a.zarr", "s3": "s3://bucket/a.zarr"}[scheme]
        with pytest.raises(ServiceError, match=rf"/a\.zarr has sent nothing for {SHORT} s") as caught:
            read(url)
    assert SECRET not in told(caught.value)


@netcdf
@pytest.mark.parametrize(("status", "reason"), [(403, "the server answers 403 Forbidden"), (404, "there is none")])
def test_an_answer_that_is_no_store_is_told_without_the_words_of_a_library(
    serve: Callable[..., Script], status: int, reason: str
) -> None:
    script = serve(b"", Answer(status=status))
    with pytest.raises(InputError, match=f"cannot open the zarr store: {reason}") as caught:
        read(f"{script.url}/a.zarr?token={SECRET}")
    assert SECRET not in told(caught.value)


@netcdf
@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_group_of_a_store_is_found_or_chosen(tmp_path: Path, form: int, consolidated: bool) -> None:
    import zarr

    path = tmp_path / "a.zarr"
    dataset = arco(2)
    zarr.open_group(path, mode="w", zarr_format=form)
    dataset.to_zarr(path, group="era5/levels", mode="a", zarr_format=form, consolidated=False)
    if consolidated:
        with warnings.catch_warnings():
            # consolidated metadata is no part of zarr 3 yet
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(path)
    (array, _), *rest = read(path).values()
    assert len(rest) == 5
    np.testing.assert_array_equal(array[..., 0], dataset.temperature[0, 0])
    (dataset + 1).to_zarr(path, group="other", mode="a", zarr_format=form, consolidated=False)
    if consolidated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(path)
    with pytest.raises(InputError, match="fields in 2 groups") as caught:
        read(path)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("choose one with --group: ")
    assert sorted(caught.value.hint.partition(": ")[2].split(", ")) == ["era5/levels", "other"]
    (array, _), *_ = read(path, FieldChoice(group="other")).values()
    np.testing.assert_array_equal(array[..., 0], dataset.temperature[0, 0] + 1)
