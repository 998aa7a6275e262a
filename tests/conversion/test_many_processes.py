"""Several processes make one functaset, whatever becomes of some of them: the same as one process makes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from functaconv.conversion import Encoded, Watcher, encode
from functaconv.engines.ranks import Ranks
from functaconv.errors import FunctaconvError, InputError, OutputExistsError, UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.verify import verify
from tests.conversion.test_encode import Killer, stored_tree


@pytest.fixture(scope="module")
def shards(image_shards: Callable[..., Path]) -> Path:
    """Seven shards, of which the last has one image."""
    return image_shards(25, items_per_shard=4, seed=4)


@pytest.fixture(scope="module")
def undisturbed(base_file: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("undisturbed") / "undisturbed.zarr"
    run(base_file, shards, path)
    return stored_tree(path)


def run(base: Path, shards: Path | str, output: Path, **options: Any) -> Encoded:
    return encode(base, str(shards), output, device="cpu", workers=1, batch_size=64, **options)


class Slow(Watcher):
    """Says that it is at its first batch, and stays there until it may go on."""

    def __init__(self, busy: threading.Event, may_go_on: threading.Event) -> None:
        self.busy, self.may_go_on = busy, may_go_on

    def report(self, *_: Any) -> None:
        self.busy.set()
        self.may_go_on.wait(60)


class Listening(Watcher):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def announce(self, message: str) -> None:
        self.heard.append(message)


def rank(number: int, count: int = 2, name: str = "a run") -> Ranks:
    return Ranks(number, count, number, name, "torchrun")


def at_the_same_time(calls: list[Callable[[], Encoded]]) -> list[Encoded]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize("count", [2, 9])
def test_ranks_that_share_the_work_make_what_one_makes(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes], count: int
) -> None:
    def one(number: int) -> Encoded:
        return run(base_file, shards, tmp_path / "out.zarr", ranks=rank(number, count))

    found = at_the_same_time([lambda number=number: one(number) for number in range(count)])
    assert [encoded.report["count"] for encoded in found] == [25] * count
    # one tells its user
    assert sum(not encoded.reported_elsewhere for encoded in found) == 1
    assert sum(not encoded.was_finished for encoded in found) == 1
    assert stored_tree(tmp_path / "out.zarr") == undisturbed
    assert verify(tmp_path / "out.zarr") == []
    assert open_functaset(tmp_path / "out.zarr").attributes.run == "a run"
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_a_rank_that_hangs_holds_nobody_up(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """The other one makes the whole share of it, also the block that it is at."""
    busy, done, output = threading.Event(), threading.Event(), tmp_path / "out.zarr"
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(run, base_file, shards, output, watcher=Slow(busy, done), ranks=rank(0))
        assert busy.wait(60)
        other = run(base_file, shards, output, ranks=rank(1))
        assert (other.was_finished, other.report["count"]) == (False, 25)
        assert stored_tree(output) == undisturbed
        done.set()
        late = slow.result()
    # it had a block to save, and nowhere to put it
    assert late.was_finished
    assert late.reported_elsewhere
    assert stored_tree(output) == undisturbed


@pytest.mark.parametrize("batches", [1, 3])
def test_what_a_dead_rank_left_is_made_by_the_others(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes], batches: int
) -> None:
    output = tmp_path / "out.zarr"
    with pytest.raises(FunctaconvError):
        run(base_file, shards, output, watcher=Killer(batches), ranks=rank(0))
    assert run(base_file, shards, output, ranks=rank(1)).report["count"] == 25
    assert stored_tree(output) == undisturbed


def test_a_second_run_on_the_same_output_is_told_who_has_it(base_file: Path, shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    busy, done = threading.Event(), threading.Event()
    slow = threading.Thread(target=lambda: run(base_file, shards, output, watcher=Slow(busy, done)), daemon=True)
    slow.start()
    assert busy.wait(60)
    for options in ({}, {"overwrite": True}, {"retry_failed": True}):
        with pytest.raises(OutputExistsError, match=f"another run: pid {os.getpid()} on") as caught:
            run(base_file, shards, output, **options)
        assert caught.value.exit_code == 73
    done.set()
    slow.join()
    assert open_functaset(output).attributes.count == 25


def test_ranks_with_overwrite_replace_once(base_file: Path, shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    run(base_file, shards, output, steps=1)
    with pytest.raises(FunctaconvError):
        run(base_file, shards, output, overwrite=True, watcher=Killer(2), ranks=rank(0, name="second"))
    assert list(output.glob("_parts/*.npz"))
    listening = Listening()
    encoded = run(base_file, shards, output, overwrite=True, watcher=listening, ranks=rank(1, name="second"))
    assert encoded.report["count"] == 25
    assert any(message.startswith("going on: ") for message in listening.heard)
    # a straggler of the same run leaves the finished one alone, another run does not
    again = run(base_file, shards, output, overwrite=True, ranks=rank(0, name="second"))
    assert again.was_finished
    assert not run(base_file, shards, output, overwrite=True, ranks=rank(0, name="third")).was_finished


def test_ranks_that_overwrite_at_the_same_time_replace_once(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    output, count = tmp_path / "out.zarr", 3
    run(base_file, shards, output, steps=1)
    calls = [
        lambda number=number: run(base_file, shards, output, overwrite=True, ranks=rank(number, count, "new"))
        for number in range(count)
    ]
    encoded = at_the_same_time(calls)  # type: ignore[arg-type]
    assert sum(not one.was_finished for one in encoded) == 1
    assert stored_tree(output) == undisturbed
    assert list(tmp_path.glob(".out.zarr*")) == []


def test_a_block_of_other_settings_is_not_sealed(base_file: Path, shards: Path, tmp_path: Path) -> None:
    """A rank of an earlier run was still at work when its output was overwritten."""
    output = tmp_path / "out.zarr"
    for name, steps in (("earlier", 1), ("now", 3)):
        with pytest.raises(FunctaconvError):
            run(base_file, shards, output.with_name(name), steps=steps, watcher=Killer(2), ranks=rank(0))
    late = tmp_path / "earlier/_parts/000000-000000.last.npz"
    late.rename(tmp_path / "now/_parts/000000-000000.last.npz")
    with pytest.raises(InputError, match=r"000000-000000\.last\.npz: damaged: it is no block of this run") as caught:
        run(base_file, shards, tmp_path / "now", steps=3)
    assert "delete" in str(caught.value.hint)


def test_a_limit_is_the_same_for_any_number_of_ranks(base_file: Path, shards: Path, tmp_path: Path) -> None:
    for number, limit in enumerate((3, 8, 17, 40)):
        alone, shared = tmp_path / f"{number}.zarr", tmp_path / f"{number}-shared.zarr"
        run(base_file, shards, alone, limit=limit)
        with pytest.raises(FunctaconvError):
            run(base_file, shards, shared, limit=limit, watcher=Killer(1), ranks=rank(0))
        run(base_file, shards, shared, limit=limit, ranks=rank(1))
        assert stored_tree(alone) == stored_tree(shared)
        assert open_functaset(alone).attributes.count == min(limit, 25)


def test_several_processes_cannot_share_a_pipe(base_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot share a pipe"):
        run(base_file, "-", tmp_path / "out.zarr", ranks=rank(0))


@pytest.mark.slow
def test_a_process_that_is_killed_is_followed_by_another(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """With kill -9, in the middle of its work."""
    output = tmp_path / "out.zarr"
    program = f"""
import time
from functaconv.conversion import Watcher, encode
class Slow(Watcher):
    def report(self, done, failed, total, mean_psnr):
        time.sleep(60 * (done > 5))
encode({str(base_file)!r}, {str(shards)!r}, {str(output)!r}, device="cpu", workers=1, batch_size=64, watcher=Slow())
"""
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})
    for _ in range(600):
        if list(output.glob("_parts/*.npz")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(output.glob("_parts/*.npz"))
    assert run(base_file, shards, output).report["count"] == 25
    assert stored_tree(output) == undisturbed
    assert list(tmp_path.glob(".*")) == []


def test_tasks_of_a_slurm_array_share_the_work(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the environment alone; the first task is stopped and never comes back."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(FunctaconvError):
        run(base_file, shards, tmp_path / "out.zarr", watcher=Killer(2))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert run(base_file, shards, tmp_path / "out.zarr").report["count"] == 25
    assert stored_tree(tmp_path / "out.zarr") == undisturbed
    monkeypatch.delenv("SLURM_ARRAY_TASK_COUNT")
    with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_COUNT"):
        run(base_file, shards, tmp_path / "out.zarr")
