import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from functaconv.conversion.seal import all_blocks
from functaconv.data.limits import DEFAULT_LIMITS
from functaconv.errors import ChangedInputError, InputError, OutputExistsError, StoppedError
from functaconv.functaset import CODECS, Layout, Plan, arrays, open_functaset
from functaconv.functaset.arrays import MOST_TEXT
from functaconv.functaset.schema import PARTS, Column
from functaconv.functaset.unfinished import Parts, existing_at
from functaconv.functaset.verify import verify
from functaconv.functaset.writer import assembled, seal

from .conftest import BASE, LAYOUTS, SETTINGS, attributes_of, begin, block_of, encode, finish, tree


def blocks_of(path: Path, layout: Layout, shards: int = 2) -> None:
    all_blocks(Parts(path / PARTS), [f"{n}.tar" for n in range(shards)], Plan(layout, SETTINGS).digest)


@pytest.mark.parametrize("missing", ["000000-000000.npz", "000001-000001.last.npz"])
def test_a_block_that_is_missing_is_noticed(tmp_path: Path, missing: str) -> None:
    layout, parts = LAYOUTS["global"], begin(tmp_path / "out.zarr", LAYOUTS["global"])
    for shard in range(2):
        for number in range(2):
            parts.write(block_of(layout, shard, number, is_last=number == 1))
    blocks_of(tmp_path / "out.zarr", layout)
    (parts.root / missing).unlink()
    with pytest.raises(StoppedError, match=f"blocks of {int(missing[:6])}.tar are missing"):
        blocks_of(tmp_path / "out.zarr", layout)
    assert not parts.listed()[int(missing[:6])].is_complete


def test_a_shard_that_changed_on_the_way_is_not_sealed(tmp_path: Path) -> None:
    layout, parts = LAYOUTS["global"], begin(tmp_path / "out.zarr", LAYOUTS["global"])
    parts.write(block_of(layout, 0, 0))
    parts.write(replace(block_of(layout, 0, 1, is_last=True), source={"size": 7}))
    with pytest.raises(ChangedInputError, match=r"changed input: 0.tar became another one"):
        blocks_of(tmp_path / "out.zarr", layout, 1)


STRAYS = {
    "of other settings": {"run": "f" * 16},
    "of another shard": {"shard": 1},
    "of another number": {"number": 4},
    "of other records": {"start": 7},
}


@pytest.mark.parametrize("changes", STRAYS.values(), ids=STRAYS.keys())
def test_a_block_that_is_no_part_of_it_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    layout, parts = LAYOUTS["global"], begin(tmp_path / "out.zarr", LAYOUTS["global"])
    parts.write(block_of(layout, 0, 0))
    stray = replace(block_of(layout, 0, 1, is_last=True), **changes)  # type: ignore[arg-type]
    parts.write(stray)
    file = parts.file(stray.shard, stray.number, is_last=True)
    file.rename(parts.root / "000000-000001.last.npz")
    with pytest.raises(InputError, match=r"000000-000001\.last\.npz: damaged: it is no block of this run") as caught:
        blocks_of(tmp_path / "out.zarr", layout, 1)
    assert "delete" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["000000-000002.npz", "000007-000000.npz"])
def test_a_block_beyond_the_end_is_named(tmp_path: Path, name: str) -> None:
    layout, parts = LAYOUTS["global"], begin(tmp_path / "out.zarr", LAYOUTS["global"])
    parts.write(block_of(layout, 0, 0))
    parts.write(block_of(layout, 0, 1, is_last=True))
    parts.write(block_of(layout, int(name[:6]), int(name[7:13])))
    with pytest.raises(InputError, match=f"{name}: damaged: it is no block of this run"):
        blocks_of(tmp_path / "out.zarr", layout, 1)


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_with_each_difference(tmp_path: Path, finished: bool) -> None:
    path, layout = tmp_path / "out.zarr", LAYOUTS["global"]
    encode(path, layout) if finished else begin(path, layout)
    before = tree(path)
    with pytest.raises(OutputExistsError) as caught:
        begin(path, Layout(axes=layout.axes, latent=7, bits="float16"), {"seed": 0, "steps": 5})
    message = str(caught.value)
    assert "layout.latent: found 6, asked for 7" in message
    assert "settings.steps: found 3, asked for 5" in message
    assert "seed" not in message
    assert caught.value.hint == "--overwrite or another name"
    assert tree(path) == before


