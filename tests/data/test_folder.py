"""A folder as a list of candidates: complete, in one order, with keys that are safe in tars and as file names."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functaconv.data.folder import clean_key, walk
from functaconv.errors import InputError


def is_image(path: Path) -> bool:
    return path.suffix.lower() in (".png", ".jpg")


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def keys(folder: Path) -> list[str]:
    return [candidate.key for candidate in walk(folder, is_image).candidates]


def test_colliding_keys_are_numbered(tmp_path: Path) -> None:
    fill(tmp_path, "a.b.png", "a_b.jpg", "a_b.png", "a_b_2.png")
    found = keys(tmp_path)
    assert found == ["a_b", "a_b_2", "a_b_3", "a_b_2_2"]
    assert len(set(found)) == 4


def test_classes_are_the_sub_folders_when_every_file_lies_in_one(tmp_path: Path) -> None:
    fill(tmp_path, "dog/a.png", "cat/b.png", "cat/kitten/c.png", "notes.txt", "empty/x.txt")
    folder = walk(tmp_path, is_image)
    assert folder.classes == ("cat", "dog")
    assert [(candidate.key, candidate.label) for candidate in folder.candidates] == [
        ("cat/b", 0),
        ("cat/kitten/c", 0),
        ("dog/a", 1),
    ]
    fill(tmp_path, "top.png")
    folder = walk(tmp_path, is_image)
    assert folder.classes == ()
    assert {candidate.label for candidate in folder.candidates} == {-1}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path, "root/a/x.png", "elsewhere/y.png")
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/broken.png").symlink_to(tmp_path / "nowhere")
    assert keys(tmp_path / "root") == ["a/x", "broken", "other/y"]
    assert walk(tmp_path / "root", is_image).ignored == {"links that lead back": 1}


def test_a_folder_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the folder"):
        walk(tmp_path / "missing", is_image)


def test_keys_are_cleaned() -> None:
    for name, key in [
        ("a/b", "a/b"),
        ("../a", "a"),
        ("/abs/a", "abs/a"),
        ("a/../b", "a/b"),
        ("a\x00\n\x7fb", "a___b"),
        ("a\\b", "a_b"),
        ("", "_"),
        ("..", "_"),
        ("...", "___"),
        ("__meta__/a", "meta/a"),
        ("é", "é"),
        (os.fsdecode(b"\xff"), "_xff"),
    ]:
        assert clean_key(name) == key


def test_long_names_keep_their_start_and_stay_apart() -> None:
    first, second = clean_key("d/" + "a" * 200 + "1"), clean_key("d/" + "a" * 200 + "2")
    assert first != second
    assert first.startswith("d_aaaa")
    assert len(first) <= 85


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_every_key_is_short_safe_and_without_dots(name: str) -> None:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # not a name that a file system gives
        return
    key = clean_key(name)
    directory, _, base = key.rpartition("/")
    assert base
    assert "." not in key
    assert key.isprintable() or not any(ord(character) < 32 for character in key)
    assert len(base.encode()) <= 85
    assert len(directory.encode()) <= 150
