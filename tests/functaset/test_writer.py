import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from functaconv.errors import InputError, OutputExistsError
from functaconv.functaset import FunctasetWriter, Layout, Part, Quantiser, arrays, open_functaset, verify
from functaconv.functaset.schema import Column
from functaconv.functaset.stored import MOST_TEXT
from functaconv.sources.limits import DEFAULT_LIMITS

from .conftest import BASE, LAYOUTS, attributes_of, block_of, encode, tree

SETTINGS: dict[str, Any] = {"seed": 0, "solver": {"steps": 3}}


def test_a_part_that_never_began_is_noticed(tmp_path: Path) -> None:
    writer = FunctasetWriter.open(tmp_path / "out.zarr", LAYOUTS["global"], SETTINGS)
    writer.begin(Part(1), {"size": 1})
    writer.end(Part(1), 0)
    with pytest.raises(ValueError, match=r"found parts 000001"):
        writer.assemble(Quantiser("float16"))


def test_changed_input_is_an_error_that_says_what_changed(tmp_path: Path) -> None:
    writer = FunctasetWriter.open(tmp_path / "out.zarr", LAYOUTS["global"], SETTINGS)
    writer.begin(Part(0), {"size": 1, "etag": "a"})
    with pytest.raises(InputError, match=r"changed input.*size: found 1, asked for 2"):
        writer.begin(Part(0), {"size": 2, "etag": "a"})


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_with_each_difference(tmp_path: Path, finished: bool) -> None:
    path, layout = tmp_path / "out.zarr", LAYOUTS["global"]
    if finished:
        encode(path, layout)
    else:
        FunctasetWriter.open(path, layout, SETTINGS)
    before = tree(path)
    other = Layout(axes=layout.axes, latent=7, bits="float16")
    with pytest.raises(OutputExistsError) as caught:
        FunctasetWriter.open(path, other, {"seed": 0, "solver": {"steps": 5}})
    message = str(caught.value)
    assert "layout.latent: found 6, asked for 7" in message
    assert "settings.solver.steps: found 3, asked for 5" in message
    assert "seed" not in message
    assert caught.value.hint == "--overwrite or another name"
    assert tree(path) == before


