"""What a step costs: `python -m tests.benchmarks.encode_speed OUT.jsonl [cpu|cuda]`.

Random networks and images: only time is measured, of fits without the measurement of their error. Three gradient
steps, the shared Gauss-Newton step, and a second one (float32, and with the Jacobian in half precision), taken in
turn, the median of several rounds. One JSON row per network, in milliseconds per item.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from functaconv.base import Base
from functaconv.construction import build
from functaconv.defaults import Situation
from functaconv.modalities import Axes
from functaconv.presets import preset
from functaconv.recipe import validated
from functaconv.settings import latent_of
from functaconv.signals.batch import Batch
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from tests.benchmarks.provenance import provenance

NETWORKS = (("64", 96), ("128", 128), ("256", 256), ("8x8x16", 192))
ROUNDS = 7


def main() -> None:
    out, device = Path(sys.argv[1]), torch.device(sys.argv[2] if len(sys.argv) > 2 else "cpu")
    for latent, width in NETWORKS:
        row = measure(latent, width, device)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row))


def measure(latent: str, width: int, device: torch.device) -> dict[str, Any]:
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    items = 512 if device.type == "cuda" else 64
    batch = images(items)
    gradient, newton = (base_of(latent, width, solver, device) for solver in ("gradient", "gauss-newton"))
    works: dict[str, Callable[[], object]] = {
        "three gradient steps": fitting(gradient, batch, 3),
        "shared step": fitting(newton, batch, 1),
        "shared and second step": fitting(newton, batch, 2),
        "shared and second step, half": fitting(base_of(latent, width, "gauss-newton", device, half), batch, 2),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                times[name].append(1e3 * (time.perf_counter() - started) / items)
    cost = {name: statistics.median(found) for name, found in times.items()}
    return {
        "network": f"siren {width}x5, latent {latent}, 32x32x3",
        "milliseconds_per_item": {name: round(value, 4) for name, value in cost.items()},
        "shared_step_is_faster_by": round(cost["three gradient steps"] / cost["shared step"], 1),
        "second_step_over_three_gradient_steps": round(
            (cost["shared and second step"] - cost["shared step"]) / cost["three gradient steps"], 2
        ),
        "the_same_with_half_precision_jacobian": round(
            (cost["shared and second step, half"] - cost["shared step"]) / cost["three gradient steps"], 2
        ),
        "items_together": items,
        **provenance(f"float32; half: Jacobians in {half}"),
    }


def images(items: int) -> Batch:
    values = np.random.default_rng(0).integers(0, 256, (items, 32, 32, 3), np.uint8)
    return Batch.of([Signal(str(i), value, 255.0) for i, value in enumerate(values)], range(items))


def base_of(latent: str, width: int, solver: str, device: torch.device, sweep_dtype: torch.dtype | None = None) -> Base:
    situation = Situation((32, 32), 3, False, validated(latent_of(latent)).latent, solver)
    recipe = preset("images", situation).changed({"network": {"width": width}})
    base = build(recipe, Axes("image", 2, 3), Normalizer.of_code_range(3)).to(device).requires_grad_(False)
    base.field.network.sweep_dtype = sweep_dtype
    return base


def fitting(base: Base, batch: Batch, steps: int) -> Callable[[], object]:
    """As `encode` fits a batch, the first of which prepares what all share."""
    problem = base.prepared(batch.to(base.device), chunk=base.chunk(len(batch)))

    @torch.no_grad()
    def work() -> object:
        return base.fit(problem, steps=steps).latents

    return work


if __name__ == "__main__":
    main()
