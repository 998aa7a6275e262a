"""What each choice gives: `python -m tests.benchmarks.solver_ablation [--seconds 90] DATA OUT.jsonl [NAME ...]`.

DATA is a folder with cifar10/ as train-*.tar and test-*.tar. Every variant of the default recipe learns for the same
seconds, two at a time, one thread each, then encodes the same 512 test items, with one to four steps. One JSON row per
variant; a variant whose row is there is skipped. Afterwards a table of all rows is printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tests.benchmarks.image_quality import provenance
from tests.benchmarks.solver_pairs import together

GLOBAL = {"latent": "64", "settings": {}}
SPATIAL = {"latent": "8x8x16", "settings": {}}
CHOICES: dict[str, dict[str, object]] = {
    "default": {},
    "adam": {"training.optimizer": "adam"},
    "matrix rate 4e-3": {"training.matrix_rate": 4e-3},
    "matrix rate 1e-3": {"training.matrix_rate": 1e-3},
    "weight decay 0.1": {"training.weight_decay": 0.1},
    "no moving average": {"training.ema": 0},
    "batch 8": {"training.batch_size": 8},
    "batch 32": {"training.batch_size": 32},
    "w0 30 throughout": {"network.w0_first": 30, "network.w0_hidden": 30},
    "w0 10 throughout": {"network.w0_first": 10, "network.w0_hidden": 10},
    "width 64": {"network.width": 64},
    "width 160": {"network.width": 160},
    "depth 4": {"network.depth": 4},
    "depth 7": {"network.depth": 7},
    "skips": {"network.skips": True},
    "learned frequencies": {"network.frequencies": 48},
    "film": {"network.modulation": "film"},
    "learned start": {"latent.learned_start": True},
    "damping 1e-2": {"solver.damping": 1e-2},
    "damping 1e-4": {"solver.damping": 1e-4},
    "learned damping": {"solver.learned_damping": True},
    "chord": {"solver.chord": True},
    "one step throughout": {"training.one_step": 1.0},
    "envelope": {"training.envelope": True},
    "first order": {"training.second_order": False},
    "all inner points": {"training.inner_points": 1024},
}
VARIANTS = {name: {**GLOBAL, "settings": settings} for name, settings in CHOICES.items()} | {
    "8x8x16": SPATIAL,
    "8x8x16, envelope": {**SPATIAL, "settings": {"training.envelope": True}},
    "8x8x16, one step throughout": {**SPATIAL, "settings": {"training.one_step": 1.0}},
    "8x8x16, width 96": {**SPATIAL, "settings": {"network.width": 96}},
    "8x8x16, linear": {**SPATIAL, "settings": {"latent.interpolation": "linear"}},
    "8x8x16, linear, local frame": {
        **SPATIAL,
        "settings": {"latent.interpolation": "linear", "latent.frame": "local"},
    },
    "8x8x16, 3x3 map": {**SPATIAL, "settings": {"latent.kernel": 3}},
}
STEPS = (1, 2, 3, 4)
ITEMS = 512


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    done = {json.loads(line)["variant"] for line in asked.out.read_text().splitlines()} if asked.out.exists() else set()
    names = [name for name in asked.names or VARIANTS if name not in done]
    for pair in (names[start : start + 2] for start in range(0, len(names), 2)):
        rows = measure(asked.data / "cifar10", asked.out.with_suffix(""), pair, asked.seconds)
        with asked.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    print(table([json.loads(line) for line in asked.out.read_text().splitlines()]))


def measure(data: Path, work: Path, names: list[str], seconds: float) -> list[dict[str, Any]]:
    work.mkdir(parents=True, exist_ok=True)
    options = {}
    for name in names:
        chosen = [
            part for key, value in VARIANTS[name]["settings"].items() for part in ("--set", f"{key}={toml(value)}")
        ]
        options[name] = ["--latent", VARIANTS[name]["latent"], "--minutes", f"{seconds / 60:g}", *chosen]
    bases = {name: work / f"{name.replace(' ', '-')}.safetensors" for name in names}
    trained = together(["fit-base", data / "train-*.tar", bases[name], *options[name]] for name in names)
    found: dict[str, list[float]] = {name: [] for name in names}
    for steps in STEPS:
        stores = [work / f"{name.replace(' ', '-')}-{steps}.zarr" for name in names]
        encoded = together(
            ["encode", bases[name], data / "test-*.tar", store, "--limit", ITEMS, "--steps", steps, "--overwrite"]
            for name, store in zip(names, stores, strict=True)
        )
        for name, summary in zip(names, encoded, strict=True):
            found[name].append(summary["psnr"]["mean"])
    return [
        {
            "variant": name,
            "psnr_by_steps": dict(zip(map(str, STEPS), found[name], strict=True)),
            "updates": fitted["updates"],
            "train_seconds": fitted["seconds"],
            "items": ITEMS,
            "command": "functaconv fit-base cifar10/train-*.tar BASE " + " ".join(options[name]),
            **provenance(),
            "threads": 1,
        }
        for name, fitted in zip(names, trained, strict=True)
    ]


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| variant | updates | " + " | ".join(f"{steps} steps" for steps in STEPS) + " |",
        "|---|---|" + "---|" * len(STEPS),
    ]
    for row in rows:
        values = " | ".join(f"{row['psnr_by_steps'][str(steps)]:.2f}" for steps in STEPS)
        lines.append(f"| {row['variant']} | {row['updates']} | {values} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
