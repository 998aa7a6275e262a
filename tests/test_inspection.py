"""Inspecting finds out what lies at a path, and with `verify` all that is wrong with it."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from functaconv.checkpoint import base_to_bytes, read_base
from functaconv.conversion import encode
from functaconv.data.ignored import LABELS
from functaconv.errors import InputError, UsageError, VerificationError
from functaconv.inspection import Inspection, inspect

from .conftest import npy, png, tar

SHAPE = (12, 12)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    members = {f"image{number}.{suffix}": content for number in range(4) for suffix, content in
               (("png", png(number, SHAPE)), ("cls", b"3"))}  # fmt: skip
    tar(folder / "a.tar", {**members, "notes.md": b"nothing of ours", "text.txt": b"no array"})
    tar(folder / "b.tar", {"image0.png": png(9, SHAPE), "cut.png": png(8, SHAPE)[:60], "other.npy": npy(np.zeros(3))})
    return folder


@pytest.fixture(scope="module")
def sealed(spatial_base_file: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "out.zarr"
    return encode(spatial_base_file, str(shards), path, device="cpu", max_error_rate=1).path


@pytest.fixture
def store(sealed: Path, tmp_path: Path) -> Path:
    """A functaset to be damaged."""
    return shutil.copytree(sealed, tmp_path / "out.zarr")


def verified(path: Any) -> Inspection:
    found = inspect(path, verify=True)
    assert (found.complaint is None) == (not found.problems)
    assert found.complaint is None or isinstance(found.complaint, VerificationError)
    json.dumps(found.facts, allow_nan=False)
    return found


def test_a_base_says_what_it_is(spatial_base_file: Path) -> None:
    found = verified(spatial_base_file)
    stored = read_base(spatial_base_file)
    assert (found.kind, found.problems) == ("base", [])
    assert found.facts["latent"] == {
        "sites": [2, 3], "numbers": 24, "interpolation": "window", "canonical": True,
    }  # fmt: skip
    assert found.facts["parameters"] == sum(p.numel() for p in stored.base.parameters())
    assert found.facts["training"]["updates"] == stored.description.training["updates"]
    assert found.facts["training"]["shapes"] == [list(SHAPE)]
    assert found.facts["bytes"] == spatial_base_file.stat().st_size


def test_a_base_whose_latents_are_in_no_order_says_so(gradient_base_file: Path) -> None:
    assert not verified(gradient_base_file).facts["latent"]["canonical"]


def test_a_base_of_fewer_numbers_says_of_how_many_it_was_cut(base_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(read_base(base_file).truncated(3).content)
    facts = verified(tmp_path / "cut").facts
    assert (facts["latent"]["numbers"], facts["training"]["truncated_from"]) == (3, 8)


def test_a_base_is_known_by_its_content(spatial_base_file: Path, tmp_path: Path) -> None:
    shutil.copy(spatial_base_file, tmp_path / "base")
    assert inspect(str(tmp_path / "base")).kind == "base"


def test_a_base_that_is_not_finite_does_not_verify(spatial_base_file: Path, tmp_path: Path) -> None:
    stored = read_base(spatial_base_file)
    stored.base.latent_mean[0] = torch.nan
    path = tmp_path / "base.safetensors"
    path.write_bytes(base_to_bytes(stored.base, stored.recipe, {}))
    assert "latent_mean holds values that are not finite" in verified(path).problems[0]
    with pytest.raises(InputError, match="not finite"):
        inspect(path)


def test_a_functaset_says_what_it_holds(sealed: Path) -> None:
    found = verified(sealed)
    report = json.loads((sealed / "report.json").read_text())
    assert (found.kind, found.problems) == ("functaset", [])
    assert (found.facts["items"], found.facts["failed"], found.facts["ignored"]) == (5, 2, {".md": 1, LABELS: 1})
    assert found.facts["latent"] == {"sites": [2, 3], "numbers": 24, "canonical": True}
    assert (found.facts["bits"], found.facts["solver"]["name"]) == ("float16", "gauss-newton")
    assert found.facts["psnr"] == report["psnr"]["mean"]
    assert found.facts["bytes"]["store"] == report["bytes"]["store"]
    assert found.facts["input"] == ["a.tar", "b.tar"]


def test_a_base_that_does_not_fit_is_found(store: Path, base_file: Path) -> None:
    old, new = (read_base(path).sha256 for path in (store / "base.safetensors", base_file))
    shutil.copy(base_file, store / "base.safetensors")
    text = (store / "zarr.json").read_text()
    said = r"\"base_sha256\": \""
    assert said + old in text
    (store / "zarr.json").write_text(text.replace(said + old, said + new))
    assert any("the base makes latents of (8,)" in problem for problem in verified(store).problems)


def test_shards_say_what_they_hold(shards: Path) -> None:
    found = inspect(shards)
    assert found.kind == "shards"
    assert (found.facts["shards"], found.facts["records"]) == (2, 9)
    assert found.facts["bytes"] == sum(path.stat().st_size for path in shards.iterdir())
    assert found.facts["suffixes"] == {".cls": 4, ".npy": 1, ".png": 6, ".txt": 1}
    assert found.facts["ignored"] == {".md": 1, LABELS: 1}
    assert found.facts["arrays"] == {"image 12x12x3 uint8": 5, "array 3 float32": 1}
    assert found.facts["labelled"] == 4
    assert found.complaint is None


def test_a_glance_decodes_few_items(image_shards: Callable[..., Path]) -> None:
    folder = image_shards(100, seed=5)
    assert (inspect(folder).facts["records"], inspect(folder).facts["looked_at"]) == (100, 64)
    assert verified(folder).facts["looked_at"] == 100


def test_every_bad_item_is_listed(shards: Path) -> None:
    found = verified(shards)
    (problem,) = found.problems
    assert problem.startswith(f"{shards / 'b.tar'}: record 1 (cut): png:")
    assert found.facts["unusable"] == 1
    assert found.facts["duplicate_keys"] == 1
    assert found.facts["without_array"] == 2
    assert found.complaint is not None
    assert found.complaint.exit_code == 4


def test_problems_of_one_kind_are_counted(tmp_path: Path) -> None:
    members = {f"{number}.png": b"bad" for number in range(9)} | {"cut.png": png(0, (8, 8))[:-80], "e.npy": b""}
    shard = tar(tmp_path / "bad.tar", members)
    found = verified(shard)
    several, cut, empty = found.problems
    assert several.startswith(
        f"9 records like {shard}: record 0 (0): png: expected an image or an array, found unknown"
    )
    assert cut.startswith(f"{shard}: record 9 (cut): png: expected a complete PNG image, found damaged data")
    assert "record 10 (e): npy: expected an image or an array, found nothing" in empty
    assert found.facts["unusable"] == 11


def test_the_field_chooses_the_member_that_is_looked_at(tmp_path: Path, base_file: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(3):
        members |= {f"{number}.jpg": png(number, (8, 8)), f"{number}.png": png(number, (4, 4), 1)}
    shard = tar(tmp_path / "a.tar", members)
    found = inspect(shard)
    assert found.facts["arrays"] == {"image 8x8x3 uint8": 3}
    assert found.facts["ignored"] == {"png beside jpg": 3, "suffix .jpg for PNG data": 3}
    found = inspect(shard, field="png", verify=True)
    assert found.facts["arrays"] == {"image 4x4x1 uint8": 3}
    assert found.facts["ignored"] == {"jpg beside png": 3}
    assert inspect(shard, field="npy").facts["without_array"] == 3
    with pytest.raises(UsageError, match="not a field"):
        inspect(shard, field="pkl")
    with pytest.raises(UsageError, match="--field chooses a member of shards"):
        inspect(base_file, field="png")


def test_records_that_lie_apart_are_counted_once(tmp_path: Path) -> None:
    images = {f"{number}.png": png(number, (8, 8)) for number in range(3)}
    shard = tar(tmp_path / "a.tar", images | {f"{number}.cls": b"1" for number in range(3)})
    for verify in (False, True):
        found = inspect(shard, verify=verify)
        assert (found.facts["records"], found.facts["looked_at"], found.facts["labelled"]) == (3, 3, 3)
        assert found.facts["ignored"] == {}
        assert found.complaint is None
    assert inspect(shard, verify=True).facts["duplicate_keys"] == 0


@pytest.mark.parametrize("verify", [True, False])
def test_a_shard_that_ends_early_is_found(shards: Path, tmp_path: Path, verify: bool) -> None:
    (tmp_path / "a.tar").write_bytes((shards / "a.tar").read_bytes()[:3000])
    found = inspect([tmp_path / "a.tar", shards / "b.tar"], verify=verify)
    assert any("cut short" in problem for problem in found.problems)
    assert (found.complaint is None) == (not verify)


@pytest.mark.parametrize("verify", [True, False])
def test_compressed_shards_are_counted_when_all_is_read(shards: Path, tmp_path: Path, verify: bool) -> None:
    (tmp_path / "z.tar").write_bytes(gzip.compress((shards / "a.tar").read_bytes()))
    found = inspect([tmp_path / "z.tar", shards / "a.tar"], verify=verify)
    assert found.facts["records"] == (12 if verify else None)
    assert found.facts["bytes"] == sum(path.stat().st_size for path in (tmp_path / "z.tar", shards / "a.tar"))
    assert found.facts["looked_at"] == 12
    assert found.problems == []


def test_a_command_is_inspected_when_it_is_allowed(shards: Path) -> None:
    command = f"pipe:cat {shards / 'a.tar'}"
    with pytest.raises(UsageError, match="has to be allowed"):
        inspect(command)
    found = inspect(command, allow_pipe=True)
    assert (found.facts["records"], found.facts["bytes"], found.problems) == (6, 0, [])
    (problem,) = inspect(f"{command}; exit 3", allow_pipe=True).problems
    assert "the command ended with status 3" in problem


def test_nothing_is_said_to_be_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is nothing at") as caught:
        inspect(tmp_path / "missing")
    assert caught.value.hint is not None
    for name in (" https:/user:secret@host/x.tar", "https:/host/x.tar?secret"):
        with pytest.raises(InputError, match="there is nothing at") as caught:
            inspect(name)
        assert "secret" not in str(caught.value) + caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tar shards"):
        inspect(tmp_path / "empty")


def test_another_zarr_group_is_no_functaset(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(InputError, match="not a functaset"):
        inspect(tmp_path / "other.zarr")
