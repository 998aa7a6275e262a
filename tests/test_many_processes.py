"""Several processes make one functaset, whatever becomes of some of them: the same as one process makes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from functaconv.conversion import Encoded, Watcher, encode, work
from functaconv.errors import FunctaconvError, InputError, OutputExistsError, UsageError
from functaconv.functaset import beginning
from functaconv.functaset.blocks import Block
from functaconv.functaset.checks import verify
from functaconv.functaset.claims import Claims, Held, Owner
from functaconv.functaset.ledger import Part
from functaconv.functaset.reader import open_functaset
from functaconv.functaset.writer import FunctasetWriter
from functaconv.parallel import Ranks

from .test_conversion import Killer, stored_tree

FEW = 4


@pytest.fixture(autouse=True)
def small_blocks(no_waiting_for_the_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "LEAST_BLOCK", FEW)
    monkeypatch.setattr(work, "MOST_BLOCK", FEW)


@pytest.fixture(scope="module")
def shards(image_shards: Callable[..., Path]) -> Path:
    """Two shards of 13 and 12 images: seven blocks."""
    return image_shards(25, items_per_shard=13, seed=4)


@pytest.fixture
def undisturbed(base_file: Path, shards: Path, tmp_path: Path) -> dict[str, bytes]:
    run(base_file, shards, tmp_path / "undisturbed.zarr")
    return stored_tree(tmp_path / "undisturbed.zarr")


def run(base: Path, shards: Path | str, output: Path, **options: Any) -> Encoded:
    return encode(base, str(shards), output, device="cpu", workers=1, **options)


class Slow(Watcher):
    """Says that it is at its first batch, and stays there until it may go on."""

    def __init__(self, busy: threading.Event, may_go_on: threading.Event) -> None:
        self.busy, self.may_go_on = busy, may_go_on

    def report(self, *_: Any) -> None:
        self.busy.set()
        self.may_go_on.wait(60)


def rank(number: int, count: int = 2, name: str = "a run") -> Ranks:
    return Ranks(number, count, number, name, "torchrun")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_ranks_that_share_the_work_make_what_one_makes(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes], count: int
) -> None:
    found: dict[int, Encoded] = {}

    def one(number: int) -> None:
        found[number] = run(base_file, shards, tmp_path / "out.zarr", ranks=rank(number, count))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == count
    with_report = [encoded for encoded in found.values() if encoded.report and not encoded.was_finished]
    assert len(with_report) == 1
    assert with_report[0].report["count"] == 25
    assert stored_tree(tmp_path / "out.zarr") == undisturbed
    assert verify(tmp_path / "out.zarr") == []
    assert open_functaset(tmp_path / "out.zarr").attributes.run == "a run"


def test_fewer_shards_than_ranks_are_cut_by_records(base_file: Path, shards: Path, tmp_path: Path) -> None:
    """While one rank is busy with its first block, the other does the rest of the same shard."""
    first = sorted(shards.glob("*.tar"))[0]
    busy, done = threading.Event(), threading.Event()

    output = tmp_path / "out.zarr"
    slow = threading.Thread(
        target=lambda: run(base_file, first, output, watcher=Slow(busy, done), ranks=rank(0)), daemon=True
    )
    slow.start()
    assert busy.wait(60)
    other = run(base_file, first, output, ranks=rank(1))
    made = sorted(file.parent.name for file in output.glob("_parts/*/done.json"))
    done.set()
    slow.join()
    # one block in its hands, and the one after it
    assert made == ["000000.000002", "000000.000003"]
    assert other.left_to == (f"rank 0 (pid {os.getpid()} on {Owner('').host})",)
    assert other.report == {}
    assert open_functaset(output).attributes.count == 13


def test_what_a_dead_rank_left_is_taken_up(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    output = tmp_path / "out.zarr"
    with pytest.raises(FunctaconvError):
        run(base_file, shards, output, watcher=Killer(2), ranks=rank(0))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = Owner("a run", 0, 2, pid=dead.pid)
    for name in ("000000.000002", "000001", "finalise"):
        claim = json.dumps({"owner": asdict(owner), "beats": 0})
        (output / f"_parts/{name}.claim").write_text(claim)
    encoded = run(base_file, shards, output, ranks=rank(1))
    assert encoded.report["count"] == 25
    assert stored_tree(output) == undisturbed


@pytest.mark.parametrize("name", ["a run", "an earlier run"])
def test_what_a_lost_machine_left_at_the_end_is_taken_up(
    base_file: Path,
    shards: Path,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its owner cannot be asked: all parts are done, and somebody was finishing it."""
    output = tmp_path / "out.zarr"
    monkeypatch.setattr(Claims.__init__, "__kwdefaults__", {**Claims.__init__.__kwdefaults__, "silence": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(FunctasetWriter, "assemble", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(base_file, shards, output, ranks=rank(0))
    owner = Owner(name, 1, 2, machine="another machine", host="far")
    (output / "_parts/finalise.claim").write_text(json.dumps({"owner": asdict(owner), "beats": 7}))
    assert run(base_file, shards, output, ranks=rank(0)).report["count"] == 25
    assert stored_tree(output) == undisturbed


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_who_comes_to_finish_it_too_late_leaves_it_alone(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another rank has sealed it and is about to remove the parts."""
    output, take = tmp_path / "out.zarr", Claims.take_surely

    def after_another(claims: Claims, name: str) -> Held | None:
        monkeypatch.setattr(Claims, "take_surely", take)
        run(base_file, shards, output, ranks=rank(0))
        (output / "_parts").mkdir()
        return take(claims, name)

    monkeypatch.setattr(Claims, "take_surely", after_another)
    assert run(base_file, shards, output, ranks=rank(1)).was_finished
    assert stored_tree(output) == undisturbed


@pytest.mark.parametrize("swept", [True, False])
def test_a_rank_that_was_silent_for_long_leaves_its_part_to_who_took_it_over(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes], swept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    output, commit = tmp_path / "out.zarr", FunctasetWriter.commit
    claim = output / "_parts/000000.000001.claim"
    other = Owner("a run", 1, 2)

    def too_late(writer: FunctasetWriter, part: Part, number: int, block: Block) -> None:
        if part == Part(0, 1):
            claim.write_text(json.dumps({"owner": asdict(other), "beats": 0}))
            if swept:
                raise FileNotFoundError
        commit(writer, part, number, block)

    with monkeypatch.context() as patch:
        patch.setattr(FunctasetWriter, "commit", too_late)
        assert run(base_file, shards, output, ranks=rank(0)).left_to == ((str(other),) if swept else ())
    if swept:
        claim.unlink()
        assert run(base_file, shards, output, ranks=rank(1)).report["count"] == 25
    assert stored_tree(output) == undisturbed


def test_a_second_run_on_the_same_output_is_told_who_has_it(base_file: Path, shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    busy, done = threading.Event(), threading.Event()

    slow = threading.Thread(target=lambda: run(base_file, shards, output, watcher=Slow(busy, done)), daemon=True)
    slow.start()
    assert busy.wait(60)
    for options in ({}, {"overwrite": True}, {"retry_failed": True}):
        with pytest.raises(OutputExistsError, match=f"another run: rank 0 .pid {os.getpid()} on"):
            run(base_file, shards, output, **options)
    done.set()
    slow.join()
    assert open_functaset(output).attributes.count == 25


def test_ranks_with_overwrite_replace_once(base_file: Path, shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    run(base_file, shards, output, steps=1)
    with pytest.raises(FunctaconvError):
        run(base_file, shards, output, overwrite=True, watcher=Killer(2), ranks=rank(0, name="second"))
    before = sorted(output.glob("_parts/*/*.npz"))
    assert before
    seen: list[str] = []

    class Listening(Watcher):
        def announce(self, message: str) -> None:
            seen.append(message)

    encoded = run(base_file, shards, output, overwrite=True, watcher=Listening(), ranks=rank(1, name="second"))
    assert encoded.report["count"] == 25
    assert any(message.startswith("going on: ") for message in seen)
    # a straggler of the same run leaves the finished one alone, another run does not
    again = run(base_file, shards, output, overwrite=True, ranks=rank(0, name="second"))
    assert again.was_finished
    assert not run(base_file, shards, output, overwrite=True, ranks=rank(0, name="third")).was_finished


def test_ranks_that_overwrite_at_the_same_time_replace_once(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have seen the old one before any has replaced it, and the last comes when the first is at work."""
    output, count = tmp_path / "out.zarr", 3
    run(base_file, shards, output, steps=1)
    together, at_work, create = threading.Barrier(count), threading.Event(), beginning._create

    def all_at_once(path: Path, *arguments: Any, **options: Any) -> None:
        if together.wait(60) == 0:
            at_work.wait(60)
        create(path, *arguments, **options)

    class Working(Watcher):
        def report(self, *_: Any) -> None:
            at_work.set()

    monkeypatch.setattr(beginning, "_create", all_at_once)
    found: list[Encoded] = []

    def one(number: int) -> None:
        ranks = rank(number, count, "new")
        found.append(run(base_file, shards, output, overwrite=True, watcher=Working(), ranks=ranks))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == count
    assert sum(bool(encoded.report) and not encoded.was_finished for encoded in found) == 1
    assert stored_tree(output) == undisturbed
    assert list(tmp_path.glob(".out.zarr*")) == []


def test_a_limit_is_the_same_for_any_number_of_ranks(base_file: Path, shards: Path, tmp_path: Path) -> None:
    for number, limit in enumerate((3, 8, 13, 17, 25, 40)):
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


def test_a_shard_that_lost_records_since_it_was_cut_is_noticed(
    base_file: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shutil.copy(sorted(shards.glob("*.tar"))[0], tmp_path / "a.tar")
    with pytest.raises(FunctaconvError):
        run(base_file, shard, tmp_path / "out.zarr", watcher=Killer(1))
    ranges = tmp_path / "out.zarr/_parts/000000.ranges.json"
    cut = json.loads(ranges.read_text())
    # as if there had been more records than there are, with both ends of the file unchanged
    cut[-1]["stop"] = 16
    ranges.write_text(json.dumps(cut))
    with pytest.raises(InputError, match=r"changed input: .*ends after 13 records, when the work began it had 16"):
        run(base_file, shard, tmp_path / "out.zarr")


def test_a_process_that_is_killed_is_followed_by_another(
    base_file: Path, shards: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """With kill -9, in the middle of its work, its claims left behind."""
    output = tmp_path / "out.zarr"
    program = f"""
import time
from functaconv.conversion import Watcher, encode, work
work.LEAST_BLOCK = work.MOST_BLOCK = {FEW}
class Slow(Watcher):
    def report(self, done, failed, total, mean_psnr):
        time.sleep(60 * (done > 5))
encode({str(base_file)!r}, {str(shards)!r}, {str(output)!r}, device="cpu", workers=1, watcher=Slow())
"""
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})
    for _ in range(600):
        if list(output.glob("_parts/*/*.npz")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(output.glob("_parts/*.claim"))
    assert run(base_file, shards, output).report["count"] == 25
    assert stored_tree(output) == undisturbed


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
