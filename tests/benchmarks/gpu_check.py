"""On a machine with a GPU: `python -m tests.benchmarks.gpu_check OUT.json [--section NAME ...]`; writes JSON.

OUT.json is written after each section, so that a run that is cut short has said what it found. `--device cpu --small`
tries all of it in a minute or two, without a GPU. With `--data DIR` (a folder with cifar10/ as train-*.tar and
test-*.tar) also `--cell CELL@MINUTES`: what so many minutes of training give, a cell as `networks.py` has them, such as
`cifar10-256/default@5`, or with a solver `cifar10-256/default,solver=gauss-newton@5`; one per call.

A bare machine needs the wheels of the package's `dependencies` (pyproject.toml), torch among them for the CUDA of the
driver, and no others: `pip download --dest wheels .` on a machine with a network, `pip install --no-index --find-links
wheels functaconv` there.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from functaconv.base import Base
from functaconv.checkpoint import read_base
from functaconv.construction import build
from functaconv.defaults import Situation
from functaconv.packing import pack
from functaconv.presets import preset
from functaconv.recipe import LatentRecipe, Recipe
from functaconv.signals.batch import Batch
from functaconv.signals.device import HALF, matmul_precision
from functaconv.signals.grid import AnyGrid, Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from functaconv.solvers import SOLVERS
from functaconv.training import fit_base
from functaconv.training.learner import Learner
from tests.benchmarks import closed_form, encode_speed, networks
from tests.benchmarks.gpu_data import IMAGES, grids, images, voxels
from tests.benchmarks.provenance import provenance

TOLERANCE = 1e-3
# the default of 32 x 32 images: a closed form with a network on top of it
CLOSED: dict[str, dict[str, Any]] = {
    "refined": {"numbers": 64, "knots": (32, 32)},
    "corrected": {"numbers": 16, "sites": (4, 4), "interpolation": "window"},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "global": {"numbers": 64},
    "nearest": {"numbers": 16, "sites": (4, 4)},
    "linear": {"numbers": 16, "sites": (4, 4), "interpolation": "linear"},
    "window": {"numbers": 16, "sites": (4, 4), "interpolation": "window"},
    "neighbours": {"numbers": 16, "sites": (4, 4), "kernel": 3},
}


class Check:
    """What is checked, and on what: `small` sizes show that the check itself works."""

    def __init__(self, device: torch.device, *, small: bool = False) -> None:
        self.device, self.small = device, small

    def size(self, usual: int) -> int:
        return max(2, usual // 8) if self.small else usual

    def recipe(self, layout: dict[str, Any], solver: str = "gauss-newton") -> Recipe:
        """Of a SIREN."""
        recipe = preset("images", Situation((32, 32), 3, not self.small, LatentRecipe(**layout), solver))
        return recipe.changed({"network": {"width": 32, "depth": 3}}) if self.small else recipe

    def closed(self, layout: dict[str, Any]) -> Recipe:
        return preset("images", Situation((32, 32), 3, not self.small, LatentRecipe(**layout)))

    def published(self, name: str) -> Recipe:
        recipe = preset(name, Situation((32, 32), 3, not self.small))
        return recipe.changed({"network": {"width": 32, "depth": 3}}) if self.small else recipe

    def base(self, recipe: Recipe) -> Base:
        return build(recipe, IMAGES, Normalizer.of_code_range(3)).to(self.device)

    def batch(self, items: int, side: int = 32) -> Batch:
        return Batch.of(images(items, side), range(items), pin=self.device.type == "cuda")

    def seconds(self, work: Callable[[], object], repeats: int = 10) -> float:
        """Of one call, after a first that prepares."""
        repeats = 1 if self.small else repeats
        work()
        self.settle()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        self.settle()
        return (time.perf_counter() - started) / repeats

    def settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def waits(self) -> Iterator[list[str]]:
        """What the host waits for meanwhile, as torch notices it (not what its libraries do); nothing on the CPU."""
        found: list[str] = []
        if self.device.type != "cuda":
            yield found
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found += [f"{one.filename}:{one.lineno}" for one in caught if "called a synchronizing" in str(one.message)]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu() - expected.cpu()).norm() / expected.cpu().norm())


def check_agreement(check: Check) -> dict[str, float]:
    """How far latents and renders on the device are from those on the CPU."""
    recipes = {name: check.recipe(layout) for name, layout in LAYOUTS.items()}
    recipes |= {name: check.closed(layout) for name, layout in CLOSED.items()}
    recipes["gradient"] = check.recipe(LAYOUTS["global"], "gradient")
    cases: dict[str, tuple[Base, list[Signal], AnyGrid]] = {
        name: (build(recipe, IMAGES, Normalizer.of_code_range(3)), images(16, 32), Grid((64, 64)))
        for name, recipe in recipes.items()
    }
    cases |= {"voxels": voxels(), "grids": grids()}
    found: dict[str, float] = {}
    for name, (base, signals, grid) in cases.items():
        base = _stirred(base).requires_grad_(False)
        batch = Batch.of(signals, range(len(signals)), pin=check.device.type == "cuda")
        # the same pieces on both: other chunks are other sums
        on_cpu, points = base.encode(batch, chunk=base.chunk(len(batch), "cpu")), base.geometry.points(grid)
        rendered = base.decode(on_cpu.latents, points)
        there = base.to(check.device)
        latents = there.encode(batch, chunk=there.chunk(len(batch), "cpu")).latents
        found[f"{name} latents"] = relative(latents, on_cpu.latents)
        found[f"{name} render"] = relative(there.decode(on_cpu.latents.to(check.device), points), rendered)
    if late := {name: value for name, value in found.items() if not value <= TOLERANCE}:
        raise SystemExit(f"the device differs from the CPU by more than {TOLERANCE}: {late}")
    return found


def _stirred(base: Base) -> Base:
    """As if learned: what starts at zero is no longer there."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return base


