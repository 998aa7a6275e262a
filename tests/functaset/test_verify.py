import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from functaconv.errors import InputError
from functaconv.functaset import Layout
from functaconv.functaset.verify import verify

from .conftest import encode


def test_a_sound_functaset_has_no_problems(tmp_path: Path, layout: Layout, chunks_of_two: None) -> None:
    assert verify(encode(tmp_path / "out.zarr", layout)) == []


def test_what_is_no_functaset_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a functaset"):
        verify(tmp_path)


def test_every_flipped_bit_of_the_latents_is_found(store: Path, flip: Any) -> None:
    file = store / "latent/c/1/0/0/0"
    for place in range(0, file.stat().st_size, 7):
        flip(file, place)
        problems = verify(store)
        assert problems
        assert all(problem.startswith(("latent: rows 4", "latent: rows 6")) for problem in problems)
        flip(file, place)
    assert verify(store) == []


@pytest.mark.parametrize(
    "name", ["key/c/0", "label/c/0", "meta/c/0", "mse/c/0", "latent_std/c/0", "shape/c/0/0", "shard/c/0"]
)
def test_a_flipped_bit_of_any_array_is_found(store: Path, flip: Any, name: str) -> None:
    flip(store / name, 8)
    assert [problem.split(":")[0] for problem in verify(store)] == [name.split("/")[0]]


@pytest.mark.parametrize("content", [b"", b"short", None])
def test_a_lost_shard_is_found_with_its_rows(store: Path, content: bytes | None) -> None:
    file = store / "latent/c/2/0/0/0"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    problems = verify(store)
    assert problems
    assert all("rows 8" in problem or "rows 10" in problem for problem in problems)


@pytest.mark.parametrize("name", ["label/c/0", "latent_mean/c/0", "key/c/0"])
def test_a_lost_file_of_any_array_is_found(store: Path, name: str) -> None:
    (store / name).unlink()
    assert any(f"{name} is missing" in problem for problem in verify(store))


def test_a_swapped_base_is_found(store: Path) -> None:
    (store / "base.safetensors").write_bytes(b"another base")
    (problem,) = verify(store)
    assert "base.safetensors: found sha256" in problem
    (store / "base.safetensors").unlink()
    (problem,) = verify(store)
    assert "base.safetensors: cannot be read" in problem


def test_numbers_that_are_not_finite_are_found(store: Path) -> None:
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    for name, rows in (("latent", slice(3, 6)), ("mse", slice(19, 20))):
        array = group[name]
        assert isinstance(array, zarr.Array)
        array.with_config({"write_empty_chunks": True})[rows] = np.nan
    assert verify(store) == [
        "latent: NaN or infinite in 3 rows, the first is row 3",
        "mse: NaN or infinite in 1 rows, the first is row 19",
    ]


def test_a_chunk_of_fill_values_that_was_left_out_is_a_loss(store: Path) -> None:
    array = zarr.open_array(store / "latent", mode="r+")
    array[4:6] = np.nan
    assert verify(store) == ["latent: rows 4 to 7 lost: latent/c/1/0/0/0 lacks a chunk"]


def test_counts_that_contradict_each_other_are_found(store: Path) -> None:
    lines = (store / "failed.jsonl").read_text().splitlines(keepends=True)
    (store / "failed.jsonl").write_text("".join(lines[1:]))
    (store / "report.json").write_text(json.dumps({"count": 19, "failed": 4}))
    assert verify(store) == [
        "report.json: count is 19, the attributes say 20",
        "failed.jsonl: found 3 lines, the attributes say 4 items failed",
        "report.json: not as it was sealed: its sha256 is another one",
        "failed.jsonl: not as it was sealed: its sha256 is another one",
    ]
    (store / "failed.jsonl").write_text("{")
    (store / "report.json").write_text("[]")
    report, failed, *_ = verify(store)
    assert "failed.jsonl: cannot be read" in failed
    assert "report.json: expected an object" in report


def test_arrays_of_the_wrong_length_are_found(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_bytes())
    root["consolidated_metadata"]["metadata"]["label"]["shape"] = [19]
    (store / "zarr.json").write_text(json.dumps(root))
    assert "label/zarr.json differs" in verify(store)[0]
    (store / "label/zarr.json").write_text(json.dumps(root["consolidated_metadata"]["metadata"]["label"]))
    assert verify(store) == ["label: found int64 (19,), expected int64 (20,)"]


def test_damage_in_several_places_is_listed_whole(store: Path) -> None:
    (store / "latent/c/0/0/0/0").unlink()
    (store / "psnr/zarr.json").write_text("{")
    (store / "base.safetensors").write_bytes(b"")
    assert len(set(verify(store))) == 3
