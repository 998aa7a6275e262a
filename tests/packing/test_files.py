"""A folder as a list of files: complete, in one order, each with a key of its own."""

from pathlib import Path

import pytest

from functaconv.errors import InputError
from functaconv.packing.files import walk


def look(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return suffix[1:] if suffix in (".png", ".jpg") else None


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def keys(folder: Path) -> list[str]:
    return [file.key for file in walk(folder, look).files]


def test_colliding_keys_are_numbered(tmp_path: Path) -> None:
    fill(tmp_path, "a.b.png", "a_b.jpg", "a_b.png", "a_b_2.png")
    found = keys(tmp_path)
    assert found == ["a_b", "a_b_2", "a_b_3", "a_b_2_2"]
    assert len(set(found)) == 4


def test_classes_are_the_sub_folders_when_every_file_lies_in_one(tmp_path: Path) -> None:
    fill(tmp_path, "dog/a.png", "cat/b.png", "cat/kitten/c.png", "notes.txt", "empty/x.txt")
    folder = walk(tmp_path, look)
    assert folder.classes == ("cat", "dog")
    assert [(file.key, file.label) for file in folder.files] == [
        ("cat/b", 0),
        ("cat/kitten/c", 0),
        ("dog/a", 1),
    ]
    fill(tmp_path, "top.png")
    folder = walk(tmp_path, look)
    assert folder.classes == ()
    assert {file.label for file in folder.files} == {-1}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path, "root/a/x.png", "elsewhere/y.png")
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/broken.png").symlink_to(tmp_path / "nowhere")
    assert keys(tmp_path / "root") == ["a/x", "broken", "other/y"]
    assert walk(tmp_path / "root", look).ignored == {"links that lead back": 1}


def test_a_folder_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the folder"):
        walk(tmp_path / "missing", look)
