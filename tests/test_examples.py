"""Every example runs as it is, on data it makes up, with seconds of training in place of minutes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import npy, png, smooth, tar

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"images": ("sklearn",), "voxels": ("trimesh", "skimage"), "era5": ("netCDF4", "matplotlib")}
MAKES = {
    "images": ("images.zarr", "large"),
    "voxels": ("shapes.zarr", "surfaces", "previews"),
    "era5": ("fields.zarr", "twice.nc", "fields.png"),
}


LEARNING = {
    "classify-images": ("images", "--epochs", "1", "--width", "8", "--views", "2"),
    "classify-voxels": ("voxels", "--epochs", "1", "--seeds", "1", "--views", "2"),
    "explore": ("images", "--sites", "4x4x4", "--minutes", "0.05"),
    "forecast-weather": ("grids", "--epochs", "1"),
    "generate-faces": ("images", "--epochs", "2", "--width", "16"),
    "super-resolve": ("images", "--epochs", "1"),
}
"""what functasets are for: the kind of data, and settings that make seconds of minutes"""


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == {*NEEDS, *LEARNING}


def shards_of(kind: str, folder: Path) -> Path:
    """`train-0.tar` and `test-0.tar` with labels, hours and classes, as the real data have them."""
    for split, count in (("train", 70), ("test", 12)):
        members: dict[str, bytes] = {}
        for number in range(count):
            name, seed = f"{split}{number:03d}", number + (100 if split == "test" else 0)
            if kind == "images":
                members |= {f"{name}.png": png(seed, (32, 32)), f"{name}.cls": str(seed % 3).encode()}
            elif kind == "voxels":
                volume = io.BytesIO()
                np.savez_compressed(volume, occupancy=(smooth(seed, (8, 8, 8), 1)[..., 0] > 0.5).astype(np.uint8))
                members |= {f"{name}.npz": volume.getvalue(), f"{name}.cls": str(seed % 3).encode()}
            else:
                about = {"variable": "t2m", "units": "K", "time": f"2019-03-0{1 + seed // 24}T{seed % 24:02d}:00:00",
                         "latitude": list(range(58, 48, -1)), "longitude": list(range(12))}  # fmt: skip
                field = (280 + 9 * smooth(seed, (10, 12), 1)[..., 0]).astype(np.float32)
                members |= {f"{name}.npy": npy(field), f"{name}.json": json.dumps(about).encode()}
        tar(folder / f"{split}-0.tar", members)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_an_example_of_learning_runs_on_a_little_data(name: str, tmp_path: Path) -> None:
    kind, *options = LEARNING[name]
    data, work = shards_of(kind, tmp_path / "data"), tmp_path / "work"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, EXAMPLES / name / "run.py", data, work, *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=270, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    made = json.loads((work / "result.json").read_text())
    kept = json.loads((EXAMPLES / name / "result.json").read_text())
    assert made.keys() == kept.keys()
    assert made["task"] == kept["task"] == name


@pytest.mark.parametrize("name", LEARNING)
def test_an_example_of_learning_is_short_and_its_numbers_stand_in_the_readme(name: str) -> None:
    folder = EXAMPLES / name
    assert len((folder / "run.py").read_text().splitlines()) < 150
    result = json.loads((folder / "result.json").read_text())
    assert result.keys() >= {"task", "data", "ours", "rival", "numbers", "minutes", "commit", "command"}
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert f"| {result['ours']} | {result['rival']} |" in readme
    page = (folder / "README.md").read_text()
    assert "run.py" in page
    for picture in folder.glob("*.png"):
        assert picture.name in page
        assert picture.stat().st_size <= 300 << 10


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_runs_without_data_of_ones_own(name: str, tmp_path: Path) -> None:
    for package in NEEDS[name]:
        pytest.importorskip(package)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MINUTES": "0.05",
        "OMP_NUM_THREADS": "1",
    }
    # without a file: the script makes one up
    ran = subprocess.run(
        ["/bin/sh", EXAMPLES / name / "run.sh", "", tmp_path / "work"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=270, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    for made in MAKES[name]:
        assert (tmp_path / "work" / made).exists(), made


@pytest.mark.parametrize("name", [*NEEDS, *LEARNING])
def test_an_example_says_what_it_is_for_and_its_recipe_is_valid(name: str) -> None:
    from functaconv.recipe import Recipe
    from functaconv.settings import from_toml

    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert ("run.sh" if name in NEEDS else "run.py") in page
    Recipe().changed(from_toml(EXAMPLES / name / "recipe.toml"))
