"""What is particular to a modality is in its own file: its words occur nowhere else, but where they are listed."""

import re
from pathlib import Path

import functaconv

PACKAGE = Path(functaconv.__file__).parent
WORDS = re.compile(r"(?<!data:)\b(images?|Images|[Vv]oxels?|[Ll]atitudes?|[Ll]ongitudes?|[Oo]ccupan\w*|[Oo]ccupied)\b")
KINDS = re.compile(r"""\b(kind|modality)\s*(==|!=|in)\s*\(?["'](image|voxels|grid|array)["']""")
PLACES = {
    "modalities/": "where they belong",
    "data/": "readers and decoders of their formats",
    "packing/": "the same",
    "cli/": "help texts",
    "demonstration.py": "an example",
    "presets.py": "presets",
    "defaults.py": "those that size themselves",
    "recipe.py": "help texts of settings",
    "conversion/options.py": "help texts of options",
    "training/options.py": "help texts of options",
    "rendering/latents.py": "says what decoded values mean",
    "rendering/workflow.py": "the help text of `render`",
    "rendering/formats/binvox.py": "a format of one modality",
    "rendering/formats/netcdf.py": "a format of one modality",
    "rendering/formats/obj.py": "a format of one modality",
    "rendering/formats/png.py": "says what png can hold",
    "functaset/grids.py": "the names of coordinates on disk",
    "signals/grid.py": "a hint at options of the command line",
    "networks/fourier.py": "says which setting helps",
}


def modules() -> dict[str, str]:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}


def test_words_of_modalities_stay_in_their_places() -> None:
    strangers = [
        f"{name}: {line.strip()}"
        for name, text in modules().items()
        if not name.startswith(tuple(PLACES))
        for line in text.splitlines()
        if WORDS.search(line)
    ]
    assert not strangers


def test_every_place_needs_its_entry() -> None:
    found = {name for name, text in modules().items() if WORDS.search(text)}
    for place in PLACES:
        assert any(name.startswith(place) for name in found), place


def test_nobody_else_asks_for_the_kind_by_name() -> None:
    asking = {name for name, text in modules().items() if KINDS.search(text)}
    assert {name for name in asking if not name.startswith(("modalities/", "packing/"))} == set()
