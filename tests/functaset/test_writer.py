import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from functaconv.errors import InputError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.verify import verify

from .conftest import LAYOUTS, begin, block_of, encode


def test_one_of_an_earlier_version_can_be_overwritten(tmp_path: Path) -> None:
    path = encode(tmp_path / "out.zarr", LAYOUTS["global"])
    root = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(root.replace(r"\"version\": 2", r"\"version\": 1"))
    with pytest.raises(InputError, match="version 1 of its format"):
        begin(path, LAYOUTS["global"])
    begin(path, LAYOUTS["global"], overwrite=True)
    assert verify(encode(path, LAYOUTS["global"])) == []


@pytest.mark.parametrize(("name", "blocks"), [("global", 0), ("tiled", 1), ("codes", 0)])
def test_a_functaset_without_items_is_a_functaset(tmp_path: Path, name: str, blocks: int) -> None:
    layout = LAYOUTS[name]
    path = encode(tmp_path / "out.zarr", layout, blocks=blocks, rows=0)
    functaset = open_functaset(path)
    assert len(functaset) == 0
    assert len(functaset.failures) == 2 * blocks
    assert functaset.latents(normalize=True).shape == (0, *layout.sites, layout.latent)
    assert functaset.keys.shape == (0,)
    assert verify(path) == []


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
