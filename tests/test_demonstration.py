"""The demo makes what it promises, again and again, and takes nobody's directory."""

import csv
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from functaconv.cli.app import run
from functaconv.demonstration import MARKER, ZOOM, _next_steps
from functaconv.functaset.reader import open_functaset

pytest.importorskip("sklearn")
MINUTES = "0.03"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """What the command makes, where an earlier demo was stopped, and what it says."""
    folder = tmp_path_factory.mktemp("demo") / "here"
    (folder / "renders").mkdir(parents=True)
    (folder / "renders" / "old.png").touch()
    (folder / MARKER).touch()
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        assert run(["demo", str(folder), "--minutes", MINUTES, "--json", "--device", "cpu"]) == 0
    return folder, output.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def folder(told: tuple[Path, str, str]) -> Path:
    return told[0]


def test_the_contact_sheet_shows_pictures(folder: Path) -> None:
    with Image.open(folder / "contact-sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.std() > 20


def test_the_report_compares_with_the_data_and_with_pca(folder: Path) -> None:
    functaset = open_functaset(folder / "test.zarr")
    report = functaset.report
    assert report["failed"] == 0
    assert 8 < report["psnr"]["mean"] < 60
    with (folder / "items.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(functaset)


def test_renders_are_eight_times_the_size(folder: Path) -> None:
    renders = sorted((folder / "renders").iterdir())
    assert len(renders) >= 4
    side = int(open_functaset(folder / "test.zarr").shapes[0, 0])
    for path in renders:
        with Image.open(path) as picture:
            assert picture.size == (ZOOM * side, ZOOM * side)


def test_no_pixel_of_validation_or_test_images_is_in_a_training_image(folder: Path) -> None:
    def tiles(split: str) -> set[bytes]:
        found = set()
        for path in (folder / "images" / split).rglob("*.png"):
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


def test_it_tells_its_steps_and_its_numbers(told: tuple[Path, str, str]) -> None:
    _, output, errors = told
    summary = json.loads(output)
    assert summary["count"] > 50
    assert {"psnr", "difference"} <= summary["pca"].keys()
    assert summary["against"]["items"] == summary["count"]
    assert [line[0] for line in errors.splitlines() if line[1:3] == "/5"] == list("12345")


def test_it_replaces_an_earlier_demo(folder: Path) -> None:
    assert not (folder / "renders" / "old.png").exists()


def test_it_takes_no_directory_that_is_not_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run(["demo", str(tmp_path), "--minutes", MINUTES]) == 73
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "error: " in capfd.readouterr().err


def test_the_next_steps_are_commands(folder: Path) -> None:
    steps = _next_steps(folder)
    commands = {"pack", "fit-base", "encode", "report", "render", "inspect"}
    assert {step.split()[1] for step in steps} <= commands
    assert all(step.startswith("functaconv ") for step in steps)
