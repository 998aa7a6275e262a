"""The whole way on real images, where there are any: FUNCTACONV_TEST_DATA names their folder."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from functaconv.checkpoint import read_base
from functaconv.conversion import encode
from functaconv.functaset.opening import open_functaset
from functaconv.packing import pack
from functaconv.rendering import render
from functaconv.training import fit_base

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def base(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base for small colour images, learned for a moment only."""
    path = tmp_path_factory.mktemp("base") / "cifar10.safetensors"
    settings = {"training": {"steps": 30}, "latent": {"numbers": 32}, "network": {"width": 32}}
    fit_base(str(test_data / "cifar10" / "train-000000.tar"), path, settings=settings)
    return path


def test_the_report_is_what_numpy_finds_in_rendered_npy(base: Path, test_data: Path, tmp_path: Path) -> None:
    shard = test_data / "cifar10" / "test-000000.tar"
    encode(base, str(shard), tmp_path / "store.zarr", limit=100)
    render(tmp_path / "store.zarr", tmp_path / "arrays", format="npy")
    with tarfile.open(shard) as tar:
        originals = {
            member.name.removesuffix(".png"): np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())))  # type: ignore[union-attr]
            for member in tar.getmembers()[:400]
            if member.name.endswith(".png")
        }
    functaset = open_functaset(tmp_path / "store.zarr")
    for key, stored in zip(functaset.keys, functaset.psnr, strict=True):
        decoded = np.load(tmp_path / "arrays" / f"{key}.npy").astype(np.float64)
        psnr = -10 * np.log10(np.mean((decoded - originals[key] / 255) ** 2))
        assert psnr == pytest.approx(stored, abs=0.01)


def test_latents_do_not_depend_on_the_batch(base: Path, test_data: Path, tmp_path: Path) -> None:
    shard = str(test_data / "cifar10" / "test-000000.tar")
    found = []
    for size in (1, 7, 64):
        encode(base, shard, tmp_path / f"{size}.zarr", limit=100, bits="float32", batch_size=size)
        found.append(open_functaset(tmp_path / f"{size}.zarr").latents())
    scale = np.abs(found[0]).max()
    assert np.abs(found[1] - found[0]).max() < 1e-4 * scale
    assert np.abs(found[2] - found[0]).max() < 1e-4 * scale


def test_two_shapes_are_one_dataset_tiled_and_whole(base: Path, test_data: Path, tmp_path: Path) -> None:
    shards = str(test_data / "kodak")
    for tile in (None, 256):
        store = tmp_path / f"{tile}.zarr"
        encoded = encode(base, shards, store, tile=tile, steps=1)
        assert encoded.report["count"] == 16
        assert encoded.complaint is None
        render(store, tmp_path / f"{tile}", items=[0, 3], format="npy")
        shapes = {np.load(path).shape for path in (tmp_path / f"{tile}").iterdir()}
        assert shapes <= {(512, 768, 3), (768, 512, 3)}
    # three by two would fit without an overlap
    assert len(open_functaset(tmp_path / "256.zarr")) == 16 * 12


def test_odd_images_are_converted_or_listed_with_a_reason(base: Path, test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "raw" / "images"
    packed = pack(folder, tmp_path / "shards", labels=False)
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    assert packed.count + packed.failed == files
    assert all(len(failure.reason) > 20 for failure in packed.failures)
    encoded = encode(base, str(tmp_path / "shards"), tmp_path / "odd.zarr", tile=256, steps=1, max_error_rate=1)
    assert encoded.report["count"] + encoded.report["failed"] == packed.count
    # a TIFF whose values are no intensities
    assert [failure.key for failure in open_functaset(encoded.path).failures] == ["odd/10ct_32bit_128"]
    assert read_base(base).base.axes.channels == 3
