"""Kill -9 again and again: `python -m tests.benchmarks.kills BASE SHARDS OUT.json [--kills 20] [--seed 0]`.

SHARDS are encoded by one to three ranks, all of which are killed at a random moment, again and again, until that has
happened so many times; each time the functaset is complete before that, it is compared with one that nobody disturbed
and another is begun. Every process notes what it fits: the items that were fitted more than once are the block in hand
of each rank that was killed, and at the end of a functaset a block of each rank that found nothing else to do.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from functaconv.conversion import EncodeOptions
from functaconv.conversion.work import Work
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.verify import verify
from tests.benchmarks.provenance import provenance

MOST_RANKS = 3
PROGRAM = """
import os, sys
from functaconv.conversion import Watcher, encode
base, shards, output, notes = sys.argv[1:]

class Noting(Watcher):
    def __init__(self):
        self.file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.before = None

    def announce(self, message):
        if message.startswith("going on: "):
            self.before = int(message.split()[2])

    def report(self, done, failed, total, mean_psnr):
        self.before = self.before or 0
        os.write(self.file, f"{done - self.before}\\n".encode())
        self.before = done

encode(base, shards, output, device="cpu", workers=1, watcher=Noting())
"""


@dataclass
class Found:
    """What came of the kills."""

    kills: int = 0
    ranks_killed: int = 0
    ranks_ended: int = 0
    """ranks that were at work when a functaset was finished"""
    completed: int = 0
    """functasets that were finished, and found identical"""
    items: int = 0
    """of one functaset"""
    fitted: int = 0
    """items, by all processes together"""
    differences: list[str] = field(default_factory=list)

    @property
    def redone(self) -> int:
        return self.fitted - self.completed * self.items


def disturb(base: Path, shards: str, folder: Path, *, kills: int, seed: int, patience: float = 6.0) -> Found:
    """Kill and resume. A kill comes up to `patience` seconds after the first item."""
    randomly, found = random.Random(seed), Found()  # noqa: S311 - the same kills again, not secrets
    undisturbed, notes = folder / "undisturbed.zarr", folder / "notes"
    _start(base, shards, undisturbed, folder / "reference", 0, 1, "reference").wait()
    wanted = contents(undisturbed)
    found.items = open_functaset(undisturbed).attributes.count
    output = folder / "out.zarr"
    while found.kills < kills or output.exists():
        ranks = randomly.randint(1, MOST_RANKS)
        before, began = _noted(notes), time.monotonic()
        run = f"run-{seed}-{found.kills}-{found.completed}"
        processes = [_start(base, shards, output, notes, rank, ranks, run) for rank in range(ranks)]
        if found.kills < kills:
            # most of the time would go by before the first item
            while _noted(notes) == before and any(one.poll() is None for one in processes):
                time.sleep(0.01)
            time.sleep(randomly.uniform(0, patience))
            alive = [one for one in processes if one.poll() is None]
            for one in alive:
                one.send_signal(signal.SIGKILL)
            found.kills += bool(alive)
            found.ranks_killed += len(alive)
        for one in processes:
            one.wait()
        print(
            f"{found.kills} kills, {ranks} ranks, {time.monotonic() - began:.1f} s, {_noted(notes) - before} items",
            file=sys.stderr,
        )
        if (output / "report.json").exists() and not (output / "_parts").exists():
            found.completed += 1
            found.ranks_ended += ranks
            found.differences += [name for name, content in contents(output).items() if wanted.get(name) != content]
            found.differences += [f"missing: {name}" for name in wanted.keys() - contents(output).keys()]
            found.differences += verify(output)
            shutil.rmtree(output)
    found.fitted = _noted(notes)
    return found


def contents(path: Path) -> dict[str, bytes]:
    """Every file that must not depend on who made it."""
    # the report has the time in it, and the attributes the run
    told = ("report.json", "zarr.json")
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and not (file.parent == path and file.name in told)
    }


def _start(
    base: Path, shards: str, output: Path, notes: Path, rank: int, ranks: int, run: str
) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
        "TORCHELASTIC_RUN_ID": run,
    }  # fmt: skip
    arguments: Sequence[Any] = (base, shards, output, notes)
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)], env=environment)


def block_of(base: Path, shards: str) -> int:
    """Records that are saved together."""
    return Work.of(base, shards, EncodeOptions(device="cpu")).block


def _noted(notes: Path) -> int:
    return sum(map(int, notes.read_text().split())) if notes.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=6.0, help="seconds after the first item, at most")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = disturb(
            asked.base, asked.shards, Path(folder), kills=asked.kills, seed=asked.seed, patience=asked.patience,
        )  # fmt: skip
    block = block_of(asked.base, asked.shards)
    most = block * (found.ranks_killed + found.ranks_ended)
    row = {
        "kills": found.kills, "ranks_killed": found.ranks_killed, "functasets": found.completed, "items": found.items,
        "redone": found.redone, "block": block, "most_redone": most,
        "differences": found.differences, **provenance(),
    }  # fmt: skip
    asked.out.write_text(json.dumps(row, indent=2) + "\n")
    print(json.dumps(row))
    sys.exit(bool(found.differences) or found.redone > most)


if __name__ == "__main__":
    main()
