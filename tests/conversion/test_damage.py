"""Encoding what is damaged, changed or unusable: good items are kept, and the rest is said aloud."""

from pathlib import Path

import pytest

from functaconv.checkpoint import base_to_bytes, read_base
from functaconv.conversion import Encoded
from functaconv.data.shards import read_records
from functaconv.errors import InputError, StoppedError
from functaconv.functaset.opening import open_functaset
from tests.conftest import png, tar
from tests.conversion.conftest import BLOCK
from tests.conversion.test_encode import Killer, noise, run, shards

__all__ = ["shards"]


def test_a_shard_that_changed_since_it_was_converted_is_an_error(base_file: Path, tmp_path: Path) -> None:
    members = {f"{n:02d}.png": png(n, (8, 8)) for n in range(25)}
    shard = tar(tmp_path / "a.tar", members)
    run(base_file, shard, tmp_path / "out")
    tar(shard, {**members, "00.png": png(99, (8, 8))})
    with pytest.raises(InputError, match="changed input") as caught:
        run(base_file, shard, tmp_path / "out")
    assert caught.value.exit_code == 65


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


def test_a_truncated_shard_is_gone_on_with_to_its_end(base_file: Path, tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", {f"{n:02d}.png": png(n, (8, 8)) for n in range(25)})
    content = shard.read_bytes()
    # a header and one or two blocks of body for each image
    (last,) = [record for record in read_records(str(shard)) if record.key == "22"]
    cut = content.index(last.fields["png"]) + 40
    shard.write_bytes(content[:cut])
    with pytest.raises(StoppedError):
        run(base_file, shard, tmp_path / "out", watcher=Killer(1))
    encoded = run(base_file, shard, tmp_path / "out", max_error_rate=1)
    assert isinstance(encoded.complaint, InputError)
    assert encoded.complaint.exit_code == 65
    functaset = open_functaset(tmp_path / "out")
    assert functaset.keys.tolist() == [f"{n:02d}" for n in range(22)]
    assert ["cut short" in failure.reason for failure in functaset.failures] == [True]
    again = run(base_file, shard, tmp_path / "out", max_error_rate=1)
    assert again.was_finished
    assert isinstance(again.complaint, InputError)


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
