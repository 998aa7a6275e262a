"""Commands among others in a shell: tars come in and go out, and readers that leave early are no error."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from functaconv.functaset.opening import open_functaset
from tests.cli.conftest import Invoke, Ran, World

Shell = Callable[[str], Ran]


def test_from_a_folder_to_pictures_in_one_line(world: World, tmp_path: Path, shell: Shell) -> None:
    ran = shell(
        f"functaconv pack {world.images} - | functaconv encode {world.base} - OUT.zarr >report.txt "
        "&& functaconv render OUT.zarr - --scale 2 | tar t"
    )
    assert ran.code == 0, ran.errors
    names = ran.output.splitlines()
    assert len(names) == 40
    assert all(name.startswith(("cat_", "dog_")) and name.endswith(".png") for name in names)
    assert "Traceback" not in ran.errors
    piped, stored = open_functaset(tmp_path / "OUT.zarr"), open_functaset(world.store)
    assert piped.keys.tolist() == stored.keys.tolist()
    # the blocks are others, therefore the batches, therefore the order of sums
    np.testing.assert_allclose(piped.psnr, stored.psnr, atol=0.05)


def test_concatenated_tars_are_read_to_the_end(world: World, tmp_path: Path, shell: Shell) -> None:
    ran = shell(f"cat {world.shards}/shard-*.tar | functaconv encode {world.base} - OUT2.zarr --json")
    assert ran.code == 0, ran.errors
    assert ran.json["count"] == 40
    assert open_functaset(tmp_path / "OUT2.zarr").keys.tolist() == open_functaset(world.store).keys.tolist()


def test_a_reader_that_leaves_early_is_no_error(world: World, shell: Shell) -> None:
    # far more than a pipe holds
    ran = shell(f"functaconv render {world.store} - --size 256x256 --format npy | head -c 10")
    assert ran.code == 0
    assert len(ran.raw) == 10
    assert ran.errors == ""


def test_a_pipe_that_was_cut_is_damaged_input(world: World, shell: Shell) -> None:
    ran = shell(f"head -c 9000 {world.shards}/shard-000000.tar | functaconv encode {world.base} - cut.zarr --json")
    assert ran.code == 65
    assert ran.json["count"] > 0
    assert "stdin: cut short" in ran.errors


def test_what_came_through_a_pipe_is_not_resumed_and_says_so(
    world: World, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*options: str) -> Ran:
        with (world.shards / "shard-000000.tar").open("rb") as shard:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(shard)))  # type: ignore[arg-type]
            return invoke("encode", world.base, "-", tmp_path / "out.zarr", "--json", *options)

    assert encode().json["count"] == 8
    ran = encode()
    assert ran.code == 73
    assert "cannot be resumed" in ran.errors
    assert encode("--overwrite").json["count"] == 8


def test_one_item_goes_to_stdout_as_it_is(world: World, invoke: Invoke) -> None:
    ran = invoke("render", world.store, "-", "--item", 3, "--format", "npy")
    array = np.load(io.BytesIO(ran.raw), allow_pickle=False)
    assert (array.shape, array.dtype) == ((16, 16, 3), np.float32)
    assert invoke("render", world.store, "-", "--item", 3).raw.startswith(b"\x89PNG")


def test_several_items_go_to_stdout_as_a_tar(world: World, invoke: Invoke) -> None:
    ran = invoke("render", world.store, "-", "--item", "3:5", "--format", "npy", "-q")
    with tarfile.open(fileobj=io.BytesIO(ran.raw)) as archive:
        members = archive.getmembers()
        assert [Path(member.name).suffix for member in members] == [".npy", ".npy"]
        content = archive.extractfile(members[0])
        assert content is not None
        first = np.load(io.BytesIO(content.read()), allow_pickle=False)
    alone = np.load(io.BytesIO(invoke("render", world.store, "-", "--item", 3, "--format", "npy").raw))
    # decoded in a batch of two and alone
    np.testing.assert_allclose(first, alone, atol=1e-5)
    assert ran.errors == ""
