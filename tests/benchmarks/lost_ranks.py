"""What a lost rank costs: `python -m tests.benchmarks.lost_ranks BASE SHARDS OUT.json [--ranks 8]`.

SHARDS are encoded by so many ranks, of which one is killed at its first item, and by the tasks of a SLURM array of
four, of which one is missing and run again later; both must be what one process makes, to the byte. How long it takes
against the ideal, where the others share everything evenly, cannot be seen on a few cores: that is simulated, with the
ranks' own order and blocks that take one unit of time each.
"""

import argparse
import heapq
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from functaconv.engines.ranks import Ranks, in_turn
from functaconv.functaset.opening import open_functaset
from tests.benchmarks.image_quality import provenance
from tests.benchmarks.kills import PROGRAM, block_of, contents


def simulated(ranks: int, blocks: int, lost: int = 1, seed: int = 0) -> dict[str, float]:
    """Blocks that are made twice, and time, when the last `lost` ranks never make any; blocks take 0.9 to 1.1 units."""
    randomly = random.Random(seed)  # noqa: S311 - no secrets
    done: set[int] = set()
    made, time_at_end = 0, 0.0
    orders = [in_turn(Ranks(rank, ranks), range(blocks), turn=int, is_done=done.__contains__)
              for rank in range(ranks - lost)]  # fmt: skip
    # when each rank ends the block in its hand
    coming: list[tuple[float, int, int | None]] = [(0.0, rank, None) for rank in range(len(orders))]
    heapq.heapify(coming)
    while coming:
        now, rank, block = heapq.heappop(coming)
        if block is not None:
            made, time_at_end = made + 1, now
            done.add(block)
        if (following := next(orders[rank], None)) is not None:
            heapq.heappush(coming, (now + randomly.uniform(0.9, 1.1), rank, following))
    assert len(done) == blocks
    return {"blocks": blocks, "made_twice": made - blocks, "over_ideal": round(time_at_end / (blocks / len(orders)), 3)}


def start(base: Path, shards: str, output: Path, notes: Path, told: dict[str, str]) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **told}
    command = [sys.executable, "-c", PROGRAM, *map(str, (base, shards, output, notes))]
    return subprocess.Popen(command, env=environment)


def items_in(notes: Path) -> int:
    return sum(map(int, notes.read_text().split())) if notes.exists() else 0


def one_of_many(base: Path, shards: str, folder: Path, ranks: int) -> dict[str, Any]:
    output, block = folder / "out.zarr", block_of(base, shards)
    told = [{"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "TORCHELASTIC_RUN_ID": "lost"}
            for rank in range(ranks)]  # fmt: skip
    processes = [start(base, shards, output, folder / f"notes-{rank}", one) for rank, one in enumerate(told)]
    lost = ranks - 1
    while not items_in(folder / f"notes-{lost}") and processes[lost].poll() is None:
        time.sleep(0.02)
    processes[lost].send_signal(signal.SIGKILL)
    codes = [process.wait() for process in processes]
    fitted = [items_in(folder / f"notes-{rank}") for rank in range(ranks)]
    count = open_functaset(output).attributes.count
    return {"ranks": ranks, "exit_codes": codes, "items": count, "fitted_by_rank": fitted, "block": block,
            "blocks_made_twice": round((sum(fitted) - count) / block, 2)}  # fmt: skip


def array_of_four(base: Path, shards: str, folder: Path) -> dict[str, Any]:
    output, missing = folder / "array.zarr", 2

    def task(number: int) -> Any:
        told = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_JOB_ID": "77"}  # fmt: skip
        return start(base, shards, output, folder / f"array-{number}", told)

    process = task(missing)
    while not items_in(folder / f"array-{missing}") and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    codes = [one.wait() for one in [task(number) for number in range(4) if number != missing]]
    again = task(missing).wait()
    return {"exit_codes": codes, "missing_task_run_again": again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start(asked.base, asked.shards, folder / "one.zarr", folder / "one", {}).wait()
        expected = contents(folder / "one.zarr")
        row: dict[str, Any] = {
            "one_of_many": one_of_many(asked.base, asked.shards, folder, asked.ranks),
            "array": array_of_four(asked.base, asked.shards, folder),
            "simulated": [simulated(asked.ranks, blocks) for blocks in (80, 800, 8000)],
            "identical": {other: contents(folder / other) == expected for other in ("out.zarr", "array.zarr")},
            **provenance(),
        }
    asked.out.write_text(json.dumps(row, indent=2) + "\n")
    print(json.dumps(row))
    sys.exit(not all(row["identical"].values()))


if __name__ == "__main__":
    main()
