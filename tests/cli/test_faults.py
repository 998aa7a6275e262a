"""Everything that can go wrong around an encoding, each with its exit code; whatever can be gone on with, is."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from functaconv.conversion import Watcher
from functaconv.conversion import encode as convert
from functaconv.errors import StoppedError
from functaconv.functaset.opening import open_functaset
from tests.cli.conftest import SMALL, Invoke, Ran, World, assert_same_functaset, wait_until
from tests.data.servers import Answer, Script, serving

Encode = Callable[..., Ran]
COUNT = 8


@pytest.fixture(scope="module")
def shard(world: World) -> bytes:
    """A sound one of eight images."""
    return sorted(world.shards.glob("*.tar"))[0].read_bytes()


@pytest.fixture
def encode(world: World, tmp_path: Path, invoke: Invoke) -> Encode:
    def call(*arguments: object, out: Path | None = None) -> Ran:
        return invoke("encode", world.base, *arguments, out or tmp_path / "out.zarr", "--device", "cpu")

    return call


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_full_then_is_not(small_disk: Path, world: World, encode: Encode, tmp_path: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(200 << 10))
    out = small_disk / "out.zarr"
    ran = encode(world.shards, out=out)
    assert ran.code == 73, ran.errors
    assert os.strerror(errno.ENOSPC) in ran.errors
    filler.unlink()
    assert encode(world.shards, out=out).code == 0
    assert_same_functaset(out, world.store)


def test_a_target_that_turned_read_only(small_disk: Path, world: World, encode: Encode) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    ran = encode(world.shards, out=small_disk / "out.zarr")
    assert ran.code == 73, ran.errors
    assert os.strerror(errno.EROFS) in ran.errors
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert encode(world.shards, out=small_disk / "out.zarr").code == 0


def begun(world: World, shards: Path, out: Path) -> None:
    """An encoding that was stopped after its first block."""

    class StopsAtOnce(Watcher):
        def report(self, *_: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError):
        convert(world.base, str(shards), out, device="cpu", watcher=StopsAtOnce())


@pytest.mark.parametrize("how", ["replaced", "vanished"])
def test_an_input_that_is_another_between_two_runs(how: str, world: World, encode: Encode, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(world.shards, tmp_path / "shards"))
    first, second = sorted(shards.glob("*.tar"))[:2]
    begun(world, shards, tmp_path / "out.zarr")
    kept = first.read_bytes()
    if how == "replaced":
        shutil.copy(second, first)
    else:
        first.unlink()
        (shards / "more.tar").write_bytes(kept)
    ran = encode(shards)
    assert ran.code == (65 if how == "replaced" else 73), ran.errors
    assert ("changed input" if how == "replaced" else "other settings: settings.shards") in ran.errors
    # put back as it was, it is gone on with
    first.write_bytes(kept)
    (shards / "more.tar").unlink(missing_ok=True)
    assert encode(shards).code == 0
    assert_same_functaset(tmp_path / "out.zarr", world.store)


def test_a_base_that_is_another_between_two_runs(world: World, encode: Encode, tmp_path: Path, invoke: Invoke) -> None:
    begun(world, world.shards, tmp_path / "out.zarr")
    other = tmp_path / "other.safetensors"
    assert invoke("fit-base", world.shards, other, "--steps", 2, "--device", "cpu", *SMALL).code == 0
    ran = invoke("encode", other, world.shards, tmp_path / "out.zarr", "--device", "cpu")
    assert ran.code == 73, ran.errors
    assert "other settings: settings.base" in ran.errors
    assert encode(world.shards).code == 0


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are waited for less long, and asked again sooner."""
    monkeypatch.setenv("FUNCTACONV_SOURCE_TIMEOUT", "0.6")


# what the server does, request by request, once the shard has been seen to be there
@pytest.mark.parametrize(
    ("answers", "code", "count"),
    [
        pytest.param([Answer(404)], 65, None, id="404"),
        pytest.param([Answer(503), Answer(503), Answer()], 0, COUNT, id="503 twice, then works"),
        pytest.param([Answer(503)], 69, None, id="503 for ever"),
        pytest.param([Answer(), Answer(stop=3000), Answer(stop=2000), Answer()], 0, COUNT, id="stops mid-body"),
        pytest.param([Answer(), Answer(stop=3000), Answer(etag='"b"')], 65, None, id="becomes another"),
    ],
)
def test_a_web_server(
    answers: list[Answer], code: int, count: int | None, shard: bytes, encode: Encode, tmp_path: Path, hasty: None
) -> None:
    with serving(Script(shard, answers)) as script:
        ran = encode(f"{script.url}/a.tar?signature=SECRET")
    assert ran.code == code, ran.errors
    assert "SECRET" not in ran.errors
    if count is not None:
        assert open_functaset(tmp_path / "out.zarr").attributes.count == count
        assert "SECRET" not in (tmp_path / "out.zarr/zarr.json").read_text()


def test_what_a_server_owed_is_gone_on_with(
    world: World, shard: bytes, encode: Encode, tmp_path: Path, hasty: None
) -> None:
    """A server that failed damaged nothing: it is asked again by the next run."""
    (tmp_path / "local.tar").write_bytes(shard)
    with serving(Script(shard, [Answer(stop=3000), Answer(503)])) as script:
        url = f"{script.url}/a.tar"
        assert encode(tmp_path / "local.tar", url).code == 69
        assert (tmp_path / "out.zarr/_parts").exists()
        script.answers[:] = [Answer()]
        assert encode(tmp_path / "local.tar", url).code == 0
    assert open_functaset(tmp_path / "out.zarr").attributes.count == 2 * COUNT


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's end")
@pytest.mark.slow
def test_a_worker_of_torchrun_ends_with_it(world: World, tmp_path: Path, environment: Mapping[str, str]) -> None:
    """Torchrun is killed with -9 and cannot tell anybody; what the worker had done is saved."""
    program = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "functaconv", "encode", {str(world.base)!r}, {str(world.shards)!r},
                  {str(tmp_path / "out.zarr")!r}, "--device", "cpu", "--batch-size", "1"])
time.sleep(600)
"""
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "a run"}
    parent = subprocess.Popen([sys.executable, "-c", program], env={**environment, **ranks})
    blocks = tmp_path / "out.zarr/_parts"
    wait_until(lambda: list(blocks.glob("*.npz")), parent)
    (child,) = map(int, Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    os.kill(child, signal.SIGCONT)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.02)
    assert (blocks / "settings.json").exists(), "it had gone on to the end"
