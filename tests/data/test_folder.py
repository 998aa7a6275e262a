"""Keys of files: safe in tars and as file names."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from functaconv.data.folder import clean_key


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
