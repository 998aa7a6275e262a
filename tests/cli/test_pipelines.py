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


@pytest.mark.slow
def test_from_a_folder_to_pictures_in_one_line(world: World, tmp_path: Path, shell: Shell) -> None:
    ran = shell(
        f"functaconv pack {world.images} - | functaconv encode {world.base} - OUT.zarr >report.txt "
        "&& functaconv render OUT.zarr - --size 256x256 --format npy -q | head -c 10"
    )
    # far more than a pipe holds: a reader that leaves early is no error
    assert ran.code == 0, ran.errors
    assert len(ran.raw) == 10
    assert "Traceback" not in ran.errors
    piped, stored = open_functaset(tmp_path / "OUT.zarr"), open_functaset(world.store)
    assert piped.keys.tolist() == stored.keys.tolist()
    # the blocks are others, therefore the batches, therefore the order of sums
    np.testing.assert_allclose(piped.psnr, stored.psnr, atol=0.05)


def test_a_base_is_learned_from_what_a_command_gives(world: World, tmp_path: Path, invoke: Invoke) -> None:
    shard, settings = min(world.shards.glob("*.tar")), ("--minutes", "0", "--latent", "4", "--json")
    command = f"pipe:gzip -c {shard} | cat"
    refused = invoke("fit-base", command, tmp_path / "piped", *settings)
    assert (refused.code, "--allow-pipe" in refused.errors) == (2, True)
    piped = invoke("fit-base", "--allow-pipe", command, tmp_path / "piped", *settings)
    plain = invoke("fit-base", shard, tmp_path / "plain", *settings)
    assert (piped.code, plain.code) == (0, 0), piped.errors
    assert piped.json["validation_psnr"] == plain.json["validation_psnr"]
    assert invoke("fit-base", "--allow-pipe", command, tmp_path / "piped", *settings).code == 0


@pytest.fixture
def piped(world: World, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Encodes what comes through stdin."""

    def encode(content: bytes, *options: str) -> Ran:
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))  # type: ignore[arg-type]
        monkeypatch.setattr("sys.stdin", stdin)
        return invoke("encode", world.base, "-", tmp_path / "out.zarr", "--json", *options)

    return encode


def test_concatenated_tars_are_read_to_the_end(world: World, tmp_path: Path, piped: Callable[..., Ran]) -> None:
    ran = piped(b"".join(shard.read_bytes() for shard in sorted(world.shards.glob("*.tar"))))
    assert ran.json["count"] == 40, ran.errors
    assert open_functaset(tmp_path / "out.zarr").keys.tolist() == open_functaset(world.store).keys.tolist()


def test_a_pipe_that_was_cut_is_damaged_input(world: World, piped: Callable[..., Ran]) -> None:
    ran = piped((world.shards / "shard-000000.tar").read_bytes()[:9000])
    assert ran.code == 65
    assert ran.json["count"] > 0
    assert "stdin: cut short" in ran.errors


def test_what_came_through_a_pipe_is_not_resumed_and_says_so(world: World, piped: Callable[..., Ran]) -> None:
    content = (world.shards / "shard-000000.tar").read_bytes()
    assert piped(content).json["count"] == 8
    ran = piped(content)
    assert ran.code == 73
    assert "cannot be resumed" in ran.errors
    assert piped(content, "--overwrite").json["count"] == 8


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
