import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from functaconv.errors import InputError, UsageError
from functaconv.functaset.blocks import Failure
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.schema import Layout
from functaconv.functaset.writer import assembled

from .conftest import BASE, LAYOUTS, MANY, begin, block_of, codec_of, encode, latents_of


def expected_latents(layout: Layout) -> np.ndarray:
    blocks = [latents_of(layout, part, number, 5) for part in range(2) for number in range(2)]
    quantiser = codec_of(layout)
    return quantiser.decode(quantiser.encode(np.concatenate(blocks)))


def test_what_was_committed_is_read_in_order(stores: dict[str, Path], name: str) -> None:
    functaset, layout = open_functaset(stores[name]), LAYOUTS[name]
    blocks = [block_of(layout, part, number) for part in range(2) for number in range(2)]
    assert len(functaset) == 20
    assert functaset.layout == layout
    assert np.array_equal(functaset.latents(), expected_latents(layout))
    assert functaset.latents().dtype == np.float32
    assert functaset.keys.tolist() == [key for block in blocks for key in block.columns["key"]]
    assert functaset.shards.tolist() == [0] * 10 + [1] * 10
    for attribute, column in [("labels", "label"), ("shapes", "shape"), ("mse", "mse"), ("psnr", "psnr")]:
        expected = np.concatenate([block.columns[column] for block in blocks])
        assert np.array_equal(getattr(functaset, attribute), expected)
    expected_tiles = [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5 if layout.tiled else None
    assert (None if functaset.tiles is None else functaset.tiles[:, 0].tolist()) == expected_tiles
    assert functaset.failures[3] == Failure("shard-1", 11, "1/1/bad", "not an image", 1)
    assert functaset.base_bytes() == BASE
    assert functaset.report == {"count": 20, "failed": 4, "psnr": 30.5}
    assert functaset.attributes.solver.steps == 3
    row = functaset[-1]
    assert np.array_equal(row.latent, functaset.latents()[19])
    assert (row.key, row.label, row.shard) == ("1/1/4é", 3, 1)
    assert row.shape == (17,) * len(layout.axes)
    assert row.meta == {"name": "1/1/4é"}
    assert row.tile == ((1,) * 2 * len(layout.axes) if layout.tiled else None)
    assert row.mse == functaset.mse[19]
    with pytest.raises(IndexError, match="item 20 of 20"):
        functaset[20]


def test_moments_are_those_of_all_values(stores: dict[str, Path], name: str) -> None:
    functaset, latent = open_functaset(stores[name]), LAYOUTS[name].latent
    values = functaset.latents().reshape(-1, latent).astype(np.float64)
    normalised = functaset.latents(normalize=True).reshape(-1, latent)
    np.testing.assert_allclose(normalised, (values - values.mean(0)) / values.std(0), atol=1e-5)


def test_rows_are_chosen_as_numpy_does(many: Path) -> None:
    functaset = open_functaset(many)
    whole = functaset.latents()
    for rows in (
        None, slice(3, 600), slice(None, None, 300), slice(1050, 2, -400), slice(9, 9), slice(1090, 9999),
        np.array([7, 0, 1099, 7, -1]), np.array([], np.int64), np.arange(MANY) % 300 == 0,
    ):  # fmt: skip
        assert np.array_equal(functaset.latents(rows), whole[slice(None) if rows is None else rows])
    for wrong in (np.array([MANY]), np.array([-MANY - 1]), np.ones(3, bool)):
        with pytest.raises(IndexError):
            functaset.latents(wrong)


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


# xarray and tensorstore: libraries of others that read it as any zarr
@pytest.mark.parametrize("name", ["global", "codes", "three"])
def test_others_read_it_without_options(stores: dict[str, Path], tmp_path: Path, name: str) -> None:
    xarray, tensorstore = pytest.importorskip("xarray"), pytest.importorskip("tensorstore")
    pytest.importorskip("netCDF4")
    functaset = open_functaset(stores[name])
    axes = {0: [], 2: ["row", "column"], 3: ["depth", "row", "column"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xarray.open_zarr(stores[name])
        assert list(dataset.latent.dims) == ["item", *axes[len(LAYOUTS[name].sites)], "latent"]
        assert dataset["shape"].dims == ("item", "axis")
        assert json.loads(dataset.attrs["functaconv"])["format"] == "functaset"
        assert dataset.label.values.min() == -1
        one = dataset.set_index(item="key").sel(item="1/0/2é")
        assert np.array_equal(one.latent.values, dataset.latent.values[12])
        expected = dataset.load()
    for column, _ in functaset.expected():
        if column.dtype != "str":
            kvstore = {"driver": "file", "path": str(stores[name] / column.name)}
            found = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
            assert np.array_equal(found, expected[column.name].values, equal_nan=column.dtype.startswith("float"))
    if expected.latent.dtype == np.float16:
        # NetCDF has no such numbers
        expected = expected.assign(latent=expected.latent.astype(np.float32))
    expected.to_netcdf(tmp_path / "out.nc")
    with xarray.open_dataset(tmp_path / "out.nc") as written:
        for variable in expected.variables:
            np.testing.assert_array_equal(written[variable].values, expected[variable].values)


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


def test_a_worker_opens_it_for_itself(store: Path) -> None:
    dataset = open_functaset(store).torch_dataset()
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert np.array_equal(again[5][0].numpy(), dataset[5][0].numpy())


def test_reading_needs_no_torch(store: Path) -> None:
    program = (
        "import sys; from functaconv.functaset.opening import open_functaset; "
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


@pytest.mark.parametrize("name", ["global", "two", "codes"])
def test_a_view_of_fewer_numbers_has_the_first_ones(stores: dict[str, Path], name: str) -> None:
    torch = pytest.importorskip("torch")
    whole = open_functaset(stores[name])
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


def test_numbers_that_are_not_there_are_not_kept(stores: dict[str, Path]) -> None:
    functaset = open_functaset(stores["global"])
    for keep in (0, -1, 7):
        with pytest.raises(UsageError, match="1 to 6, the numbers of a site"):
            functaset.truncated(keep)
    with pytest.raises(UsageError, match="1 to 3"):
        functaset.truncated(3).truncated(4)
