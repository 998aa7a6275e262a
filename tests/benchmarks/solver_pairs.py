"""Gauss-Newton beside gradient steps: `python -m tests.benchmarks.solver_pairs DATA OUT.jsonl [CELL ...]`.

DATA is a folder with cifar10/ and lfw64/ as train-*.tar and test-*.tar. For each cell two bases of the same network
size learn at the same time for the same minutes, one thread each, one with each solver; both encode the whole test
split, every PSNR is recomputed from the pixels, and PCA with as many numbers is fitted on the training split. One
JSON row per cell; a cell whose row is there is skipped, a base that is half trained goes on. The logs of the
trainings (dB against seconds, on 256 test items) stay beside OUT for `solver_curves`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.image_quality import provenance

SOLVERS = ("gradient", "gauss-newton")

CELLS: dict[str, tuple[str, str, float, dict[str, dict[str, object]]]] = {
    # name: dataset, latent, minutes, settings for all solvers and for each
    "cifar10-64": ("cifar10", "64", 10, {}),
    "cifar10-256": ("cifar10", "256", 20, {}),
    "lfw64-256": ("lfw64", "256", 20, {}),
    "cifar10-8x8x16": ("cifar10", "8x8x16", 20, {}),
    "cifar10-8x8x16-linear": ("cifar10", "8x8x16", 20, {"all": {"latent.interpolation": "linear"}}),
    "cifar10-8x8x16-3x3": ("cifar10", "8x8x16", 20, {"all": {"latent.kernel": 3}}),
}
PRECISION = {"gradient": "float32", "gauss-newton": "bfloat16"}
"""of Jacobians; all else is float32"""
WIDTHS = {"cifar10-64": 96, "cifar10-256": 128, "lfw64-256": 128}


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    done = {json.loads(line)["cell"] for line in out.read_text().splitlines()} if out.exists() else set()
    for cell in sys.argv[3:] or CELLS:
        if cell not in done:
            row = measure(data, out.with_suffix(""), cell)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row))


def measure(data: Path, work: Path, cell: str, solvers: tuple[str, ...] = SOLVERS) -> dict[str, Any]:
    dataset, latent, minutes, settings = CELLS[cell]
    train, test = data / dataset / "train-*.tar", data / dataset / "test-*.tar"
    work.mkdir(parents=True, exist_ok=True)
    options: dict[str, list[str]] = {}
    for solver in solvers:
        own = {"network.width": WIDTHS.get(cell, 192), **settings.get("all", {}), **settings.get(solver, {})}
        chosen = [part for key, value in own.items() for part in ("--set", f"{key}={value}")]
        options[solver] = ["--solver", solver, "--latent", latent, "--minutes", f"{minutes:g}", *chosen]
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
                "command": f"functaconv fit-base {dataset}/train-*.tar BASE --val {dataset}/test-*.tar "
                + " ".join(options[solver]),
            }
            for solver, report, fitted in zip(solvers, reports, trained, strict=True)
        },
        "latent": reports[0]["latent"],
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