def check_no_synchronisation(check: Check) -> dict[str, int]:
    """The inner loop of every latent layout, with and without a graph, never waits for the device, nor does its
    backward pass; a real update waits once.
    """
    found: dict[str, int] = {}
    for (name, layout), solver in itertools.product(LAYOUTS.items(), SOLVERS):
        recipe = check.recipe(layout, solver)
        base, batch = check.base(recipe), check.batch(check.size(16))
        problem = base.problem(batch)
        for recompute in (False, True):
            base.fit(problem, recompute=recompute).error.sum().backward()  # type: ignore[no-untyped-call]
            with check.waits() as waits:
                base.fit(problem, recompute=recompute).error.sum().backward()  # type: ignore[no-untyped-call]
                with torch.no_grad():
                    base.fit(problem)
                    base.fit(problem, careful=True)
            if waits:
                raise SystemExit(f"{name}, {solver}: the inner loop waits at {waits}")
        learner = Learner(base, recipe.training)
        learner.update([batch], 0.5)
        for _ in range(2):
            with check.waits() as waits:
                learner.update([batch], 0.5)
            found[f"{name} {solver}"] = len(waits)
            if len(waits) > 1:
                raise SystemExit(f"{name}, {solver}: an update waits at {waits}")
    return found


def check_repeats(check: Check) -> dict[str, bool]:
    """Encoding twice gives the same bytes, also while most of the memory is taken."""
    found = {}
    for name, layout in LAYOUTS.items():
        base, batch = check.base(check.recipe(layout)).requires_grad_(False), check.batch(check.size(64))
        first, second = (base.encode(batch, steps=3).latents for _ in range(2))
        ballast = _ballast(check.device)
        # as another process: nothing is known of the grid
        third = check.base(check.recipe(layout)).requires_grad_(False).encode(batch, steps=3).latents
        del ballast
        found[name] = first.equal(second) and first.equal(third)
    if not all(found.values()):
        raise SystemExit(f"the same items have other latents the second time: {found}")
    return found


