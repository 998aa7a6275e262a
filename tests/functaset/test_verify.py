import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from functaconv.errors import InputError
from functaconv.functaset.verify import verify


def test_a_sound_functaset_has_no_problems(stores: dict[str, Path], name: str) -> None:
    assert verify(stores[name]) == []


def test_what_is_no_functaset_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a functaset"):
        verify(tmp_path)


def test_every_flipped_bit_of_the_latents_is_found(store: Path, flip: Any) -> None:
    file = store / "latent/c/0/0/0/0"
    for place in range(0, file.stat().st_size, 97):
        flip(file, place)
        problems = verify(store)
        assert problems
        assert all(problem.startswith("latent: rows 0 to 19") for problem in problems), problems
        flip(file, place)
    assert verify(store) == []


def test_damage_is_told_with_its_rows(large: Path, flip: Any) -> None:
    flip(large / "latent/c/0/0", 5 * 32 * 16384)
    content = (large / "latent/c/1/0").read_bytes()
    (large / "latent/c/1/0").write_bytes(b"")
    (large / "latent/c/2/0").unlink()
    emptied, gone, chunk = verify(large)
    # about five of sixteen chunks of random numbers on
    assert re.match(r"latent: rows (128|160|192|224) to \d+ cannot be read", chunk)
    assert emptied == "latent: rows 512 to 1023 lost: latent/c/1/0 is empty"
    assert gone == "latent: rows 1024 to 1099 lost: latent/c/2/0 is missing"
    (large / "latent/c/1/0").write_bytes(content[:-100])
    assert any("rows 512" in problem for problem in verify(large))


def test_a_chunk_of_fill_values_that_was_left_out_is_a_loss(large: Path) -> None:
    array = zarr.open_array(large / "latent", mode="r+")
    array[64:96] = np.nan
    assert verify(large) == ["latent: rows 0 to 511 lost: latent/c/0/0 lacks a chunk"]


def test_arrays_of_the_wrong_length_are_found(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_bytes())
    root["consolidated_metadata"]["metadata"]["label"]["shape"] = [21]
    (store / "zarr.json").write_text(json.dumps(root))
    assert "label/zarr.json differs" in verify(store)[0]
    (store / "label/zarr.json").write_text(json.dumps(root["consolidated_metadata"]["metadata"]["label"]))
    assert verify(store) == ["label: found int64 (21,), expected int64 (20,)"]
