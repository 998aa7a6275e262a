"""Measure bases on real images: `python tests/benchmarks/image_quality.py DATA OUT.jsonl [CELL ...]`.

DATA is a folder with cifar10/, lfw64/ ... as train-*.tar and test-*.tar. A cell is DATASET:LATENT:MINUTES, with
gradient steps, or DATASET:LATENT:MINUTES:SOLVER. Each cell
learns a base, encodes the test split, recomputes every PSNR from the pixels, and appends one JSON row: our PSNR, and
that of PCA with as many numbers fitted on the training split, on the same items. A cell whose row is there already is
skipped, a base that is half trained goes on.
"""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CELLS = ("cifar10:64:6", "cifar10:4x4x16:6", "lfw64:256:6")


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    done = {json.loads(line)["cell"] for line in out.read_text().splitlines()} if out.exists() else set()
    for cell in sys.argv[3:] or CELLS:
        if cell not in done:
            row = measure(data, out.parent / "image-quality-work", cell)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row))


def measure(data: Path, work: Path, cell: str) -> dict[str, Any]:
    dataset, latent, minutes, solver = [*cell.split(":"), "gradient"][:4]
    name = f"{dataset}-{latent}-{solver}"
    base, store = work / f"{name}.safetensors", work / f"{name}.zarr"
    train, test = data / dataset / "train-*.tar", data / dataset / "test-*.tar"
    options = ["--solver", solver, "--latent", latent, "--minutes", minutes]
    trained = run("fit-base", train, base, *options)
    started = time.monotonic()
    run("encode", base, test, store)
    encoded = time.monotonic() - started
    report = run("report", store, "--against", test, "--baseline", "pca", "--train", train)
    return {
        "cell": cell,
        "psnr": report["psnr"],
        "pca": report["pca"],
        "against": report["against"],
        "items": report["count"],
        "failed": report["failed"],
        "bytes": report["bytes"],
        "latent": report["latent"],
        "encode_seconds": round(encoded, 1),
        "items_per_second": report["items_per_second"],
        "updates": trained["updates"],
        "train_seconds": trained["seconds"],
        "command": f"functaconv fit-base {dataset}/train-*.tar {dataset}.safetensors {' '.join(options)}",
        **provenance(),
    }


def run(command: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "functaconv", command, *map(str, arguments), "--json"],
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def provenance(dtype: str = "float32, latents stored as float16") -> dict[str, Any]:
    """Where a row of results comes from."""
    return {"commit": commit(), "dtype": dtype, **machine()}


def commit() -> str:
    root = Path(__file__).parents[2]
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()


def machine() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"device": device, "python": platform.python_version(), "torch": torch.__version__}


if __name__ == "__main__":
    main()
