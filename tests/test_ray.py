"""Ray actors make what one process makes, also when one of them is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from functaconv.conversion import encode
from functaconv.functaset.checks import verify
from functaconv.functaset.reader import open_functaset

from .benchmarks.kills import contents

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "functaconv", "encode")


@pytest.fixture(scope="module")
def shards(image_shards: Callable[..., Path]) -> Path:
    """Twelve of fifty images, a block each."""
    return image_shards(600, items_per_shard=50, seed=3)


@pytest.fixture(scope="module")
def undisturbed(base_file: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    encode(base_file, str(shards), path, device="cpu")
    return contents(path)


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def begin(base: Path, shards: Path, output: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [*COMMAND, base, shards, output, "--device", "cpu", "--engine", "ray", "--json", *options]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE)


def test_two_actors(base_file: Path, shards: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    written, _ = (process := begin(base_file, shards, tmp_path / "out.zarr")).communicate(timeout=250)
    assert process.returncode == 0
    assert json.loads(written)["count"] == 600
    assert contents(tmp_path / "out.zarr") == undisturbed
    run = open_functaset(tmp_path / "out.zarr").attributes.run
    assert run is not None
    assert run.startswith("ray-")


def test_an_actor_that_is_killed_is_replaced(
    base_file: Path, shards: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    process = begin(base_file, shards, output)
    killed = None
    while killed is None:
        assert process.poll() is None, "it was faster than the kill"
        for claim in output.glob("_parts/*.claim") if list(output.glob("_parts/*/*.npz")) else ():
            try:
                killed = int(json.loads(claim.read_bytes())["owner"]["pid"])
            except (OSError, ValueError):
                continue
            os.kill(killed, signal.SIGKILL)
            break
        time.sleep(0.01)
    written, _ = process.communicate(timeout=250)
    assert process.returncode == 0
    assert json.loads(written)["count"] == 600
    assert verify(output) == []
    assert contents(output) == undisturbed


def test_an_error_of_the_work_comes_through(base_file: Path, tmp_path: Path) -> None:
    process = begin(base_file, tmp_path / "nothing.tar", tmp_path / "out.zarr")
    process.communicate(timeout=250)
    assert process.returncode == 65
