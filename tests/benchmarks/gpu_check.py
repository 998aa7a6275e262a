"""On a machine with a GPU: `python -m tests.benchmarks.gpu_check [OUT.json [DATA]]`; writes JSON.

Agreement first, speed after: encode and render on the GPU against the CPU (float32), a base learned for the same
updates on both, no synchronisation inside the inner loop; then updates and items per second, and what a step of each
solver costs. With DATA (a folder with cifar10/ as train-*.tar and test-*.tar) also what five minutes of training give:
Gauss-Newton with 256, 512 and 1024 numbers, gradient steps with 256.
"""

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from functaconv.base import Base
from functaconv.construction import build
from functaconv.modalities import Axes
from functaconv.presets import Situation, preset
from functaconv.recipe import LatentRecipe
from functaconv.signals.batch import Batch
from functaconv.signals.geometry import Globe
from functaconv.signals.grid import AnyGrid, GlobeGrid, Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from functaconv.solvers import SOLVERS
from tests.benchmarks import encode_speed, image_quality
from tests.benchmarks.image_quality import provenance

TOLERANCE = 1e-3


def images(count: int, side: int) -> list[Signal]:
    """Smooth random colour images, uint8."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    found = []
    for number in range(count):
        waves = generator.normal(size=(8, 3)) / 4
        where = generator.uniform(-12, 12, size=(8, 2))
        field = sum(np.sin(a * y + b * x)[..., None] * wave for (a, b), wave in zip(where, waves, strict=True))
        found.append(Signal(str(number), np.uint8(np.clip(0.5 + 0.3 * field, 0, 1) * 255), 255.0))
    return found


QUALITY = ("cifar10:256:5:gradient", *(f"cifar10:{numbers}:5:gauss-newton" for numbers in (256, 512, 1024)))


def fresh(name: str, side: int, on_gpu: bool, solver: str | None = None) -> Base:
    recipe = preset(name, Situation((side, side), 3, on_gpu, solver=solver))
    return build(recipe, Axes("image", 2, 3), Normalizer.of_code_range(3))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu() - expected.cpu()).norm() / expected.cpu().norm())


def voxels() -> tuple[Base, list[Signal], AnyGrid]:
    """A fresh base for voxels, boxes to encode with it, and where to render them."""
    recipe = preset("voxels", Situation((16, 16, 16), 1, False))
    generator = np.random.default_rng(0)
    signals = []
    for number in range(16):
        volume = np.zeros((16, 16, 16, 1), np.uint8)
        volume[tuple(slice(*sorted(generator.choice(17, 2, replace=False))) for _ in range(3))] = 1
        signals.append(Signal(str(number), volume))
    return build(recipe, Axes("voxels", 3, 1, "none"), Normalizer.of_code_range(1)), signals, Grid((24, 24, 24))


def grids() -> tuple[Base, list[Signal], AnyGrid]:
    """The same for global grids with a mask that all share."""
    globe = GlobeGrid(tuple(np.linspace(90, -90, 37).tolist()), tuple(np.arange(0.0, 360, 5).tolist()))
    recipe = preset("grids", Situation(globe.shape, 1, False))
    land = np.zeros((*globe.shape, 1), bool)
    land[10:20, 30:50] = True
    down, along = np.meshgrid(np.radians(globe.latitude), np.radians(globe.longitude), indexing="ij")
    signals = [
        Signal(str(number), np.float32(np.cos(down) * np.sin(along + number))[..., None], valid=~land, own_grid=globe)
        for number in range(16)
    ]
    axes = Axes("grid", 2, 1, "last", 4, ("t",), ("K",))
    geometry = Globe.around([globe], "sphere")
    return build(recipe, axes, Normalizer.of_range(signals), geometry), signals, globe


def agreement(name: str, base: Base, signals: list[Signal], grid: AnyGrid) -> dict[str, float]:
    """How far latents and renders on the GPU are from those on the CPU."""
    base = base.requires_grad_(False)
    batch = Batch.of(signals, range(len(signals)), pin=True)
    on_cpu, points = base.encode(batch), base.geometry.points(grid)
    rendered = base.decode(on_cpu.latents, points)
    on_gpu = base.cuda().encode(batch)
    return {
        f"{name} latents": relative(on_gpu.latents, on_cpu.latents),
        f"{name} render": relative(base.decode(on_cpu.latents.cuda(), points), rendered),
    }


def check_agreement() -> dict[str, float]:
    found: dict[str, float] = {}
    for name, solver in (("images", None), ("images", "gradient"), ("functa-cifar10", None), ("spatial-cifar10", None)):
        base = fresh(name, 32, on_gpu=False, solver=solver)
        found |= agreement(f"{name} {solver}" if solver else name, base, images(16, 32), Grid((64, 64)))
    found |= agreement("voxels", *voxels()) | agreement("grids", *grids())
    for name, value in found.items():
        if value > TOLERANCE:
            raise SystemExit(f"{name}: the GPU differs from the CPU by {value:.2e}, more than {TOLERANCE}")
    return found


LAYOUTS: tuple[dict[str, Any], ...] = (
    {"numbers": 64},
    {"numbers": 16, "sites": (4, 4)},
    {"numbers": 16, "sites": (4, 4), "interpolation": "linear"},
    {"numbers": 16, "sites": (4, 4), "kernel": 3},
)


def check_no_synchronisation() -> None:
    """The inner loop of every latent layout, with and without a graph, never waits for the device."""
    for layout, solver in itertools.product(LAYOUTS, SOLVERS):
        situation = Situation((32, 32), 3, True, LatentRecipe(**layout), solver)
        base = build(preset("images", situation), Axes("image", 2, 3), Normalizer.of_code_range(3)).cuda()
        batch = Batch.of(images(16, 32), range(16), pin=True)
        problem = base.problem(batch)
        for recompute in (False, True):
            base.fit(problem, recompute=recompute).error.sum().backward()
            torch.cuda.set_sync_debug_mode("error")
            try:
                base.fit(problem, recompute=recompute)
                with torch.no_grad():
                    base.fit(problem)
                    base.fit(problem, careful=True)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def learned_alike() -> dict[str, float]:
    """The same 20 updates on both devices: validation PSNR and the difference of the weights."""
    from PIL import Image

    from functaconv.checkpoint import read_base
    from functaconv.packing import pack
    from functaconv.training import fit_base

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "images"
        source.mkdir()
        for signal in images(64, 32):
            Image.fromarray(signal.values).save(source / f"{signal.key}.png")
        pack(source, Path(folder) / "shards")
        bases = {}
        for device in ("cpu", "cuda"):
            settings = {"training": {"steps": 20, "batch_size": 8}, "network": {"width": 64}, "latent": {"numbers": 32}}
            path = Path(folder) / f"{device}.safetensors"
            trained = fit_base(str(Path(folder) / "shards"), path, settings=settings, device=device)
            bases[device] = trained.psnr, read_base(path).base.field.network.weights[1]
    return {
        "psnr_cpu": bases["cpu"][0],
        "psnr_cuda": bases["cuda"][0],
        "weights": relative(bases["cuda"][1], bases["cpu"][1]),
    }


def speed(name: str, side: int, items: int) -> dict[str, Any]:
    base = fresh(name, side, on_gpu=True).cuda()
    batch = Batch.of(images(items, side), range(items), pin=True)

    def encode() -> None:
        base.encode(batch)

    def update() -> None:
        loss = base.fit(base.problem(batch)).error.mean()
        torch.autograd.grad(loss, list(base.field.parameters()))

    return {
        "preset": name, "items": items, "side": side,
        "encoded_items_per_second": items / seconds(encode),
        "outer_gradients_per_second": 1 / seconds(update),
        "peak_memory_GiB": torch.cuda.max_memory_allocated() / 2**30,
    }  # fmt: skip


def seconds(work: Any, repeats: int = 10) -> float:
    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    check_no_synchronisation()
    result = {
        **provenance("float32"), "agreement": check_agreement(), "learned": learned_alike(),
        "speed": [speed("images", 32, 64), speed("functa-cifar10", 32, 16), speed("spatial-cifar10", 32, 128)],
        "steps": [encode_speed.measure(*network, torch.device("cuda")) for network in encode_speed.NETWORKS],
    }  # fmt: skip
    if len(sys.argv) > 2:
        work = Path(sys.argv[1]).with_suffix("")
        result["quality"] = [image_quality.measure(Path(sys.argv[2]), work, cell) for cell in QUALITY]
    text = json.dumps(result, indent=2)
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text + "\n")


if __name__ == "__main__":
    main()
