"""Gauss-Newton beside gradient steps: `python -m tests.benchmarks.solver_pairs DATA OUT.jsonl [CELL ...]`.

DATA is a folder with cifar10/ and lfw64/ as train-*.tar and test-*.tar. For each cell two bases of the same network
size learn at the same time for the same minutes, one thread each, one with each solver; both encode the whole test
split, every PSNR is recomputed from the pixels, and PCA with as many numbers is fitted on the training split. One
JSON row per cell; a cell whose row is there is skipped, a base that is half trained goes on. The logs of the
trainings (dB against seconds, on 256 test items) stay beside OUT.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.provenance import provenance

SOLVERS = ("gradient", "gauss-newton")
OF_SOME = ("voxel_accuracy", "iou", "rmse", "weighted_rmse", "max_error", "units")
"""what a report says of voxels or of grids"""

PRECISION = {"gradient": "float32", "gauss-newton": "bfloat16"}
"""of Jacobians; all else is float32"""


@dataclass(frozen=True)
class Cell:
    """What two bases learn."""

    dataset: str
    """a folder with train-*.tar and test-*.tar"""
    latent: str
    minutes: float
    settings: Mapping[str, object]
    """of both"""


CELLS = {
    "cifar10-64": Cell("cifar10", "64", 10, {"network.width": 96}),
    "cifar10-256": Cell("cifar10", "256", 20, {"network.width": 128}),
    "lfw64-256": Cell("lfw64", "256", 20, {"network.width": 128}),
    "cifar10-8x8x16": Cell("cifar10", "8x8x16", 20, {"network.width": 192}),
    "cifar10-8x8x16-linear": Cell(
        "cifar10", "8x8x16", 20, {"network.width": 192, "latent.interpolation": "linear", "latent.frame": "local"}
    ),
    "cifar10-8x8x16-3x3": Cell("cifar10", "8x8x16", 20, {"network.width": 192, "latent.kernel": 3}),
}


def main() -> None:
    measure_all(Path(sys.argv[1]), Path(sys.argv[2]), CELLS, sys.argv[3:])


def measure_all(data: Path, out: Path, cells: Mapping[str, Cell], names: Sequence[str]) -> None:
    """Append a row to `out` for every cell that has none there."""
    done = {json.loads(line)["cell"] for line in out.read_text().splitlines()} if out.exists() else set()
    for name in names or cells:
        if name not in done:
            row = measure(data, out.with_suffix(""), name, cells[name])
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row))


def measure(data: Path, work: Path, cell: str, asked: Cell, solvers: tuple[str, ...] = SOLVERS) -> dict[str, Any]:
    train, test = (data / asked.dataset / f"{split}-*.tar" for split in ("train", "test"))
    work.mkdir(parents=True, exist_ok=True)
    options: dict[str, list[str]] = {}
    for solver in solvers:
        chosen = [part for key, value in asked.settings.items() for part in ("--set", f"{key}={value}")]
        options[solver] = ["--solver", solver, "--latent", asked.latent, "--minutes", f"{asked.minutes:g}", *chosen]
        options[solver] += ["--precision", PRECISION[solver]]
    bases = {solver: work / f"{cell}-{solver}.safetensors" for solver in solvers}
    trained = together(
        ["fit-base", train, bases[solver], *options[solver], "--val", test, "--log", log_of(work, cell, solver)]
        for solver in solvers
    )
    stores = {solver: work / f"{cell}-{solver}.zarr" for solver in solvers}
    together(["encode", bases[solver], test, stores[solver], "--precision", PRECISION[solver]] for solver in solvers)
    reports = together(
        ["report", stores[solver], "--against", test, "--baseline", "pca", "--train", train] for solver in solvers
    )
    return {
        "cell": cell,
        "pca": reports[0]["pca"],
        **{
            solver: {
                "psnr": report["against"]["psnr_mean"],
                "items": report["against"]["items"],
                "updates": fitted["updates"],
                "train_seconds": fitted["seconds"],
                "steps": report["steps"],
                "bytes_per_item": report["bytes"]["per_item"],
                "items_per_second": report["items_per_second"],
                "psnr_by_numbers": report.get("psnr_by_numbers"),
                **{name: report[name] for name in OF_SOME if name in report},
                "command": f"functaconv fit-base {asked.dataset}/train-*.tar BASE --val {asked.dataset}/test-*.tar "
                + " ".join(options[solver]),
            }
            for solver, report, fitted in zip(solvers, reports, trained, strict=True)
        },
        "latent": reports[0]["latent"],
        "raw_per_item": reports[0]["bytes"]["raw_per_item"],
        **provenance(),
        "threads": 1,
    }


def log_of(work: Path, cell: str, solver: str) -> Path:
    return work / f"{cell}-{solver}.jsonl"


def together(commands: Any) -> list[dict[str, Any]]:
    """Run commands at the same time, one thread each; what they print."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "functaconv", *map(str, command), "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for command in commands
    ]
    printed = [process.communicate()[0] for process in running]
    for process in running:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return [dict(json.loads(text)) for text in printed]


if __name__ == "__main__":
    main()