def test_a_finished_functaset_of_equal_settings_is_left_alone(tmp_path: Path) -> None:
    path = encode(tmp_path / "out.zarr", LAYOUTS["global"])
    before = tree(path)
    begin(path, LAYOUTS["global"])
    assert existing_at(path).is_finished
    assert tree(path) == before


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


def test_texts_of_many_commas_are_read_again(tmp_path: Path) -> None:
    layout, path = LAYOUTS["global"], tmp_path / "out.zarr"
    block = block_of(layout, 0, 0, is_last=True)
    meta = np.array([json.dumps({"a": '",' * (1 << 20)})] * 5, object)
    begin(path, layout).write(replace(block, columns={**block.columns, "meta": meta}))
    finish(path, layout, 1)
    assert open_functaset(path).attributes.count == 5


def test_metadata_is_consolidated_as_zarr_would(tmp_path: Path) -> None:
    path = encode(tmp_path / "out.zarr", LAYOUTS["codes"])
    found = json.loads((path / "zarr.json").read_bytes())
    for file in path.iterdir():
        if file.is_file() and file.name != "zarr.json":
            file.unlink()
    with pytest.warns(match="Consolidated metadata"):
        zarr.consolidate_metadata(path)
    assert json.loads((path / "zarr.json").read_bytes()) == found


def test_a_block_that_does_not_fit_the_layout_is_refused() -> None:
    layout = LAYOUTS["two"]
    block = block_of(layout, 0, 0)
    columns = block.columns
    bad = columns["latent"].copy()
    bad[0] = np.inf
    for changes, message in [
        ({"latent": columns["latent"][:, 0]}, "latent: expected"),
        ({"label": columns["label"].astype(np.int32)}, "label: expected int64"),
        ({"mse": columns["mse"][:2]}, "mse: expected"),
        ({"meta": np.array(["{}"], object)}, "meta: expected"),
        ({"tile": np.zeros((5, 4), np.int32)}, "found the columns .*tile"),
        ({"latent": bad}, "NaN or infinite"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(block, columns={**columns, **changes}).check(layout)


def test_what_contradicts_the_store_is_not_sealed(tmp_path: Path) -> None:
    layout, path = LAYOUTS["global"], tmp_path / "out.zarr"
    begin(path, layout)
    with pytest.raises(ValueError, match="stores float16"):
        assembled(path, [], layout, CODECS["float32"](), rows=0, has_meta=False).__enter__()
    with assembled(path, [], layout, CODECS["float16"](), rows=0, has_meta=False) as made:
        with pytest.raises(ValueError, match="base_sha256"):
            seal(path, made, attributes_of(layout, 0, 0, base_sha256="0" * 64), BASE, {})
        with pytest.raises(ValueError, match="count is 1, there are 0 rows"):
            seal(path, made, attributes_of(layout, 1, 0), BASE, {})
    assert list(tree(path)) == ["_parts/settings.json"]


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


def test_texts_as_long_as_items_may_have_are_never_more_than_a_reader_takes(tmp_path: Path) -> None:
    array = arrays.create_column(zarr.create_group(tmp_path), Column("meta", "str", fill=""), 10**6)
    assert array.shards is not None
    assert array.chunks[0] * DEFAULT_LIMITS.attributes < MOST_TEXT // 2
    assert array.shards[0] * DEFAULT_LIMITS.attributes <= 256 << 20


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
