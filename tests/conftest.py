"""What tests share: devices, and small datasets with some structure in them."""

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from functaconv.networks import Placement
from functaconv.packing import pack
from functaconv.training import fit_base
from tests import archives

Shape = tuple[int, ...]

TINY = {
    "network": {"kind": "siren", "width": 16, "depth": 3, "w0_first": 10.0, "w0_hidden": 10.0},
    "latent": {"numbers": 8},
    "training": {"steps": 60, "batch_size": 8, "rate": 2e-3, "warmup": 0.05, "ema": 0.9},
}
"""settings that learn something in about a second"""


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_every_run() -> None:
    torch.manual_seed(0)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files, empty at first."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests are small: on a busy machine of two cores a second thread makes them ten times slower, by waiting."""
    torch.set_num_threads(1)
    # of the processes that tests start, too
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """fsync shows only in a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data."""
    folder = os.environ.get("FUNCTACONV_TEST_DATA")
    if not folder:
        pytest.skip("FUNCTACONV_TEST_DATA is not set")
    return Path(folder)


def in_grid_order(placement: Placement, values: Tensor, points: int) -> Tensor:
    """Values of cells, back in the order of the grid; NaN where none was put."""
    return placement.scatter(values, values.new_full((values.shape[0], points, values.shape[-1]), torch.nan))


def smooth(seed: int, shape: Shape, channels: int) -> np.ndarray:
    """`[*shape, channel]` in 0..1: a few waves and a ball, which a small network can follow."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*((np.arange(size) + 0.5) / size for size in shape), indexing="ij")
    result = np.full((*shape, channels), 0.5)
    for _ in range(3):
        phase = sum(axis * random.uniform(-4, 4) for axis in axes) + random.uniform(0, 6)
        result += np.sin(phase)[..., None] * random.uniform(-0.15, 0.15, channels)
    distance = sum(np.square(axis - random.uniform(0.2, 0.8)) for axis in axes)
    result += (distance < random.uniform(0.01, 0.08))[..., None] * random.uniform(-0.3, 0.3, channels)
    return result.clip(0, 1)


def png(seed: int, shape: Shape, channels: int = 3) -> bytes:
    """A smooth image as a PNG file."""
    codes = np.rint(255 * smooth(seed, shape, channels)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(codes[..., 0] if channels == 1 else codes).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A shard with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archives.tar(members.items(), format=tarfile.USTAR_FORMAT))
    return path


@pytest.fixture(scope="session")
def shards_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Packs files, given by name, with `functaconv.packing.pack`; each set in a folder of its own."""

    def make(files: Mapping[str, bytes], items_per_shard: int = 1000) -> Path:
        source = tmp_path_factory.mktemp("files")
        for name, content in files.items():
            (source / name).write_bytes(content)
        target = tmp_path_factory.mktemp("shards")
        pack(source, target, seed=None, items_per_shard=items_per_shard)
        return target

    return make


@pytest.fixture(scope="session")
def image_shards(shards_of: Callable[..., Path]) -> Callable[..., Path]:
    """Shards of smooth images, their shapes taken in turn."""

    def make(
        count: int,
        shapes: Sequence[Shape] = ((12, 12),),
        channels: int = 3,
        seed: int = 0,
        items_per_shard: int = 1000,
    ) -> Path:
        files = {f"image{n:04d}.png": png(1000 * seed + n, shapes[n % len(shapes)], channels) for n in range(count)}
        return shards_of(files, items_per_shard)

    return make


@pytest.fixture(scope="session")
def array_shards(shards_of: Callable[..., Path]) -> Callable[..., Path]:
    """Shards of smooth float arrays (-20 to 30, say degrees) without a channel axis."""

    def make(count: int, shape: Shape, seed: int = 0) -> Path:
        arrays = (50 * smooth(1000 * seed + n, shape, 1)[..., 0] - 20 for n in range(count))
        return shards_of({f"array{n:04d}.npy": npy(array.astype(np.float32)) for n, array in enumerate(arrays)})

    return make


@pytest.fixture(scope="session")
def images(image_shards: Callable[..., Path]) -> Path:
    """70 RGB images of 12 x 12: more than a block, and no multiple of a batch."""
    return image_shards(70)


@pytest.fixture(scope="session")
def base_file(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base for RGB images with a global latent, learned in a second, for Gauss-Newton steps."""
    return fit_base(str(images), tmp_path_factory.mktemp("base") / "base.safetensors", settings=TINY, device="cpu").path


@pytest.fixture(scope="session")
def spatial_base_file(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 2 x 3 sites."""
    settings = {**TINY, "latent": {"numbers": 4, "sites": [2, 3]}}
    path = tmp_path_factory.mktemp("base") / "spatial.safetensors"
    return fit_base(str(images), path, settings=settings, device="cpu").path


@pytest.fixture(scope="session")
def gradient_base_file(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base learned for gradient steps: its latents are in no particular basis."""
    settings = {**TINY, "solver": {"kind": "gradient"}}
    return fit_base(str(images), tmp_path_factory.mktemp("base") / "gradient", settings=settings, device="cpu").path


@pytest.fixture(scope="session")
def tiny() -> dict[str, dict[str, object]]:
    return {section: dict(values) for section, values in TINY.items()}
