"""`inspect --verify` finds what was damaged, lost, swapped or edited, and names the items that it spoils."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.checkpoint import base_to_bytes, read_base
from functaconv.conversion import encode
from functaconv.functaset.reader import open_functaset, read_attributes
from functaconv.functaset.schema import Layout
from functaconv.functaset.verify import problems_of
from functaconv.inspection import Inspection, inspect

from .conftest import png, tar
from .fuzzing.stores import make_store
from .roots import parsed_root, root_text

COUNT = 9
FAILED = 3


@pytest.fixture(scope="module")
def sealed(spatial_base_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A functaset of nine images, its arrays in several chunks and files."""
    folder = tmp_path_factory.mktemp("integrity")
    images = {f"image{number}.png": png(number, (12, 12)) for number in range(COUNT)}
    shard = tar(folder / "in.tar", {**images, **{f"bad{number}.png": b"no image" for number in range(FAILED)}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("functaconv.functaset.arrays._CHUNK_BYTES", 128)
        patch.setattr("functaconv.functaset.arrays._CHUNKS_PER_SHARD", 2)
        return encode(spatial_base_file, str(shard), folder / "out.zarr", device="cpu", max_error_rate=1).path


@pytest.fixture
def store(sealed: Path, tmp_path: Path) -> Path:
    """A functaset to be damaged."""
    return shutil.copytree(sealed, tmp_path / "out.zarr")


def verified(path: Path) -> Inspection:
    found = inspect(path, verify=True)
    assert (found.complaint is None) == (not found.problems)
    json.dumps(found.facts, allow_nan=False)
    return found


def files_of(store: Path, name: str) -> list[Path]:
    return sorted(file for file in (store / name / "c").rglob("*") if file.is_file())


def keys(start: int, stop: int) -> list[str]:
    return [f"image{number}" for number in range(start, stop)]


def test_a_sound_functaset_verifies(sealed: Path) -> None:
    found = verified(sealed)
    assert found.problems == []
    assert found.facts["affected"] == {"rows": 0, "keys": []}
    assert len(files_of(sealed, "latent")) > 2


@pytest.mark.parametrize("name", ["latent", "key", "label", "shape", "mse", "psnr", "shard"])
def test_one_flipped_bit_anywhere_is_found_with_the_items_it_spoils(store: Path, name: str) -> None:
    array = open_functaset(store).stored(name)
    assert array is not None
    each = array.rows_per_file
    for number, file in enumerate(files_of(store, name)):
        sound = file.read_bytes()
        for place in range(0, len(sound), max(1, len(sound) // 9)):
            content = bytearray(sound)
            content[place] ^= 1 << place % 8
            file.write_bytes(bytes(content))
            found = verified(store)
            assert found.problems
            assert found.problems[0].startswith(f"{name}: row")
            spoilt = found.facts["affected"]["keys"]
            within = keys(number * each, min((number + 1) * each, COUNT))
            assert 0 < len(spoilt) == found.facts["affected"]["rows"] <= len(within)
            # the names themselves may be what is lost
            assert set(spoilt) <= ({f"row {key[5:]}" for key in within} if name == "key" else set(within))
        file.write_bytes(sound)
    assert verified(store).problems == []


@pytest.mark.parametrize("how", ["empty", "missing", "cut", "folder"])
@pytest.mark.parametrize("name", ["latent", "psnr"])
def test_a_lost_file_is_found_with_the_items_in_it(store: Path, name: str, how: str) -> None:
    array = open_functaset(store).stored(name)
    assert array is not None
    each, file = array.rows_per_file, files_of(store, name)[1 if name == "latent" else 0]
    content = file.read_bytes()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how != "missing":
        file.write_bytes(b"" if how == "empty" else content[:-1])
    found = verified(store)
    assert str(file.relative_to(store)) in found.problems[0] or how == "cut"
    start = each if name == "latent" else 0
    assert found.facts["affected"]["keys"] == keys(start, min(start + each, COUNT))


def test_a_lost_vector_spoils_all_items_only_where_it_decodes_them(store: Path) -> None:
    for file in files_of(store, "latent_std"):
        file.unlink()
    found = verified(store)
    assert "latent_std" in found.problems[0]
    assert found.facts["affected"]["rows"] == 0


def test_a_swapped_base_is_found_and_spoils_all_items(store: Path, spatial_base_file: Path) -> None:
    stored = read_base(spatial_base_file)
    stored.base.latent_mean.add_(1e-3)
    (store / "base.safetensors").write_bytes(base_to_bytes(stored.base, stored.recipe, {}))
    found = verified(store)
    assert "base.safetensors: found sha256" in found.problems[0]
    assert found.facts["affected"] == {"rows": COUNT, "keys": keys(0, COUNT)}


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    is_root = file.name == "zarr.json"
    content = parsed_root(file.read_bytes()) if is_root else json.loads(file.read_bytes())
    change(content)
    file.write_text(root_text(content) if is_root else json.dumps(content))


def attributes(root: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = root["attributes"]["functaconv"]
    return found


EDITED: dict[str, Callable[[dict[str, Any]], object]] = {
    "latent: found float16 (9, 2, 3, 4)": lambda root: attributes(root)["summary"].update(count=COUNT - 1),
    "failed.jsonl: found 3 lines": lambda root: attributes(root)["summary"].update(failed=0),
    "report.json: count is 9": lambda root: attributes(root)["summary"].update(items=4),
    "base.safetensors: found sha256": lambda root: attributes(root).update(base_sha256="0" * 64),
    "the attributes are not those that were sealed": lambda root: attributes(root)["summary"].update(psnr_mean=99.0),
}


@pytest.mark.parametrize(("message", "change"), EDITED.items(), ids=EDITED.keys())
def test_edited_attributes_are_found(store: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(store / "zarr.json", change)
    assert any(message in problem for problem in verified(store).problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(count=8), "report.json: count is 8"),
        (lambda report: report.clear(), "count is None"),
        (lambda report: report["psnr"].update(mean=99.0), "report.json: not as it was sealed"),
    ],
    ids=["count", "empty", "psnr"],
)
def test_an_edited_report_is_found(store: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(store / "report.json", change)
    assert any(message in problem for problem in verified(store).problems)


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("failed.jsonl", '"reason": "', 0),
        ("report.json", '"items_per_second": ', 0),
        ("zarr.json", r"\"coordinate_convention\": \"", COUNT),
        ("zarr.json", r"\"attributes_", COUNT),
        ("zarr.json", '"kind": "', 0),
    ],
)
def test_one_flipped_bit_of_text_is_found(store: Path, name: str, text: str, rows: int) -> None:
    content = bytearray((store / name).read_bytes())
    content[content.index(text.encode()) + len(text)] ^= 1
    (store / name).write_bytes(content)
    found = verified(store)
    assert any(name in problem for problem in found.problems)
    assert found.facts["affected"]["rows"] == rows


def test_a_functaset_without_digests_is_an_older_one(store: Path) -> None:
    def strip(root: dict[str, Any]) -> None:
        del attributes(root)["files_sha256"], attributes(root)["attributes_sha256"]

    edit(store / "zarr.json", strip)
    assert verified(store).problems == []


@pytest.mark.parametrize("lines", [2, 1.5, 0])
def test_a_cut_list_of_failures_is_found(store: Path, lines: float) -> None:
    file = store / "failed.jsonl"
    whole = file.read_bytes().splitlines(keepends=True)
    end = b"".join(whole[: int(lines)]) + (whole[1][: len(whole[1]) // 2] if lines % 1 else b"")
    file.write_bytes(end)
    (problem, *_) = verified(store).problems
    assert "failed.jsonl: " in problem


@pytest.fixture
def gridded(tmp_path: Path) -> Path:
    layout = Layout(axes=("row", "column"), latent=6, bits="float32", modality="grid", variables=("t", "u"))
    return make_store(tmp_path / "grids.zarr", layout)


@pytest.mark.parametrize("name", ["latitude", "longitude", "mask"])
@pytest.mark.parametrize("how", ["flip", "empty", "missing"])
def test_lost_axes_and_masks_are_found_with_the_items_that_need_them(gridded: Path, name: str, how: str) -> None:
    functaset = read_attributes(gridded)
    assert problems_of(functaset) == []
    which, masks = functaset.measure("grid"), functaset.measure("mask")
    (file,) = files_of(gridded, f"grids/1/{name}")
    if how == "flip":
        content = bytearray(file.read_bytes())
        content[3] ^= 1
        file.write_bytes(bytes(content))
    elif how == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    (problem,) = problems_of(read_attributes(gridded))
    assert problem.text.startswith(f"grids/1/{name}: ")
    rows = sorted(row for start, stop in problem.rows for row in range(start, stop))
    needed = (which == 1) & ((masks == 0) if (name, how) == ("mask", "flip") else True)
    assert rows == np.flatnonzero(needed).tolist()
