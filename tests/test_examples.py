"""Every example runs as it is, on data it makes up, with seconds of training in place of minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"images": ("sklearn",), "voxels": ("trimesh", "skimage"), "era5": ("netCDF4", "matplotlib")}
MAKES = {
    "images": ("images.zarr", "large"),
    "voxels": ("shapes.zarr", "surfaces", "previews"),
    "era5": ("fields.zarr", "twice.nc", "fields.png"),
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(NEEDS)


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


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_says_what_it_is_for_and_its_recipe_is_valid(name: str) -> None:
    from functaconv.recipe import Recipe
    from functaconv.settings import from_toml

    assert "run.sh" in (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    Recipe().changed(from_toml(EXAMPLES / name / "recipe.toml"))
