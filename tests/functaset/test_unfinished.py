"""What somebody made of an unfinished functaset is told with the file's name, before it is believed."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.errors import InputError
from functaconv.functaset import Block, FunctasetWriter, Part, Range
from functaconv.functaset.blocks import read_block
from functaconv.functaset.claims import Claims, Owner
from functaconv.verification import inspect

from .conftest import LAYOUTS, block_of, quantiser_of

LAYOUT = LAYOUTS["global"]
SETTINGS = {"shards": ["a.tar"]}
SOURCE = {"size": 100}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """All is done but putting it together."""
    writer = FunctasetWriter.open(tmp_path / "out.zarr", LAYOUT, SETTINGS)
    writer.ranges(0, lambda: [Range(0, 6, None, is_counted=True), Range(6, None, (5, 512), is_counted=True)])
    for number in range(2):
        part = Part(0, number)
        writer.begin(part, SOURCE)
        writer.commit(part, 0, block_of(LAYOUT, 0, number))
        writer.end(part, 6 * number + 6, 6 * number)
    return writer.path


def finish(path: Path) -> None:
    """As `encode` goes on."""
    writer = FunctasetWriter.open(path, LAYOUT, SETTINGS)
    for number, _ in enumerate(writer.ranges(0, list)):
        writer.begin(Part(0, number), SOURCE)
    writer.unfinished(1)
    writer.assemble(quantiser_of(LAYOUT))


def test_what_is_sound_is_finished(store: Path) -> None:
    assert inspect(store, verify=True).problems == []
    finish(store)


Change = Callable[[Any], Any]
EDITS: dict[str, tuple[str, Change]] = {
    "done of text": ("000000/done.json", lambda _: "x"),
    "no blocks": ("000000/done.json", lambda done: done.pop("blocks") and done),
    "negative end": ("000000/done.json", lambda done: {**done, "end": -1}),
    "endless end": ("000000/done.json", lambda done: {**done, "end": 10**30}),
    "rows of text": ("000000/done.json", lambda done: {**done, "totals": {**done["totals"], "rows": "5"}}),
    "odd totals": ("000000/done.json", lambda done: {**done, "totals": [1]}),
    "no ranges": ("000000.ranges.json", lambda _: []),
    "a range of nothing": ("000000.ranges.json", lambda _: [None]),
    "a begin of text": ("000000.ranges.json", lambda ranges: [ranges[0], {**ranges[1], "begin": ["a", "b"]}]),
    "a short begin": ("000000.ranges.json", lambda ranges: [ranges[0], {**ranges[1], "begin": [1]}]),
    "ranges with a gap": ("000000.ranges.json", lambda ranges: [ranges[0], {**ranges[1], "start": 7, "begin": None}]),
    "a range backwards": ("000000.ranges.json", lambda ranges: [{**ranges[0], "start": 0, "stop": -5}, ranges[1]]),
    "a source of text": ("000000/source.json", lambda _: "x"),
}


@pytest.mark.parametrize(("name", "change"), EDITS.values(), ids=EDITS.keys())
def test_an_edited_file_is_named_with_what_to_do(store: Path, name: str, change: Change) -> None:
    file = store / "_parts" / name
    file.write_text(json.dumps(change(json.loads(file.read_bytes()))))
    with pytest.raises(InputError) as caught:
        finish(store)
    assert str(file) in str(caught.value)
    assert f"delete {file}" in str(caught.value.hint)
    if "source" not in name:
        with pytest.raises(InputError, match=r"\.json"):
            inspect(store)


def test_totals_that_the_blocks_do_not_have_are_not_sealed(store: Path) -> None:
    file = store / "_parts/000000/done.json"
    done = json.loads(file.read_bytes())
    done["totals"]["rows"] = 10**9
    file.write_text(json.dumps(done))
    with pytest.raises(InputError, match=r"done\.json: damaged: the blocks hold"):
        finish(store)


def test_a_part_of_another_input_is_told(store: Path) -> None:
    (store / "_parts/000777").mkdir()
    with pytest.raises(InputError, match="000777: no part of this input"):
        finish(store)
    with pytest.raises(InputError, match="000777"):
        inspect(store)


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
    file = store / "_parts/000000/000000.npz"
    file.write_bytes(change(members_of(file)))
    (problem,) = inspect(store, verify=True).problems
    assert "000000.npz: damaged" in problem
    with pytest.raises(InputError, match=r"000000\.npz") as caught:
        finish(store)
    assert f"delete {file}" in str(caught.value.hint)
    assert message in problem or message == "facts"


def test_a_member_may_not_claim_more_than_the_file_holds(store: Path) -> None:
    file = store / "_parts/000000/000000.npz"
    content = bytearray(file.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (1 << 31).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(InputError, match="larger than the file"):
        read_block(file, within=store)


@pytest.mark.parametrize("name", ["settings.json", "000000.ranges.json", "000000/done.json", "000000/000000.npz"])
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
    with pytest.raises(Exception, match="not a functaset" if name == "settings.json" else name):
        finish(store)


def test_a_folder_that_leads_out_of_the_store_is_not_written_to(store: Path) -> None:
    outside = store.parent / "outside"
    (store / "_parts/000000").rename(outside)
    (store / "_parts/000000").symlink_to(outside)
    with pytest.raises(InputError, match="not a folder of ours"):
        FunctasetWriter.open(store, LAYOUT, SETTINGS).begin(Part(0), SOURCE)


def test_a_link_in_the_place_of_an_array_is_not_written_through(store: Path) -> None:
    outside = store.parent / "outside"
    outside.mkdir()
    (store / "mse").symlink_to(outside)
    finish(store)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"[]", b'{"owner": {"run": "", "pid": "../../x"}, "beats": 1}', b'{"owner": {"run": ""}, "beats": "x"}',
     b'{"owner": {"run": ""}, "beats": 1e999}', b"[" * 5000],
)  # fmt: skip
def test_a_claim_that_makes_no_sense_is_of_nobody(store: Path, content: bytes) -> None:
    (store / "_parts/000000.claim").write_bytes(content)
    with closing(Claims(store / "_parts", Owner("run"), beat=0.01, silence=0.02)) as claims:
        held = claims.take("000000")
        assert held is None or held.owner.host == "?"


def test_masks_and_grids_that_are_not_there_are_told() -> None:
    block: Block = block_of(LAYOUT, 0, 0)
    with pytest.raises(ValueError, match="grids are not given"):
        block.check(LAYOUT.model_copy(update={"modality": "grid"}))
