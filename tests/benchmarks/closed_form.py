"""The closed form, and what minutes add: `python -m tests.benchmarks.closed_form DATA OUT.jsonl [CELL ...]`.

DATA is a folder with a folder for every dataset below, each with train-*.tar and test-*.tar. For each cell, which may
be CELL@MINUTES or CELL@MINUTES+SEED, a base is fitted in closed form on the training items, and the preset learns on
from there; the test items are encoded, and compared with the data and with PCA of as many numbers, fitted on the same
training items; one thread, one line of JSON per cell. Afterwards a table of all rows is printed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.provenance import provenance


@dataclass(frozen=True)
class Cell:
    """A dataset, a latent, and how items are read."""

    data: str
    latent: str
    reading: tuple[str, ...] = ()


CELLS = {
    "cifar10-64": Cell("cifar10", "64"),
    "cifar10-256": Cell("cifar10", "256"),
    "cifar10-4x4x16": Cell("cifar10", "4x4x16"),
    "cifar10-4x4x32": Cell("cifar10", "4x4x32"),
    "cifar10-8x8x16": Cell("cifar10", "8x8x16"),
    "lfw64-256": Cell("lfw64", "256"),
    "lfw64-8x8x16": Cell("lfw64", "8x8x16"),
    "imagenet256-128-16x16x16": Cell("imagenet256", "16x16x16", ("--crop", "128")),
    "era5_t2m_uk-16": Cell("era5_t2m_uk", "16"),
    "era5_t2m_italy-16": Cell("era5_t2m_italy", "16"),
    "era5_global_t-32": Cell("era5_global_t", "32"),
    "era5_global_z-32": Cell("era5_global_z", "32"),
    "fnoc_winds_global-32": Cell("fnoc_winds_global", "32"),
    "ersst5_global-32": Cell("ersst5_global", "32"),
    "ensembles_tas_global-16": Cell("ensembles_tas_global", "16"),
    "era5_global_t-4x8x8": Cell("era5_global_t", "4x8x8"),
    "era5_global_z-4x8x8": Cell("era5_global_z", "4x8x8"),
    "fnoc_winds_global-4x8x8": Cell("fnoc_winds_global", "4x8x8"),
    "ersst5_global-6x12x8": Cell("ersst5_global", "6x12x8"),
    "ensembles_tas_global-4x8x8": Cell("ensembles_tas_global", "4x8x8"),
    "modelnet10_vox32-64": Cell("modelnet10_vox32", "64"),
    "modelnet10_vox32-256": Cell("modelnet10_vox32", "256"),
    "modelnet10_vox32-1024": Cell("modelnet10_vox32", "1024"),
    # the sizes of functa's table (Dupont et al. 2022)
    "modelnet10_bed_vox64-64": Cell("modelnet10_bed_vox64", "64"),
    "modelnet10_bed_vox64-128": Cell("modelnet10_bed_vox64", "128"),
    "modelnet10_bed_vox64-256": Cell("modelnet10_bed_vox64", "256"),
    "modelnet10_bed_vox64-512": Cell("modelnet10_bed_vox64", "512"),
    "lfw64-64": Cell("lfw64", "64"),
    "lfw64-1024": Cell("lfw64", "1024"),
    "era5_global_t-64": Cell("era5_global_t", "64"),
}


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    for asked in sys.argv[3:] or CELLS:
        learned, _, seed = asked.partition("+")
        name, _, minutes = learned.partition("@")
        row = measured(data, name, CELLS[name], minutes or "0", seed or "0")
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(table([row]).splitlines()[-1], flush=True)
    print(table([json.loads(line) for line in out.read_text().splitlines()]))


def measured(data: Path, name: str, cell: Cell, minutes: str, seed: str) -> dict[str, Any]:
    train, test = (str(data / cell.data / f"{split}-*.tar") for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as folder:
        base, store = f"{folder}/base.safetensors", f"{folder}/test.zarr"
        fit = ("fit-base", train, base, "--latent", cell.latent, "--minutes", minutes, "--seed", seed, *cell.reading)
        begun = time.monotonic()
        trained = ran(*fit)
        fitted = time.monotonic()
        encoded = ran("encode", base, test, store, *cell.reading)
        told = ran("report", store, "--against", test, "--baseline", "pca", "--train", train)
    row = {
        "cell": name,
        "psnr": told["psnr"]["mean"],
        "items": told["count"],
        "validation_psnr": trained["validation_psnr"],
        "minutes": float(minutes),
        "seed": int(seed),
        "updates": trained["updates"],
        "closed_form_validation_psnr": trained["closed_form"]["psnr"],
        "learned_validation_psnr": trained["learned"]["psnr"],
        "closed_form_seconds": trained["closed_form"]["seconds"],
        "fit_base_seconds": round(fitted - begun, 1),
        "train_items": trained["items"],
        "items_per_second": encoded["items_per_second"],
        "bytes_per_item": told["bytes"]["per_item"],
        "raw_per_item": told["bytes"]["raw_per_item"],
        "pca": told.get("pca"),
    }
    row |= {key: told[key] for key in ("seams", "voxel_accuracy", "iou", "rmse", "units") if key in told}
    shown = ("functaconv", "fit-base", f"{cell.data}/train-*.tar", "BASE", *fit[3:])
    return row | {"command": " ".join(shown)} | provenance() | {"threads": 1}


def ran(*arguments: str, on_one_thread: bool = True) -> dict[str, Any]:
    """What a command says as JSON; on one thread of the CPU, whatever else there is."""
    command = [sys.executable, "-m", "functaconv", *arguments, "--json", "--quiet"]
    one_thread = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} if on_one_thread else {}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | one_thread)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| data, numbers per item | PSNR | seconds, minutes | PCA, whole | per patch | seams | bytes per item | raw |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        pca = row["pca"] or {}
        beside = " | ".join("" if pca.get(key) is None else f"{pca[key]:.2f}" for key in ("psnr", "psnr_per_patch"))
        seams = "" if row.get("seams") is None else f"{row['seams']:.3f}"
        spent = f"{row['closed_form_seconds']:.0f}, {row.get('minutes', 0):g}"
        sizes = f"{row['bytes_per_item']:,.0f} | {row['raw_per_item']:,.0f}"
        lines.append(f"| {row['cell']} | {row['psnr']:.2f} | {spent} | {beside} | {seams} | {sizes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
