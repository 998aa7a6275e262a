"""Voxels, the whole way: bits in any container to a functaset, and back to volumes, surfaces and pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from functaconv.checkpoint import read_base
from functaconv.conversion import encode
from functaconv.data.decoders.binvox import read_binvox, write_binvox
from functaconv.documents import merged
from functaconv.errors import InputError, UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.verify import verify
from functaconv.rendering import View, arrays, render
from functaconv.reporting import report, to_csv
from functaconv.training import fit_base
from tests.conftest import TINY, npy, npz, png, tar

SHAPE = (10, 8, 12)
SETTINGS = merged(
    TINY, {"solver": {"kind": "gauss-newton", "steps": 2}, "training": {"optimizer": "muon", "steps": 60}}
)


def solid(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A box of some size somewhere, uint8."""
    random = np.random.default_rng(seed)
    volume = np.zeros(shape, np.uint8)
    spans = [sorted(random.choice(np.arange(1, size), 2, replace=False)) for size in shape]
    volume[tuple(slice(low, high) for low, high in spans)] = 1
    return volume


CONTAINERS = {
    "npz": lambda volume: {"npz": npz(occupancy=volume)},
    "bool npy": lambda volume: {"npy": npy(volume.astype(bool))},
    "float npy": lambda volume: {"npy": npy(volume.astype(np.float64))},
    "with a channel": lambda volume: {"npy": npy(volume[None])},
    "binvox": lambda volume: {"binvox": write_binvox(volume)},
    "packed": lambda volume: {
        "npy": npy(np.packbits(volume)),
        "json": json.dumps({"packed_bits": list(volume.shape)}).encode(),
    },
    "packed the other way": lambda volume: {
        "npz": npz(occupancy=np.packbits(volume, bitorder="little")),
        "json": json.dumps({"packed_bits": list(volume.shape), "bit_order": "little"}).encode(),
    },
}