def test_a_finished_functaset_of_equal_settings_is_left_alone(tmp_path: Path) -> None:
    path = encode(tmp_path / "out.zarr", LAYOUTS["global"])
    before = tree(path)
    assert FunctasetWriter.open(path, LAYOUTS["global"], SETTINGS).finished
    assert tree(path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_overwrite_starts_anew(tmp_path: Path, finished: bool) -> None:
    path, layout = tmp_path / "out.zarr", LAYOUTS["global"]
    encode(path, LAYOUTS["codes"])
    if not finished:
        FunctasetWriter.open(path, LAYOUTS["codes"], SETTINGS, overwrite=True).begin(Part(0), {"size": 1})
    writer = FunctasetWriter.open(path, layout, SETTINGS, overwrite=True)
    assert not writer.finished
    assert list(tree(path)) == ["_parts/settings.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["out.zarr"]
    encode(path, layout)
    assert verify(path) == []


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("content", ["photo.png", "zarr.json", "_parts/settings.json", None])
def test_what_is_not_ours_is_never_touched(tmp_path: Path, content: str | None, overwrite: bool) -> None:
    path = tmp_path / "out.zarr"
    file = path / content if content else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"attributes": {}}')
    with pytest.raises(OutputExistsError, match="not a functaset"):
        FunctasetWriter.open(path, LAYOUTS["global"], {}, overwrite=overwrite)
    assert file.read_text() == '{"attributes": {}}'


def test_an_empty_folder_and_missing_parents_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    assert verify(encode(tmp_path / "empty.zarr", LAYOUTS["global"])) == []
    assert verify(encode(tmp_path / "a/b/out.zarr", LAYOUTS["global"])) == []


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_functaset_without_items_is_a_functaset(tmp_path: Path, layout: Layout, blocks: int) -> None:
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
    FunctasetWriter.open(path, LAYOUTS["global"], SETTINGS)
    shutil.copytree(old, path / "_parts/replaced")
    encode(path, LAYOUTS["global"])
    assert verify(path) == []


def test_texts_of_many_commas_are_read_again(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    writer = FunctasetWriter.open(tmp_path / "out.zarr", layout, SETTINGS)
    writer.begin(Part(0), {"size": 1})
    meta = [json.dumps({"a": '",' * (1 << 20)})] * 5
    writer.commit(Part(0), 0, replace(block_of(layout, 0, 0), meta=meta))
    writer.end(Part(0), 6)
    writer.assemble(Quantiser(layout.bits))


def test_metadata_is_consolidated_as_zarr_would(tmp_path: Path) -> None:
    path = encode(tmp_path / "out.zarr", LAYOUTS["codes"])
    found = json.loads((path / "zarr.json").read_bytes())
    for file in path.iterdir():
        if file.is_file() and file.name != "zarr.json":
            file.unlink()
    with pytest.warns(match="Consolidated metadata"):
        zarr.consolidate_metadata(path)
    assert json.loads((path / "zarr.json").read_bytes()) == found


def test_moments_are_those_of_all_values(tmp_path: Path, layout: Layout) -> None:
    functaset = open_functaset(encode(tmp_path / "out.zarr", layout))
    values = functaset.latents().reshape(-1, layout.latent).astype(np.float64)
    normalised = functaset.latents(normalize=True).reshape(-1, layout.latent)
    np.testing.assert_allclose(normalised, (values - values.mean(0)) / values.std(0), atol=1e-5)


def test_a_block_that_does_not_fit_the_layout_is_refused(tmp_path: Path) -> None:
    layout = LAYOUTS["two"]
    writer = FunctasetWriter.open(tmp_path / "out.zarr", layout, SETTINGS)
    writer.begin(Part(0), {})
    block = block_of(layout, 0, 0)
    bad = block.latent.copy()
    bad[0] = np.inf
    for changes, message in [
        ({"latent": block.latent[:, 0]}, "latent: expected"),
        ({"label": block.label.astype(np.int32)}, "label: expected int64"),
        ({"mse": block.mse[:2]}, "mse: expected"),
        ({"meta": ["{}"]}, "1 meta for 5 keys"),
        ({"tile": np.zeros((5, 4), np.int32)}, "tiled=False"),
        ({"latent": bad}, "NaN or infinite"),
    ]:
        with pytest.raises(ValueError, match=message):
            writer.commit(Part(0), 0, replace(block, **changes))
    assert writer.begin(Part(0), {}).blocks == 0


def test_claims_that_contradict_the_store_are_not_sealed(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    writer = FunctasetWriter.open(tmp_path / "out.zarr", layout, SETTINGS)
    with pytest.raises(ValueError, match="assemble before"):
        writer.seal(attributes_of(layout, 0, 0), BASE, {})
    writer.assemble(Quantiser("float16"))
    for attributes, message in [
        (attributes_of(layout, 1, 0), "summary"),
        (attributes_of(LAYOUTS["codes"], 0, 0), "layout"),
        (attributes_of(layout, 0, 0, settings={}), "settings"),
        (attributes_of(layout, 0, 0, base_sha256="0" * 64), "base_sha256"),
    ]:
        with pytest.raises(ValueError, match=message):
            writer.seal(attributes, BASE, {})
    with pytest.raises(ValueError, match="stores float16"):
        writer.assemble(Quantiser("float32"))


def test_meta_appears_when_some_block_has_it(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    path = tmp_path / "out.zarr"
    writer = FunctasetWriter.open(path, layout, SETTINGS)
    writer.begin(Part(0), {"size": 100})
    writer.commit(Part(0), 0, block_of(layout, 0, 0, meta=False))
    writer.commit(Part(0), 1, block_of(layout, 0, 1, meta=True))
    writer.end(Part(0), 12)
    functaset = open_functaset(encode(path, layout, parts=1))
    assert functaset.meta(0) is None
    assert functaset.meta(5) == {"name": "0/1/0é"}
    without = open_functaset(encode(tmp_path / "without.zarr", layout, meta=False))
    assert without.meta(0) is None
    assert not (tmp_path / "without.zarr/meta").exists()


def test_keys_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    layout = LAYOUTS["global"]
    path = tmp_path / "out.zarr"
    writer = FunctasetWriter.open(path, layout, SETTINGS)
    writer.begin(Part(0), {"size": 100})
    block = block_of(layout, 0, 0)
    writer.commit(Part(0), 0, replace(block, keys=["a\udc80", *block.keys[1:]], last_key="z\udc80"))
    assert writer.progress(Part(0)).last_key == "z\udc80"
    functaset = open_functaset(encode(path, layout, parts=1))
    assert functaset[0].key == r"a\udc80"


def test_texts_as_long_as_items_may_have_are_never_more_than_a_reader_takes(tmp_path: Path) -> None:
    array = arrays.create_column(zarr.create_group(tmp_path), Column("meta", "str", fill=""), 10**6)
    assert array.shards is not None
    assert array.chunks[0] * DEFAULT_LIMITS.attributes < MOST_TEXT // 2
    assert array.shards[0] * DEFAULT_LIMITS.attributes <= 256 << 20
