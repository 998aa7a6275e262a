import json
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.errors import InputError, UsageError
from functaconv.functaset import Failure, Layout, open_functaset
from functaconv.functaset.writer import assembled
from tests.roots import read_root, write_root

from .conftest import BASE, LAYOUTS, begin, block_of, codec_of, encode, latents_of


def expected_latents(layout: Layout) -> np.ndarray:
    blocks = [latents_of(layout, part, number, 5) for part in range(2) for number in range(2)]
    quantiser = codec_of(layout)
    return quantiser.decode(quantiser.encode(np.concatenate(blocks)))


def test_what_was_committed_is_read_in_order(tmp_path: Path, layout: Layout, chunks_of_two: None) -> None:
    functaset = open_functaset(encode(tmp_path / "out.zarr", layout))
    blocks = [block_of(layout, part, number) for part in range(2) for number in range(2)]
    assert len(functaset) == 20
    assert functaset.layout == layout
    assert np.array_equal(functaset.latents(), expected_latents(layout))
    assert functaset.latents().dtype == np.float32
    assert functaset.keys.tolist() == [key for block in blocks for key in block.keys]
    assert functaset.shards.tolist() == [0] * 10 + [1] * 10
    for name, column in [("labels", "label"), ("shapes", "shape"), ("mse", "mse"), ("psnr", "psnr")]:
        assert np.array_equal(getattr(functaset, name), np.concatenate([getattr(block, column) for block in blocks]))
    if layout.tiled:
        assert functaset.tiles is not None
        assert functaset.tiles[:, 0].tolist() == [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5
    else:
        assert functaset.tiles is None
    assert functaset.failures[3] == Failure("shard-1", 11, "1/1/bad", "not an image", 1)
    assert functaset.base_bytes() == BASE
    assert functaset.report == {"count": 20, "failed": 4, "psnr": 30.5}
    assert functaset.attributes.solver.steps == 3


def test_one_row_has_all_that_is_known_of_the_item(tmp_path: Path, layout: Layout) -> None:
    functaset = open_functaset(encode(tmp_path / "out.zarr", layout))
    row = functaset[-1]
    assert np.array_equal(row.latent, functaset.latents()[19])
    assert (row.key, row.label, row.shard) == ("1/1/4é", 3, 1)
    assert row.shape == (17,) * len(layout.axes)
    assert row.meta == {"name": "1/1/4é"}
    assert row.tile == ((1,) * 2 * len(layout.axes) if layout.tiled else None)
    assert row.mse == functaset.mse[19]
    with pytest.raises(IndexError, match="item 20 of 20"):
        functaset[20]


@pytest.mark.parametrize(
    "rows",
    [
        None,
        slice(3, 17),
        slice(None, None, 3),
        slice(15, 2, -4),
        slice(9, 9),
        slice(18, 99),
        np.array([7, 0, 7, -1]),
        np.array([], np.int64),
        np.arange(20) % 3 == 0,
    ],
    ids=str,
)
def test_rows_are_chosen_as_numpy_does(store: Path, rows: Any) -> None:
    functaset = open_functaset(store)
    whole = functaset.latents()
    assert np.array_equal(functaset.latents(rows), whole[slice(None) if rows is None else rows])


def test_rows_that_do_not_exist_are_an_error(store: Path) -> None:
    functaset = open_functaset(store)
    for rows in (np.array([20]), np.array([-21]), np.ones(3, bool)):
        with pytest.raises(IndexError):
            functaset.latents(rows)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_cover_all_items_once(store: Path, size: int) -> None:
    functaset = open_functaset(store)
    starts, batches = zip(*functaset.batches(size), strict=True)
    assert list(starts) == list(range(0, 20, size))
    assert np.array_equal(np.concatenate(batches), functaset.latents())


def test_an_item_is_found_by_its_key(store: Path) -> None:
    functaset = open_functaset(store)
    assert functaset.index("1/0/2é") == 12
    with pytest.raises(InputError, match="no item with key '1/0/22é'") as caught:
        functaset.index("1/0/22é")
    assert "1/0/2é" in str(caught.value.hint)


def test_normalised_latents_of_one_item_are_all_zero(tmp_path: Path) -> None:
    """Nothing varies: dividing by the deviation must not make NaN of it."""
    functaset = open_functaset(encode(tmp_path / "out.zarr", LAYOUTS["global"], shards=1, blocks=1, rows=1))
    assert np.abs(functaset.latents(normalize=True)).max() < 1e-3


def test_size_on_disk_leaves_out_the_base(store: Path) -> None:
    size = open_functaset(store).nbytes()
    assert size.base == len(BASE)
    around = sum((store / name).stat().st_size for name in ("zarr.json", "report.json", "base.safetensors"))
    assert size.store == sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) - around


