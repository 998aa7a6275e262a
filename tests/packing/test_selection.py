"""What of a source is packed: by content, of one kind, and whatever is not is counted."""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from functaconv.errors import InputError, TooManyFailuresError, UsageError
from functaconv.packing import PackSummary, pack
from functaconv.packing.selection import selected
from tests.archives import members_of

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def image(path: Path, form: str = "PNG", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, form, **options)
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"something")


def shown(folder: Path, **options: object) -> list[str]:
    with selected(folder, **options) as selection:  # type: ignore[arg-type]
        return [file.shown for file in selection.files]


def test_what_is_an_image_is_packed_whatever_it_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    forms = {
        "a.jfif": "JPEG",
        "b.jpe": "JPEG",
        "c.ppm": "PPM",
        "d.jpg": "PNG",
        "e.png": "WEBP",
        "noext": "JPEG",
        "f.0001": "PNG",
    }
    for name, form in forms.items():
        image(folder / name, form, **({"lossless": True} if form == "WEBP" else {}))
    touch(folder / "Thumbs.db", folder / "README")
    (folder / "html.jpg").write_bytes(b"<html>404</html>")
    (folder / "zero.jpg").write_bytes(b"")
    summary = pack(folder, tmp_path / "shards")
    assert (summary.count, summary.failed) == (7, 2)
    assert {failure.path: failure.reason.partition("found ")[2] for failure in summary.failures} == {
        "html.jpg": "HTML, SVG or XML",
        "zero.jpg": "nothing (an empty file)",
    }
    assert summary.ignored == {
        ".db": 1,
        "(no suffix)": 1,
        "suffix .jpg for PNG data": 1,
        "suffix .png for WebP data": 1,
    }
    found = members_of(tmp_path / "shards")
    assert sorted(found) == ["a.jfif", "b.jpe", "c.ppm", "d.png", "e.webp", "f.png", "noext.jpg"]
    for name in ("c.ppm", "d.png", "e.webp"):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found[name]))), PIXELS)


@pytest.mark.parametrize(
    ("names", "counts", "fields"),
    [
        (["a.nc", "quick.png"], "1 nc, 1 png", "--field nc, or --field png"),
        (["a.npy", "b.npy", "c.JPG"], "2 npy, 1 jpg", "--field npy, or --field jpg"),
        (["a.off", "a.png"], "1 off, 1 png", "--field off --resolution N, or --field png"),
    ],
)
def test_files_of_several_kinds_ask_for_a_choice(
    tmp_path: Path, names: Iterable[str], counts: str, fields: str
) -> None:
    touch(*(tmp_path / name for name in names))
    with pytest.raises(InputError, match="holds files of several kinds") as caught:
        pack(tmp_path, tmp_path / "shards")
    assert str(caught.value).endswith(counts)
    assert caught.value.hint == f"choose one with {fields}"
    assert caught.value.exit_code == 65


def shapenet(folder: Path, models: int = 3) -> Path:
    for number in range(models):
        model = folder / f"0269{number % 2}" / f"model{number}"
        image(model / "images" / "texture0.jpg", "JPEG")
        image(model / "screenshots" / f"{number}-0.png")
        names = ("obj", "mtl", "json", "solid.binvox", "surface.binvox")
        touch(*(model / "models" / f"model_normalized.{name}" for name in names))
    return folder


def test_a_folder_of_shapenet_asks_which_form_of_its_models(tmp_path: Path) -> None:
    folder = shapenet(tmp_path / "shapenet")
    with pytest.raises(InputError) as caught:
        pack(folder, tmp_path / "shards")
    for form in ("jpg", "obj", "png", "solid.binvox", "surface.binvox"):
        assert f"3 {form}" in str(caught.value)
        assert f"--field {form}" in str(caught.value.hint)
    assert "--field obj --resolution N" in str(caught.value.hint)
    with selected(folder, field="solid.binvox") as selection:
        assert [file.key for file in selection.files] == [
            f"0269{number % 2}/model{number}/models/model_normalized_solid" for number in (0, 2, 1)
        ]
        assert selection.classes == ("02690", "02691")
        besides = {f"{other} beside solid.binvox": 3 for other in ("binvox", "jpg", "obj", "png")}
        assert selection.ignored == {**besides, ".json": 3, ".mtl": 3}
    assert len(shown(folder, field="obj")) == 3
    # both forms of each model once more
    with pytest.raises(InputError, match=r"3 of 3 names in several forms: 3 solid\.binvox, 3 surface\.binvox"):
        shown(folder, field="binvox")


