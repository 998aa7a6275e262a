"""Encoding what is damaged, changed or unusable: good items are kept, and the rest is said aloud."""

from pathlib import Path

import pytest

from functaconv.checkpoint import base_to_bytes, read_base
from functaconv.conversion import Encoded
from functaconv.errors import InputError, StoppedError
from functaconv.functaset.opening import open_functaset
from tests.conftest import tar
from tests.conversion.conftest import BLOCK
from tests.conversion.test_encode import Killer, noise, run, shards

__all__ = ["shards"]


def test_a_shard_that_changed_in_its_middle_is_not_gone_on_with_nor_sealed(base_file: Path, tmp_path: Path) -> None:
    """Sizes and both ends are the same; the keys show the rest."""
    content = noise(0)
    shard = tar(tmp_path / "a.tar", {f"{n:02d}.png": content for n in range(25)})
    with pytest.raises(StoppedError):
        run(base_file, shard, tmp_path / "out", watcher=Killer(1))
    names = [f"{n:02d}" if n != BLOCK - 1 else "xx" for n in range(25)]
    tar(tmp_path / "a.tar", {f"{name}.png": content for name in names})
    with pytest.raises(InputError, match=r"changed input: .*a.tar is not what it was"):
        run(base_file, shard, tmp_path / "out")
    with pytest.raises(InputError, match="unfinished"):
        open_functaset(tmp_path / "out")


def assert_rate_is_too_high(encoded: Encoded) -> None:
    assert encoded.complaint is not None
    assert encoded.complaint.exit_code == 3


def test_an_encoding_of_which_nothing_is_left_is_whole_and_complains(
    gradient_base_file: Path, tmp_path: Path, shards: Path
) -> None:
    stored = read_base(gradient_base_file)
    stored.base.solver.rates.fill_(1e30)
    wild = tmp_path / "wild.safetensors"
    wild.write_bytes(base_to_bytes(stored.base, stored.recipe, stored.description.training))
    encoded = run(wild, shards, tmp_path / "out")
    assert_rate_is_too_high(encoded)
    assert encoded.report["psnr"]["mean"] is None
    functaset = open_functaset(encoded.path)
    assert len(functaset) == 0
    assert len(functaset.failures) == encoded.report["failed"] > 0
