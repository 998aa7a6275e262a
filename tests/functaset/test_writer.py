import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from functaconv.errors import InputError, OutputExistsError
from functaconv.functaset import Layout, open_functaset
from functaconv.functaset.unfinished import existing_at
from functaconv.functaset.verify import verify

from .conftest import LAYOUTS, begin, block_of, encode, tree


@pytest.mark.parametrize("finished", [True, False])
def test_overwrite_starts_anew(tmp_path: Path, finished: bool) -> None:
    path, layout = tmp_path / "out.zarr", LAYOUTS["global"]
    encode(path, LAYOUTS["codes"])
    if not finished:
        begin(path, LAYOUTS["codes"], overwrite=True).write(block_of(LAYOUTS["codes"], 0, 0))
    begin(path, layout, overwrite=True)
    assert not existing_at(path).is_finished
    assert list(tree(path)) == ["_parts/settings.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["out.zarr"]
    encode(path, layout)
    assert verify(path) == []


@pytest.mark.parametrize(
    ("content", "overwrite"),
    [("photo.png", True), ("zarr.json", True), ("_parts/settings.json", False), (None, True)],
)
def test_what_is_not_ours_is_never_touched(tmp_path: Path, content: str | None, overwrite: bool) -> None:
    path = tmp_path / "out.zarr"
    file = path / content if content else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"attributes": {}}')
    with pytest.raises(OutputExistsError, match="not a functaset"):
        begin(path, LAYOUTS["global"], {}, overwrite=overwrite)
    assert file.read_text() == '{"attributes": {}}'


def test_one_of_an_earlier_version_can_be_overwritten(tmp_path: Path) -> None:
    path = encode(tmp_path / "out.zarr", LAYOUTS["global"])
    root = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(root.replace(r"\"version\": 2", r"\"version\": 1"))
    with pytest.raises(InputError, match="version 1 of its format"):
        begin(path, LAYOUTS["global"])
    begin(path, LAYOUTS["global"], overwrite=True)
    assert verify(encode(path, LAYOUTS["global"])) == []


def test_an_empty_folder_and_missing_parents_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    assert verify(encode(tmp_path / "empty.zarr", LAYOUTS["global"])) == []
    assert verify(encode(tmp_path / "a/b/out.zarr", LAYOUTS["global"])) == []


@pytest.mark.parametrize(("name", "blocks"), [("global", 0), ("tiled", 1), ("codes", 0)])
def test_a_functaset_without_items_is_a_functaset(tmp_path: Path, name: str, blocks: int) -> None:
    layout = LAYOUTS[name]
    path = encode(tmp_path / "out.zarr", layout, blocks=blocks, rows=0)
    functaset = open_functaset(path)
    assert len(functaset) == 0
    assert len(functaset.failures) == 2 * blocks
    assert functaset.latents(normalize=True).shape == (0, *layout.sites, layout.latent)
    assert functaset.keys.shape == (0,)
    assert list(functaset.batches(4)) == []
    assert verify(path) == []


def test_arrays_are_cut_as_measured_to_be_best(tmp_path: Path) -> None:
    layout = Layout(axes=("row", "column"), sites=(8, 8), latent=16, bits="float16")
    path = encode(tmp_path / "out.zarr", layout, rows=300)
    group = zarr.open_group(path, mode="r")
    latent = group["latent"]
    assert isinstance(latent, zarr.Array)
    # 256 rows of 2 KiB; 1200 items are five chunks
    assert latent.chunks == (256, 8, 8, 16)
    assert latent.shards == (1280, 8, 8, 16)
    stored = json.loads((path / "latent/zarr.json").read_bytes())
    assert stored["dimension_names"] == ["item", "row", "column", "latent"]
    assert stored["fill_value"] == "NaN"
    inner = stored["codecs"][0]["configuration"]["codecs"]
    assert [codec["name"] for codec in inner] == ["bytes", "blosc", "crc32c"]
    label = group["label"]
    assert isinstance(label, zarr.Array)
    assert label.chunks == (1200,)


def test_an_old_one_that_was_replaced_is_no_part_of_the_new_one(tmp_path: Path) -> None:
    """Killed while the old one was being removed."""
    old, path = encode(tmp_path / "old.zarr", LAYOUTS["global"]), tmp_path / "out.zarr"
    begin(path, LAYOUTS["global"])
    shutil.copytree(old, path / "_parts/replaced")
    encode(path, LAYOUTS["global"])
    assert verify(path) == []


def test_metadata_is_consolidated_as_zarr_would(tmp_path: Path) -> None:
    path = encode(tmp_path / "out.zarr", LAYOUTS["codes"])
    found = json.loads((path / "zarr.json").read_bytes())
    for file in path.iterdir():
        if file.is_file() and file.name != "zarr.json":
            file.unlink()
    with pytest.warns(match="Consolidated metadata"):
        zarr.consolidate_metadata(path)
    assert json.loads((path / "zarr.json").read_bytes()) == found


def test_meta_appears_when_some_block_has_it(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    path = tmp_path / "out.zarr"
    begin(path, layout).write(block_of(layout, 0, 0, meta=False))
    functaset = open_functaset(encode(path, layout, shards=1))
    assert functaset.meta(0) is None
    assert functaset.meta(5) == {"name": "0/1/0é"}
    without = open_functaset(encode(tmp_path / "without.zarr", layout, meta=False))
    assert without.meta(0) is None
    assert not (tmp_path / "without.zarr/meta").exists()


def test_keys_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    path = tmp_path / "out.zarr"
    block = block_of(layout, 0, 0)
    begin(path, layout).write(replace(block, columns={**block.columns, "key": np.array(["a\udc80", *"bcde"], object)}))
    functaset = open_functaset(encode(path, layout, shards=1))
    assert functaset[0].key == r"a\udc80"


@pytest.mark.parametrize("name", ["tiled", "codes"])
def test_blocks_are_joined_as_they_follow_each_other(name: str) -> None:
    layout = LAYOUTS[name]
    first, second = block_of(layout, 0, 0, meta=False), block_of(layout, 0, 1, is_last=True)
    joined = type(first).joined([first, second])
    joined.check(layout)
    assert (joined.start, joined.stop, joined.is_last, len(joined)) == (0, 12, True, 10)
    assert joined.columns["meta"][:5].tolist() == ["null"] * 5
    assert len(joined.failures) == 2
    np.testing.assert_array_equal(joined.columns["record"], [*range(5), *range(6, 11)])
