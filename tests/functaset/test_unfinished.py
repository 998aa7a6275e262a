"""What somebody made of an unfinished functaset is told with the file's name, before it is believed."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.errors import FunctaconvError, InputError
from functaconv.functaset import Block
from functaconv.functaset.blocks import read_block
from functaconv.inspection import inspect

from . import conftest
from .conftest import LAYOUTS, begin, block_of

LAYOUT = LAYOUTS["global"]
FIRST = "000000-000000.npz"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """All is done but sealing."""
    path = tmp_path / "out.zarr"
    parts = begin(path, LAYOUT)
    for number in range(2):
        parts.write(block_of(LAYOUT, 0, number, is_last=number == 1))
    return path


def finish(path: Path) -> None:
    """As `encode` goes on."""
    begin(path, LAYOUT)
    conftest.finish(path, LAYOUT, 1)


def test_what_is_sound_is_finished(store: Path) -> None:
    found = inspect(store, verify=True)
    assert found.problems == []
    assert (found.facts["shards_done"], found.facts["records_done"]) == (1, 12)
    finish(store)


Change = Callable[[Any], Any]
EDITS: dict[str, Change] = {
    "text": lambda _: "x",
    "no format": lambda settings: {**settings, "format": "x"},
    "another version": lambda settings: {**settings, "version": 1},
    "no budgets": lambda settings: settings.pop("budgets") and settings,
    "budgets of text": lambda settings: {**settings, "budgets": "x"},
    "a negative budget": lambda settings: {**settings, "budgets": {"batch_size": -1, "chunk": 4}},
    "an endless budget": lambda settings: {**settings, "budgets": {"batch_size": 10**30, "chunk": 4}},
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS.keys())
def test_edited_settings_are_told(store: Path, change: Change) -> None:
    file = store / "_parts/settings.json"
    file.write_text(json.dumps(change(json.loads(file.read_bytes()))))
    with pytest.raises(FunctaconvError, match=r"settings\.json|not a functaset|other settings"):
        finish(store)


FACTS: dict[str, Change] = {
    "no stop": lambda facts: facts.pop("stop") and facts,
    "a negative start": lambda facts: {**facts, "start": -1},
    "an endless stop": lambda facts: {**facts, "stop": 10**30},
    "rows of text": lambda facts: {**facts, "rows": "5"},
    "other rows": lambda facts: {**facts, "rows": 7},
    "a source of text": lambda facts: {**facts, "source": "x"},
    "failures of numbers": lambda facts: {**facts, "failures": [1]},
}


@pytest.mark.parametrize("change", FACTS.values(), ids=FACTS.keys())
def test_edited_facts_of_a_block_are_told(store: Path, change: Change) -> None:
    file = store / "_parts" / FIRST
    members = members_of(file)
    facts = json.loads(np.load(io.BytesIO(members["facts.npy"])).tobytes())
    text = np.frombuffer(json.dumps(change(facts)).encode(), np.uint8)
    file.write_bytes(npz({**members, "facts.npy": npy(text)}))
    with pytest.raises(InputError, match=rf"{FIRST}: damaged") as caught:
        finish(store)
    assert f"delete {file}" in str(caught.value.hint)


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def members_of(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


BLOCKS: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "compressed": (lambda members: npz(members, zipfile.ZIP_DEFLATED), "compressed"),
    "one row more": (lambda members: npz({**members, "mse.npy": npy(np.zeros(6, np.float32))}), "mse: expected"),
    "other numbers": (lambda members: npz({**members, "label.npy": npy(np.zeros(5))}), "label: expected"),
    "keys of numbers": (lambda members: npz({**members, "keys.npy": npy(np.frombuffer(b"[1,2]", "u1"))}), "string"),
    "facts of a list": (lambda members: npz({**members, "facts.npy": npy(np.frombuffer(b"[]", "u1"))}), "facts"),
    "no facts": (lambda members: npz({"mse.npy": members["mse.npy"]}), "facts"),
}


@pytest.mark.parametrize(("change", "message"), BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_that_is_not_ours_is_told(
    store: Path, change: Callable[[dict[str, bytes]], bytes], message: str
) -> None:
    file = store / "_parts" / FIRST
    file.write_bytes(change(members_of(file)))
    (problem,) = inspect(store, verify=True).problems
    assert f"{FIRST}: damaged" in problem
    with pytest.raises(InputError, match=FIRST) as caught:
        finish(store)
    assert f"delete {file}" in str(caught.value.hint)
    assert message in problem or message == "facts"


def test_a_member_may_not_claim_more_than_the_file_holds(store: Path) -> None:
    file = store / "_parts" / FIRST
    content = bytearray(file.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (1 << 31).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(InputError, match="larger than the file"):
        read_block(file, within=store)


@pytest.mark.parametrize("name", ["settings.json", FIRST])
@pytest.mark.parametrize("how", ["endless", "pipe", "out"])
def test_links_and_devices_are_not_followed(store: Path, name: str, how: str) -> None:
    place = store / "_parts" / name
    outside = store.parent / "outside"
    place.rename(outside)
    if how == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to({"out": outside, "endless": "/dev/zero"}[how])
    # without settings it is no functaset of ours
    with pytest.raises(FunctaconvError, match="not a functaset" if name == "settings.json" else name):
        finish(store)


def test_a_link_in_the_place_of_an_array_is_not_written_through(store: Path) -> None:
    outside = store.parent / "outside"
    outside.mkdir()
    (store / "mse").symlink_to(outside)
    finish(store)
    assert list(outside.iterdir()) == []
    assert not (store / "mse").is_symlink()


def test_masks_and_grids_that_are_not_there_are_told() -> None:
    block: Block = block_of(LAYOUT, 0, 0)
    with pytest.raises(ValueError, match="grids are not given"):
        block.check(LAYOUT.model_copy(update={"modality": "grid"}))