def _ballast(device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return torch.empty(max(0, free - (6 << 30)), dtype=torch.uint8, device=device)
    return torch.empty(0)


def learned_alike(check: Check) -> dict[str, float]:
    """The same 20 updates of the same network on both devices: validation PSNR and the difference of the weights."""
    settings: dict[str, Any] = {
        # of the kind that is learned, however good the closed form is
        "network": {"kind": "siren", "width": 64, "depth": 5},
        "solver": {"steps": 2},
        "latent": {"numbers": 32},
        "training": {"steps": 20, "batch_size": 8, "inner_points": 512, "outer_points": 512},
    }
    with tempfile.TemporaryDirectory() as folder:
        shards = _packed(Path(folder), 64)
        psnr, weights = list[float](), list[torch.Tensor]()
        for device in ("cpu", check.device.type):
            path = Path(folder) / f"{device}.safetensors"
            trained = fit_base(str(shards), path, settings=settings, device=device, overwrite=True)
            psnr.append(trained.psnr if trained.learned is None else trained.learned)
            state = read_base(path).base.field.network.state_dict()
            weights.append(torch.cat([value.flatten() for value in state.values()]))
    return {"psnr_cpu": psnr[0], "psnr_device": psnr[1], "weights": relative(weights[1], weights[0])}


def _packed(folder: Path, count: int) -> Path:
    source = folder / "images"
    source.mkdir()
    for signal in images(count, 32):
        Image.fromarray(signal.values).save(source / f"{signal.key}.png")
    pack(source, folder / "shards")
    return folder / "shards"


def speed(check: Check) -> list[dict[str, Any]]:
    """Real updates, optimisers included, and items per second of encoding."""
    rows = []
    recipes = {
        **{name: (check.recipe(layout), 64) for name, layout in LAYOUTS.items()},
        **{name: (check.closed(layout), 64) for name, layout in CLOSED.items()},
        "functa-cifar10": (check.published("functa-cifar10"), 16),
        "spatial-cifar10": (check.published("spatial-cifar10"), 128),
    }
    for name, (recipe, items) in recipes.items():
        learner, batch = Learner(check.base(recipe), recipe.training), check.batch(check.size(items))
        many = check.batch(check.size(1024))
        update = check.seconds(partial(learner.update, [batch], 0.5))
        base = check.base(recipe).requires_grad_(False)
        encode = check.seconds(partial(base.encode, many), repeats=3)
        rows.append({"recipe": name, "items": len(batch), "updates_per_second": 1 / update,
                     "encoded_items_per_second": len(many) / encode})  # fmt: skip
        if check.device.type == "cuda":
            rows[-1]["peak_memory_GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return rows


def precisions(check: Check) -> dict[str, Any]:
    """How far half-precision Jacobians and tf32 are from float32, and how long they take."""
    recipe, found = check.recipe(LAYOUTS["global"]), {}
    batch = check.batch(check.size(256))
    expected: torch.Tensor | None = None
    for precision in ("float32", "float16", "bfloat16", *(["tf32"] if check.device.type == "cuda" else [])):
        base = check.base(recipe).requires_grad_(False)
        base.field.network.sweep_dtype = HALF.get(precision)
        with matmul_precision(precision, check.device):
            fit = base.encode(batch, steps=3)
            latents, error = fit.latents, float(fit.error.mean())
            expected = latents if expected is None else expected
            took = check.seconds(partial(base.encode, batch, steps=3), repeats=3)
        found[precision] = {"latents": relative(latents, expected), "error": error, "seconds": took}
    return found


def cholesky(check: Check) -> dict[str, float]:
    """Milliseconds to factor and solve many small matrices."""
    found = {}
    for count, side in ((check.size(16_384), 16), (check.size(1024), 256)):
        root = torch.randn(count, side, side, device=check.device)
        matrix = root @ root.mT + side * torch.eye(side, device=check.device)
        vector = torch.randn(count, side, 1, device=check.device)
        factor, _ = torch.linalg.cholesky_ex(matrix)
        works = {
            "factor": partial(torch.linalg.cholesky_ex, matrix),
            "solve": partial(torch.cholesky_solve, vector, factor),
        }
        for name, work in works.items():
            found[f"{name} {count} x {side}"] = 1e3 * check.seconds(work, repeats=3)
    return found


def command_line(check: Check) -> dict[str, Any]:
    """Seconds of the commands, from start to end."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = _packed(folder, check.size(2048))
        device = ["--device", check.device.type]
        small = ["--latent", "4", "--set", "network.width=16"] if check.small else []
        commands: dict[str, list[Any]] = {
            "fit-base": [shards, folder / "base", "--steps", "10" if check.small else "400", *small, *device],
            "encode": [folder / "base", shards, folder / "out.zarr", *device],
        }
        for command, arguments in commands.items():
            started = time.perf_counter()
            said = closed_form.ran(command, *map(str, arguments), on_one_thread=False)
            known = {name: said[name] for name in ("updates", "items_per_second") if name in said}
            found[command] = {"seconds": time.perf_counter() - started, **known}
    return found


def steps(check: Check) -> list[dict[str, Any]]:
    """What a step of each solver costs."""
    networks = [("16", 16)] if check.small else encode_speed.NETWORKS
    return [encode_speed.measure(*network, check.device) for network in networks]


SECTIONS: dict[str, Callable[[Check], Any]] = {
    "waits": check_no_synchronisation,
    "agreement": check_agreement,
    "repeats": check_repeats,
    "learned": learned_alike,
    "cholesky": cholesky,
    "precisions": precisions,
    "speed": speed,
    "steps": steps,
    "command_line": command_line,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--section", action="append", choices=[*SECTIONS], help="only these")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cell", action="append", default=[])
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device: --device cpu --small tries the check itself")
    check, report = Check(device, small=asked.small), dict[str, Any](provenance("float32"))

    def write() -> None:
        asked.out.write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report))

    for name in [] if asked.cell and not asked.section else asked.section or SECTIONS:
        started = time.perf_counter()
        try:
            report[name] = SECTIONS[name](check)
        except (SystemExit, RuntimeError) as error:
            # the other sections are of use without it
            report[name] = {"failed": str(error)}
        report[f"{name}_seconds"] = round(time.perf_counter() - started, 1)
        write()
    for cell in asked.cell:
        name, minutes, seed = networks.parsed(cell)
        table, _, network = name.partition("/")
        row = networks.quality(asked.data, table, network, minutes, seed, device.type)
        report.setdefault("quality", []).append({"cell": cell, **row})
        write()
    sys.exit(any(isinstance(one, dict) and "failed" in one for one in report.values()))


if __name__ == "__main__":
    main()
