"""Keys as names of files: what others wrote into an archive does not choose where we write."""

import unicodedata
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from functaconv.rendering.output import Names

NASTY = [
    "../x", "/abs", "a/../../x", "..", ".", "", " ", ". .", ".hidden", " .hidden", "\u3000.hidden", "a\0b", "a\nb",
    "C:\\x", "C:/x", "\\\\server\\x", "x" * 400, "é" * 300, "\U0001f600" * 99, "a.", "a ", "CON", "nul", "Com1.x",
    "aux .tar", "a\x85b", "a\u202egnp", "\udcff", "a\u2028b", "a|b", "a?b", "*",
]  # fmt: skip
KEYS = st.one_of(st.text(), st.sampled_from(NASTY), st.text(st.sampled_from("ab./\\ :A\u0301\u00e1\0\ud800")))


@settings(max_examples=50, deadline=None)
@given(keys=st.lists(KEYS, max_size=12), suffix=st.sampled_from(["png", "npz", "binvox"]))
def test_every_key_is_one_short_name_of_its_own(keys: list[str], suffix: str) -> None:
    names = Names(suffix)
    made = [names(key) for key in keys]
    for name in made:
        assert Path(name).name == name
        assert not name.startswith((".", " "))
        assert len(name.encode()) <= 100
        assert name.endswith(f".{suffix}")
        assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
        assert not set(name) & set('\\/:*?"<>|\u202e')
        assert name.partition(".")[0].strip().upper() not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT9")
    # macOS and Windows tell neither case nor spellings of an accent apart
    alike = {unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()) for name in made}
    assert len(alike) == len(keys)


def test_files_land_where_they_should(tmp_path: Path) -> None:
    inside = tmp_path / "out"
    inside.mkdir()
    names = Names("png")
    for number, key in enumerate(NASTY):
        (inside / names(key)).write_bytes(b"")
        assert len(list(inside.iterdir())) == number + 1, key
        assert list(tmp_path.iterdir()) == [inside], key
