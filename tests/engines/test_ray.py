"""Ray's tasks make what one process makes, also when the process of one is killed."""

import gzip
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from functaconv.conversion import Watcher, encode
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.verify import verify
from tests.benchmarks.kills import contents

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
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def task_of(process: "subprocess.Popen[bytes]") -> int | None:
    """A process of Ray's that this one started, and that runs a task now."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if b"ray::_blocks" not in status.with_name("cmdline").read_bytes():
                continue
            pid = found = int(status.parent.name)
            while found > 1:
                if found == process.pid:
                    return pid
                found = int(re.sub(r".*\) ", "", Path(f"/proc/{found}/stat").read_text()).split()[1])
        except OSError:
            continue
    return None


def test_tasks_of_ray(base_file: Path, shards: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    written, errors = (process := begin(base_file, shards, tmp_path / "out.zarr")).communicate(timeout=250)
    assert process.returncode == 0, errors.decode()
    assert json.loads(written)["count"] == 600
    assert contents(tmp_path / "out.zarr") == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr"]


def test_a_task_whose_process_is_killed_is_run_again(
    base_file: Path, shards: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    # slowly: an item at a time
    process = begin(base_file, shards, output, "--batch-size", "1", "--steps", "30")
    while (pid := task_of(process)) is None:
        assert process.poll() is None, "it was faster than the kill"
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    written, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors.decode()
    assert json.loads(written)["count"] == 600
    assert verify(output) == []
    encode(base_file, str(shards), tmp_path / "one.zarr", device="cpu", batch_size=1, steps=30)
    assert contents(output) == contents(tmp_path / "one.zarr")


def test_a_stop_saves_what_is_finished(
    base_file: Path, shards: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    process = begin(base_file, shards, output)
    while not list(output.glob("_parts/*.npz")):
        assert process.poll() is None, "it was faster than the signal"
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 75, errors.decode()
    assert "records are saved" in errors.decode()
    # another engine goes on
    assert encode(base_file, str(shards), output, device="cpu").report["count"] == 600
    assert contents(output) == undisturbed


def test_an_error_of_the_work_comes_through(base_file: Path, tmp_path: Path) -> None:
    process = begin(base_file, tmp_path / "nothing.tar", tmp_path / "out.zarr")
    process.communicate(timeout=250)
    assert process.returncode == 65


def test_a_shard_that_is_read_through_is_one_task(
    base_file: Path, shards: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Compressed; its blocks come one by one, and a damaged one says so."""
    for shard in shards.glob("*.tar"):
        (tmp_path / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes()))
    cut = sorted(tmp_path.glob("*.gz"))[-1]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    process = begin(base_file, tmp_path / "*.tar.gz", tmp_path / "out.zarr")
    written, errors = process.communicate(timeout=250)
    assert process.returncode == 65, errors.decode()
    assert 550 < json.loads(written)["count"] < 600
    assert open_functaset(tmp_path / "out.zarr").failures[-1].is_damage


def test_gpus_of_the_cluster_that_tasks_do_not_use_are_named(base_file: Path, shards: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Heard(Watcher):
        def announce(self, message: str) -> None:
            said.append(message)

    ray = importlib.import_module("ray")
    ray.init(num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        encode(base_file, str(shards), tmp_path / "out.zarr", engine="ray", watcher=Heard())
    finally:
        ray.shutdown()
    assert [message for message in said if "GPUs" in message] == [
        "the cluster has 2 GPUs, but the tasks run on CPUs: --gpus-per-task 1"
    ]
