"""Every block of the README runs, in order, as a reader would run it, and the demo makes what it promises."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from functaconv.cli.app import run
from functaconv.demonstration import MARKER, ZOOM
from functaconv.functaset.opening import open_functaset

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:<!-- (?P<kind>[\w ]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
BLOCKS = [match.groupdict() for match in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]

# the blocks run once
pytestmark = pytest.mark.xdist_group("readme")


def test_the_set_up_and_the_test_command_are_those_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    set_up, tests = (block["code"] for kind in ("set up", "tests") for block in BLOCKS if block["kind"] == kind)
    assert len(set_up.strip().splitlines()) == 2
    assert set_up.strip().splitlines()[1] in ci.splitlines()
    assert tests.strip() in ci.splitlines()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    """Where the blocks were run, beginning with the demo, and what each said."""
    pytest.importorskip("sklearn")
    pytest.importorskip("xarray")
    folder = tmp_path_factory.mktemp("readme")
    # an earlier demo was stopped here
    (folder / "functaconv-demo" / "renders").mkdir(parents=True)
    (folder / "functaconv-demo" / "renders" / "old.png").touch()
    (folder / "functaconv-demo" / MARKER).touch()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FUNCTACONV_DEMO_MINUTES": "0",
        "FUNCTACONV_FIT_BASE_MINUTES": "0",
    }
    script = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}
    blocks = []
    for block in BLOCKS:
        if block["kind"] is not None:
            continue
        # head may close the pipe early: that is what the block shows
        code = block["code"].replace("| head -3", "| (head -3; cat >/dev/null)")
        done = subprocess.run(
            [*script[block["language"]], code],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{block['code']}\n{done.stdout}\n{done.stderr}"
        blocks.append(done)
    return folder, blocks


@pytest.fixture
def demo(told: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> Path:
    return told[0] / "functaconv-demo"


@pytest.mark.slow
def test_all_blocks_run_in_order(told: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    folder, blocks = told
    assert len(blocks) == 10
    assert len(list((folder / "pictures").iterdir())) == 4
    assert [line[0] for line in blocks[0].stderr.splitlines() if line[1:3] == "/5"] == list("12345"), "the steps"
    following = [line.split()[1] for line in blocks[0].stdout.splitlines() if line.strip().startswith("functaconv ")]
    assert following == ["pack", "fit-base", "encode", "report", "render", "inspect"]


@pytest.mark.slow
def test_the_demo_replaces_an_earlier_one(demo: Path) -> None:
    assert not (demo / "renders" / "old.png").exists()


@pytest.mark.slow
def test_the_contact_sheet_shows_pictures(demo: Path) -> None:
    with Image.open(demo / "contact-sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.std() > 20


@pytest.mark.slow
def test_the_demo_compares_with_the_data(demo: Path) -> None:
    functaset = open_functaset(demo / "test.zarr")
    report = functaset.report
    assert report["failed"] == 0
    assert 8 < report["psnr"]["mean"] < 60
    with (demo / "items.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(functaset) > 50


@pytest.mark.slow
def test_renders_are_eight_times_the_size(demo: Path) -> None:
    renders = sorted((demo / "renders").iterdir())
    assert len(renders) >= 4
    side = int(open_functaset(demo / "test.zarr").shapes[0, 0])
    for path in renders:
        with Image.open(path) as picture:
            assert picture.size == (ZOOM * side, ZOOM * side)


@pytest.mark.slow
def test_no_pixel_of_validation_or_test_images_is_in_a_training_image(demo: Path) -> None:
    def tiles(split: str) -> set[bytes]:
        found = set()
        for path in (demo / "images" / split).rglob("*.png"):
            with Image.open(path) as image:
                # blocks within tiles: overlapping tiles would share some
                pixels = np.asarray(image)
            found |= {
                pixels[row : row + 8, column : column + 8].tobytes()
                for row in range(0, pixels.shape[0] - 7, 2)
                for column in range(0, pixels.shape[1] - 7, 2)
                if pixels[row : row + 8, column : column + 8].std() > 8
            }
        return found

    train, validation, test = tiles("train"), tiles("validation"), tiles("test")
    assert min(len(validation), len(test)) > 100
    assert not train & (validation | test)


def test_the_demo_takes_no_directory_that_is_not_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run(["demo", str(tmp_path), "--minutes", "0"]) == 73
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "error: " in capfd.readouterr().err