def test_xarray_opens_it_without_options(tmp_path: Path, layout: Layout) -> None:
    xarray = pytest.importorskip("xarray")
    path = encode(tmp_path / "out.zarr", layout)
    names = {0: [], 1: ["position"], 2: ["row", "column"], 3: ["depth", "row", "column"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xarray.open_zarr(path)
        assert list(dataset.latent.dims) == ["item", *names[len(layout.sites)], "latent"]
        assert dataset["shape"].dims == ("item", "axis")
        assert json.loads(dataset.attrs["functaconv"])["format"] == "functaset"
        assert dataset.label.values.min() == -1
        one = dataset.set_index(item="key").sel(item="1/0/2é")
        assert np.array_equal(one.latent.values, dataset.latent.values[12])


def test_xarray_writes_it_to_netcdf(tmp_path: Path, layout: Layout) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    path = encode(tmp_path / "out.zarr", layout)
    with xarray.open_zarr(path) as dataset:
        expected = dataset.load()
    if expected.latent.dtype == np.float16:
        # NetCDF has no such numbers
        expected = expected.assign(latent=expected.latent.astype(np.float32))
    expected.to_netcdf(tmp_path / "out.nc")
    with xarray.open_dataset(tmp_path / "out.nc") as written:
        assert json.loads(written.attrs["functaconv"])["format"] == "functaset"
        for name in expected.variables:
            np.testing.assert_array_equal(written[name].values, expected[name].values)


def test_tensorstore_reads_the_numbers(tmp_path: Path, layout: Layout, chunks_of_two: None) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    functaset = open_functaset(encode(tmp_path / "out.zarr", layout))
    for column, _ in functaset.expected():
        array = functaset.array(column.name)
        assert array is not None
        if column.dtype == "str":
            continue
        kvstore = {"driver": "file", "path": str(tmp_path / "out.zarr" / column.name)}
        found = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
        assert np.array_equal(found, np.asarray(array[:]))


def test_torch_trains_on_it(store: Path) -> None:
    data = pytest.importorskip("torch.utils.data")
    functaset = open_functaset(store)
    dataset = functaset.torch_dataset(normalize=True)
    latent, label = dataset[3]
    assert np.array_equal(latent.numpy(), functaset.latents(normalize=True)[3])
    assert label == 2
    assert isinstance(dataset, data.Dataset)
    with pytest.raises(IndexError):
        dataset[20]
    latents, labels = next(iter(data.DataLoader(dataset, batch_size=8)))
    assert latents.shape == (8, 2, 3, 4)
    assert np.array_equal(latents.numpy(), functaset.latents(slice(0, 8), normalize=True))
    assert labels.tolist() == functaset.labels[:8].tolist()


def test_workers_open_it_for_themselves(store: Path) -> None:
    data = pytest.importorskip("torch.utils.data")
    dataset = open_functaset(store).torch_dataset()
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert np.array_equal(again[5][0].numpy(), dataset[5][0].numpy())
    loader = data.DataLoader(dataset, batch_size=10, num_workers=1, multiprocessing_context="spawn")
    found = np.concatenate([latents.numpy() for latents, _ in loader])
    assert np.array_equal(found, dataset.functaset.latents())


def test_reading_needs_no_torch(store: Path) -> None:
    program = (
        "import sys; from functaconv.functaset import open_functaset; "
        f"open_functaset({str(store)!r}).latents(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_what_is_no_functaset_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing of this name"):
        open_functaset(tmp_path / "absent.zarr")
    with pytest.raises(InputError, match="is not a functaset"):
        open_functaset(tmp_path)
    for content in (
        '{"attributes": {}}',
        "[]",
        '{"attributes": {"functaconv": 3}}',
        '{"attributes": {"functaconv": "3"}}',
        '{"attributes": null}',
    ):
        (tmp_path / "zarr.json").write_text(content)
        with pytest.raises(InputError, match="is not a functaset"):
            open_functaset(tmp_path)
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        open_functaset(tmp_path)


def test_an_unfinished_one_says_to_run_encode_again(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    path = tmp_path / "out.zarr"
    begin(path, layout)
    with assembled(path, [], layout, codec_of(layout), rows=0, has_meta=False):
        with pytest.raises(InputError, match="unfinished") as caught:
            open_functaset(path)
        assert "run it again" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("version",), 1, "version 1, this functaconv reads 2"),
        (("latent",), -4, r"latent: .* \(found -4\)"),
        (("latent",), 10**12, "latent"),
        (("sites",), [2**20, 2**20], "numbers per item"),
        (("sites",), [2, 0], "sites.1"),
        (("sites",), [1, 1, 1, 1], "sites"),
        (("quantisation", "bits"), "7", "quantisation.bits"),
        (("summary", "count"), -1, "summary.count"),
        (("summary", "count"), 10**15, "summary.count"),
        (("summary",), {"count": 20}, "summary.failed"),
        (("base_sha256",), "abc", "base_sha256"),
        (("solver", "steps"), -1, "solver.steps"),
        (("latent",), 5, r"latent: found float16 .*, expected float16 \(20, 2, 3, 5\)"),
        (("summary", "count"), 21, "expected float16"),
        (("summary", "count"), 2**40, "expected float16"),
        (("quantisation", "bits"), "8", "expected uint8"),
        (("tiled",), True, "tile: the array is missing"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(
    store: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    root = read_root(store)
    inner = root["attributes"]["functaconv"]
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    write_root(store, root)
    with pytest.raises(InputError, match=message):
        open_functaset(store)


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 2, 3, 4]}}},
        {"data_type": "float128"},
        {"shape": [-1, 2, 3, 4]},
        {"codecs": [{"name": "exec"}]},
        {"codecs": 3},
        {"shape": [20, 2, 3, 2**50]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_arrays_that_make_no_sense_are_refused(store: Path, change: dict[str, Any]) -> None:
    root = json.loads((store / "zarr.json").read_bytes())
    root["consolidated_metadata"]["metadata"]["latent"].update(change)
    (store / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(InputError):
        open_functaset(store)


def test_another_base_is_refused(store: Path) -> None:
    (store / "base.safetensors").write_bytes(b"another base")
    with pytest.raises(InputError, match="found sha256"):
        open_functaset(store).base_bytes()


@pytest.mark.parametrize("lost", ["emptied", "deleted"])
def test_lost_shards_are_noticed_before_zarr_fills_them(store: Path, lost: str) -> None:
    file = store / "latent/c/1/0/0/0"
    if lost == "emptied":
        file.write_bytes(b"")
    else:
        file.unlink()
    with pytest.raises(InputError, match=r"latent: rows 4 to 7 lost: latent/c/1/0/0/0 is"):
        open_functaset(store)


def test_a_missing_array_is_noticed(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_bytes())
    del root["consolidated_metadata"]["metadata"]["label"]
    (store / "zarr.json").write_text(json.dumps(root))
    shutil.rmtree(store / "label")
    with pytest.raises(InputError, match="label: the array is missing"):
        open_functaset(store)


def test_a_flipped_bit_is_never_a_value(store: Path, flip: Any) -> None:
    flip(store / "latent/c/0/0/0/0", 40)
    functaset = open_functaset(store)
    with pytest.raises(InputError, match=r"latent: the array cannot be read|latent: rows"):
        functaset.latents()
    with pytest.raises(InputError):
        functaset.latents(slice(0, 4))
    assert np.isfinite(functaset.latents(slice(4, 20))).all()


@pytest.mark.parametrize("name", ["global", "two", "codes"])
def test_a_view_of_fewer_numbers_has_the_first_ones(tmp_path: Path, name: str, chunks_of_two: None) -> None:
    torch = pytest.importorskip("torch")
    whole = open_functaset(encode(tmp_path / "out.zarr", LAYOUTS[name], canonical=True))
    view = whole.truncated(2)
    assert (view.layout.latent, whole.layout.latent) == (2, LAYOUTS[name].latent)
    assert view.is_truncated
    assert not whole.is_truncated
    assert len(view) == len(whole)
    rows = np.array([7, 0, 19])
    for normalize in (False, True):
        expected = whole.latents(normalize=normalize)[..., :2]
        assert np.array_equal(view.latents(normalize=normalize), expected)
        assert np.array_equal(view.latents(rows, normalize=normalize), expected[rows])
        latent, label = view.torch_dataset(normalize=normalize)[5]
        assert torch.equal(latent, torch.from_numpy(expected[5]))
        assert label == whole.labels[5]
    assert np.array_equal(view[3].latent, whole[3].latent[..., :2])
    assert np.array_equal(np.concatenate([found for _, found in view.batches(7)]), view.latents())
    assert view.keys.tolist() == whole.keys.tolist()
    assert view.truncated(2) is view
    assert view.truncated(1).layout.latent == 1
    assert whole.truncated(whole.layout.latent) is whole
    sites = "x".join(map(str, (*whole.layout.sites, 2)))
    assert f"latent {sites} " in repr(view)
    again = pickle.loads(pickle.dumps(view))  # noqa: S301
    assert np.array_equal(again.latents(), view.latents())
    # the arrays are still those of all numbers
    assert [column.tail for column, _ in again.expected()] == [column.tail for column, _ in whole.expected()]


def test_numbers_that_are_not_there_are_not_kept(tmp_path: Path) -> None:
    functaset = open_functaset(encode(tmp_path / "out.zarr", LAYOUTS["global"], canonical=True))
    for keep in (0, -1, 7):
        with pytest.raises(UsageError, match="1 to 6, the numbers of a site"):
            functaset.truncated(keep)
    with pytest.raises(UsageError, match="1 to 3"):
        functaset.truncated(3).truncated(4)


def test_numbers_without_an_order_cannot_be_left_out(store: Path) -> None:
    with pytest.raises(UsageError, match="--keep needs canonical latents: a base learned with gauss-newton"):
        open_functaset(store).truncated(2)
