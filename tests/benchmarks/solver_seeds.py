"""Does every seed learn? `python -m tests.benchmarks.solver_seeds DATA OUT.json [MINUTES]`.

Eight seeds of the default recipe on DATA/cifar10, two at a time, one thread each, measured on the whole test split.
"""

import json
import statistics
import sys
from pathlib import Path

from tests.benchmarks.image_quality import provenance
from tests.benchmarks.solver_pairs import together

SEEDS = range(8)


def main() -> None:
    data, out = Path(sys.argv[1]) / "cifar10", Path(sys.argv[2])
    minutes = sys.argv[3] if len(sys.argv) > 3 else "2"
    work = out.with_suffix("")
    work.mkdir(parents=True, exist_ok=True)
    found: dict[int, float] = {}
    skipped = 0
    for first in SEEDS[::2]:
        pair = (first, first + 1)
        bases = {seed: work / f"{seed}.safetensors" for seed in pair}
        together(
            [
                "fit-base",
                data / "train-*.tar",
                bases[seed],
                "--minutes",
                minutes,
                "--seed",
                seed,
                "--log",
                log(work, seed),
            ]
            for seed in pair
        )
        encoded = together(["encode", bases[seed], data / "test-*.tar", work / f"{seed}.zarr"] for seed in pair)
        for seed, summary in zip(pair, encoded, strict=True):
            found[seed] = summary["psnr"]["mean"]
            skipped += json.loads(log(work, seed).read_text().splitlines()[-1])["skipped"]
    row = {
        "psnr": found,
        "mean": round(statistics.mean(found.values()), 4),
        "standard_deviation": round(statistics.stdev(found.values()), 4),
        "skipped_updates": skipped,
        "command": f"functaconv fit-base cifar10/train-*.tar BASE --minutes {minutes} --seed SEED",
        **provenance(),
        "threads": 1,
    }
    out.write_text(json.dumps(row, indent=2) + "\n")
    print(json.dumps(row))


def log(work: Path, seed: int) -> Path:
    return work / f"{seed}.jsonl"


if __name__ == "__main__":
    main()