def members(numbers: range, container: str = "npz") -> dict[str, bytes]:
    return {
        f"v{number:03d}.{suffix}": content
        for number in numbers
        for suffix, content in CONTAINERS[container](solid(number)).items()
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tar(tmp_path_factory.mktemp("voxels") / "train.tar", members(range(40)))


@pytest.fixture(scope="module")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "voxels.safetensors"
    fit_base(str(shards), path, settings={"latent": {"numbers": 16}}, minutes=0, device="cpu")
    return path


@pytest.fixture(scope="module")
def store(base: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(base, str(shards), tmp_path_factory.mktemp("store") / "v.zarr", device="cpu").path


def test_volumes_of_0_and_1_are_voxels(base: Path) -> None:
    stored = read_base(base)
    assert (stored.base.axes.kind, stored.base.axes.dims, stored.base.axes.channels) == ("voxels", 3, 1)
    # occupancy itself, not a range of the training items
    assert (stored.base.normalizer.offset, stored.base.normalizer.scale) == ((0.0,), (1.0,))


def test_every_container_gives_the_same_latents(base: Path, store: Path, tmp_path: Path) -> None:
    numbers = range(3)
    all_members = {
        f"{key}-{container.replace(' ', '-')}.{suffix}": content
        for container in CONTAINERS
        for name, content in members(numbers, container).items()
        for key, suffix in (name.split("."),)
    }
    shard = tar(tmp_path / "t.tar", dict(sorted(all_members.items())))
    found = open_functaset(encode(base, str(shard), tmp_path / "o.zarr", device="cpu").path)
    assert not found.failures
    assert len(found) == len(numbers) * len(CONTAINERS)
    expected = open_functaset(store).latents(slice(0, len(numbers)))
    np.testing.assert_allclose(found.latents(), expected.repeat(len(CONTAINERS), 0), atol=2e-3)


def test_measures_are_what_numpy_finds(store: Path, shards: Path, tmp_path: Path) -> None:
    functaset = open_functaset(store)
    for row, (_, array) in enumerate(arrays(functaset, device="cpu")):
        was, now = solid(row) > 0, array[..., 0] > 0.5
        assert functaset.measure("accuracy")[row] == pytest.approx((was == now).mean(), abs=1e-6)
        assert functaset.measure("iou")[row] == pytest.approx((was & now).sum() / (was | now).sum(), abs=1e-6)
        assert functaset.mse[row] == pytest.approx(((array[..., 0] - solid(row)) ** 2).mean(), rel=1e-3)
    said = functaset.report
    assert said["voxel_accuracy"] == pytest.approx(functaset.measure("accuracy").mean(), abs=1e-4)
    assert said["iou"] == pytest.approx(functaset.measure("iou").mean(), abs=1e-4)
    assert said["voxel_accuracy"] > 0.85
    assert verify(store) == []
    found = report(store, against=str(shards), train=str(shards), baseline="pca")
    assert found.complaint is None
    assert 0.5 < found.summary["pca"]["voxel_accuracy"] <= 1
    assert 0 < found.summary["pca"]["iou"] <= 1
    to_csv(found, tmp_path / "items.csv")
    assert "accuracy,iou" in (tmp_path / "items.csv").read_text().splitlines()[0]


def test_two_empty_volumes_agree(base: Path, tmp_path: Path) -> None:
    shard = tar(
        tmp_path / "t.tar", {"empty.npz": npz(occupancy=np.zeros(SHAPE, np.uint8)), "full.npz": npz(occupancy=solid(3))}
    )
    functaset = open_functaset(encode(base, str(shard), tmp_path / "o.zarr", device="cpu").path)
    assert np.isfinite(functaset.measure("iou")).all()


def test_volumes_come_back_as_binvox_surface_and_picture(store: Path, tmp_path: Path) -> None:
    functaset = open_functaset(store)
    number = max(range(40), key=lambda row: functaset.measure("iou")[row])
    _, array = next(arrays(functaset, [number], device="cpu"))
    occupied = array[..., 0] > 0.5
    assert occupied.any()
    for suffix in ("binvox", "npy", "png"):
        render(store, tmp_path / f"one.{suffix}", items=[number], device="cpu")
    again = read_binvox((tmp_path / "one.binvox").read_bytes())
    np.testing.assert_array_equal(again, occupied)
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy")[..., 0], array[..., 0])
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.mode == "RGB"
        # something is to be seen
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 2
    pytest.importorskip("skimage")
    render(store, tmp_path / "one.obj", items=[number], view=View(scale=2), device="cpu")
    lines = (tmp_path / "one.obj").read_text().splitlines()
    corners = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    assert corners.min() >= 0
    assert corners.max() <= 1
    assert any(line.startswith("f ") for line in lines)


def test_any_resolution_is_rendered(store: Path, tmp_path: Path) -> None:
    (_, native), (_, thrice) = (
        next(arrays(open_functaset(store), [0], view=View(scale=scale), device="cpu")) for scale in (1, 3)
    )
    assert thrice.shape == (30, 24, 36, 1)
    np.testing.assert_allclose(thrice[1::3, 1::3, 1::3], native, atol=1e-5)


def test_an_item_without_any_occupied_voxel_has_an_empty_surface(base: Path, tmp_path: Path) -> None:
    shard = tar(
        tmp_path / "t.tar", {"a.npz": npz(occupancy=np.zeros(SHAPE, np.uint8)), "b.npz": npz(occupancy=solid(3))}
    )
    path = encode(base, str(shard), tmp_path / "o.zarr", device="cpu").path
    functaset = open_functaset(path)
    (_, array) = next(arrays(functaset, [0], device="cpu"))
    render(path, tmp_path / "surfaces", format="obj", device="cpu")
    assert len(list((tmp_path / "surfaces").iterdir())) == 2
    lines = (tmp_path / "surfaces" / "a.obj").read_text()
    assert ("v " in lines) == bool((array > 0.5).any())


@pytest.mark.parametrize("name", ["a.nc", "a.zarr", "a.jpg"])
def test_formats_of_other_kinds_are_refused(name: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        render(store, tmp_path / name, items=[0], format=name.partition(".")[2], device="cpu")
    assert not list(tmp_path.iterdir())


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "seven": ({"npz": npz(occupancy=solid(1) * 7)}, "occupancy lies between 0 and 1"),
    "object": ({"npz": npz(occupancy=np.array([{"a": 1}], object))}, "object|pickle|type"),
    "cut": ({"binvox": write_binvox(solid(1))[:-3]}, "binvox"),
    "bits": ({"npy": npy(np.packbits(solid(1))), "json": b'{"packed_bits": [99, 99, 99]}'}, "bytes|bits"),
    "many": ({"npy": npy(np.packbits(solid(1))), "json": b'{"packed_bits": [1000000, 1000000, 99]}'}, "more than"),
    "text": ({"npy": npy(np.packbits(solid(1))), "json": b'{"packed_bits": "all"}'}, "shape"),
    "axes": ({"npy": npy(np.ones(1, np.uint8)), "json": json.dumps({"packed_bits": [1] * 70}).encode()}, "shape"),
}


def test_volumes_that_make_no_sense_are_failed_items(base: Path, tmp_path: Path) -> None:
    bad = {f"{key}.{suffix}": content for key, (fields, _) in BAD.items() for suffix, content in fields.items()}
    shard = tar(tmp_path / "t.tar", members(range(2)) | bad)
    functaset = open_functaset(encode(base, str(shard), tmp_path / "o.zarr", device="cpu", max_error_rate=1).path)
    assert len(functaset) == 2
    assert [failure.key for failure in functaset.failures] == list(BAD)
    for failure in functaset.failures:
        assert any(word in failure.reason for word in BAD[failure.key][1].split("|")), failure


def test_images_among_voxels_are_told_early(shards: Path, tmp_path: Path) -> None:
    mixed = tar(tmp_path / "mixed.tar", {**members(range(3)), "picture.png": png(0, (8, 8))})
    with pytest.raises(InputError, match="mixed dataset"):
        fit_base(str(mixed), tmp_path / "b.safetensors", settings=SETTINGS)


def test_sites_have_three_axes(tmp_path: Path) -> None:
    latent = {"numbers": 3, "sites": [2, 2, 2], "interpolation": "linear"}
    settings = merged(
        SETTINGS, {"latent": latent, "training": {"steps": 3}, "closed_form": {"features": 16, "rounds": 1}}
    )
    shard = str(tar(tmp_path / "t.tar", members(range(10))))
    fit_base(shard, tmp_path / "b.safetensors", settings=settings, device="cpu")
    path = encode(tmp_path / "b.safetensors", shard, tmp_path / "o.zarr", device="cpu", limit=5).path
    functaset = open_functaset(path)
    assert functaset.latents().shape == (5, *latent["sites"], latent["numbers"])
    assert report(path, against=shard).complaint is None