def test_photographs_with_a_mask_beside_each_ask_for_a_choice(tmp_path: Path) -> None:
    for number in range(4):
        image(tmp_path / f"{number}.jpg", "JPEG")
        image(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match="4 of 4 names in several forms: 4 jpg, 4 png") as caught:
        shown(tmp_path)
    assert caught.value.hint == "choose one with --field jpg, or --field png"
    assert shown(tmp_path, field="jpg") == [f"{number}.jpg" for number in range(4)]


def test_some_names_in_two_forms_and_words_between_dots_are_no_question(tmp_path: Path) -> None:
    touch(*(tmp_path / f"img.{number:04d}.png" for number in range(5)), tmp_path / "img.0001.jpg")
    touch(tmp_path / "john.smith.png", tmp_path / "john.doe.png", tmp_path / "jane.smith.png")
    assert len(shown(tmp_path)) == 9


def test_a_field_stands_for_all_suffixes_of_its_format(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "b.JPEG", tmp_path / "c.jfif", tmp_path / "d.png", tmp_path / "e.x.jpg")
    assert shown(tmp_path, field="jpg") == ["a.jpg", "b.JPEG", "c.jfif", "e.x.jpg"]
    assert shown(tmp_path, field="x.jpg") == ["e.x.jpg"]


def test_what_is_no_field_is_a_usage_error(tmp_path: Path) -> None:
    for field in ["mtl", "txt", "png:x", "npz:", "solid.txt"]:
        with pytest.raises(UsageError, match="not a field"):
            pack(tmp_path, tmp_path / "shards", field=field)


def test_everything_that_is_not_packed_is_counted_by_kind(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for number in range(3):
        image(folder / f"{number}.png")
        touch(folder / f"._{number}.png", folder / f"{number}.txt", folder / f"{number}.json")
    touch(folder / ".DS_Store", folder / "notes.doc", folder / "LICENSE")
    (folder / "loop").symlink_to(folder)
    summary = pack(folder, tmp_path / "shards")
    assert summary.count == 3
    assert summary.ignored == {
        "(hidden)": 1,
        "(no suffix)": 1,
        "._ files of macOS": 3,
        ".doc": 1,
        "captions in files of their own": 6,
        "links that lead back": 1,
    }
    assert json.loads((tmp_path / "shards" / "pack.json").read_text())["ignored"] == summary.ignored


def test_where_nothing_is_left_the_counts_are_told_too(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    touch(folder / "a.doc", folder / "._a.png", folder / "b.heic")
    with pytest.raises(
        InputError, match=r"none of the 1 files.*heic images are not read.*1 \.doc.*1 \._ files of macOS"
    ):
        pack(folder, tmp_path / "shards")
    (folder / "b.heic").unlink()
    with pytest.raises(InputError, match=r"found 1 \.doc.*; 1 \._ files of macOS"):
        pack(folder, tmp_path / "shards")


def packed(folder: Path, target: Path, **options: object) -> PackSummary:
    return pack(folder, target, overwrite=True, **options)  # type: ignore[arg-type]


def test_more_failures_than_allowed_are_a_complaint(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for number in range(9):
        image(folder / f"{number}.png")
    (folder / "cut.png").write_bytes(b"")
    complaint = packed(folder, tmp_path / "shards").complaint
    assert isinstance(complaint, TooManyFailuresError)
    assert complaint.exit_code == 3
    assert str(complaint).startswith("1 of 10 items failed, more than --max-error-rate 0.01; the first: cut.png: png:")
    assert len(members_of(tmp_path / "shards")) == 9
    assert packed(folder, tmp_path / "shards", max_error_rate=0.1).complaint is None
    (folder / "cut.png").unlink()
    assert packed(folder, tmp_path / "shards", max_error_rate=0).complaint is None


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_threads_change_nothing(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "folder"
    for number in range(23):
        path = folder / f"{number:02d}.png"
        # the first ones take longest
        Image.fromarray(np.full((400 // (number + 1), 400, 3), number, np.uint8)).save(image(path))
        if number % 7 == 3:
            path.write_bytes(path.read_bytes()[:40])
    alone = packed(folder, tmp_path / "alone", workers=0, items_per_shard=5)
    several = packed(folder, tmp_path / "several", workers=workers, items_per_shard=5)
    assert several == alone
    for name in os.listdir(tmp_path / "alone"):  # noqa: PTH208
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "several" / name).read_bytes()
