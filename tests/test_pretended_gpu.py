"""What would happen on a GPU: no operation mixes devices, and the host waits for the device once per update."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from functaconv.base import Base
from functaconv.construction import build
from functaconv.modalities import Axes
from functaconv.modalities.latlon_grid import GlobeGrid
from functaconv.modalities.sphere import Globe
from functaconv.recipe import Recipe, validated
from functaconv.signals.batch import Batch
from functaconv.signals.geometry import Flat
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from functaconv.training.closed_form import Situation, fit_closed_form
from functaconv.training.learner import Learner
from tests.pretended import GPU, Counter, MixedDevicesError, Pretended, pretended_gpu

ITEMS, SIDE = 5, 12
LAYOUTS: dict[str, dict[str, Any]] = {
    "global": {"numbers": 6},
    "nearest": {"numbers": 4, "sites": [3, 4]},
    "neighbours": {"numbers": 4, "sites": [3, 3], "kernel": 3},
    "linear": {"numbers": 4, "sites": [3, 4], "interpolation": "linear"},
    "window": {"numbers": 4, "sites": [3, 4], "interpolation": "window"},
}
SOLVERS: dict[str, dict[str, Any]] = {
    "one step": {"kind": "gauss-newton", "steps": 1},
    "gauss-newton": {"kind": "gauss-newton", "steps": 2},
    "gradient": {"kind": "gradient", "steps": 3},
}
TRAINING: dict[str, dict[str, Any]] = {
    "one step": {"inner_points": 60, "outer_points": 50, "mixup": 0.5},
    "gauss-newton": {"optimizer": "muon", "inner_points": 60},
    "gradient": {"recompute": "yes"},
}
"""with each solver"""

# every layout, every solver
pairs = pytest.mark.parametrize(
    ("layout", "solver"),
    [("global", "gradient"), ("nearest", "one step"), ("neighbours", "gauss-newton"), ("linear", "gradient"),
     ("window", "gauss-newton")],
)  # fmt: skip


@pytest.fixture
def counter() -> Iterator[Counter]:
    with pretended_gpu() as counter:
        yield counter


def recipe_of(layout: str, solver: str, **training: Any) -> Recipe:
    network = {"width": 8, "depth": 3, "w0_first": 4.0, "w0_hidden": 2.0}
    training = {"steps": 10, "one_step": 0.0, **training}
    return validated({"network": network, "latent": LAYOUTS[layout], "solver": SOLVERS[solver], "training": training})


def base_of(recipe: Recipe) -> Base:
    return build(recipe, Axes("image", 2, 3), Normalizer.of_code_range(3)).to(GPU)


def images(*, pin: bool = True) -> Batch:
    random = np.random.default_rng(0)
    values = np.uint8(random.uniform(40, 200, (ITEMS, SIDE // 3, SIDE // 3, 3)).repeat(3, 1).repeat(3, 2))
    return Batch.of([Signal(str(number), each, 255.0) for number, each in enumerate(values)], range(ITEMS), pin=pin)


def test_the_pretence_knows_what_a_gpu_would_not_bear(counter: Counter) -> None:
    there, here = torch.zeros(4).pin_memory().to(GPU, non_blocking=True), torch.ones(4)
    assert isinstance(there, Pretended)
    assert (there.device, counter.waits) == (GPU, [])
    with pytest.raises(MixedDevicesError):
        there + here
    assert isinstance(there + 1.0, Pretended)
    assert counter.waits == []
    for work in (lambda: there.sum().item(), lambda: there[there > 0], there.cpu, lambda: here.to(GPU),
                 there.nonzero, lambda: torch.tensor([1.0], device=GPU)):  # fmt: skip
        counter.reset()
        work()
        assert len(counter.waits) == 1


@pairs
def test_the_inner_loop_never_waits(counter: Counter, layout: str, solver: str) -> None:
    base, batch = base_of(recipe_of(layout, solver)), images()
    problem = base.problem(batch)
    # tables of a grid are made once
    base.fit(problem)
    counter.reset()
    for recompute in (False, True):
        base.fit(problem, recompute=recompute).error.sum().backward()
    with torch.no_grad():
        base.fit(problem, careful=True)
    assert counter.waits == []


@pairs
def test_encode_never_waits_once_it_knows_the_grid(counter: Counter, layout: str, solver: str) -> None:
    base = base_of(recipe_of(layout, solver))
    on_cpu = build(recipe_of(layout, solver), Axes("image", 2, 3), Normalizer.of_code_range(3))
    base.encode(images(), chunk=40)
    counter.reset()
    found = base.encode(images(), chunk=40)
    assert counter.waits == []
    assert counter.operations > 0
    expected = on_cpu.encode(images(pin=False), chunk=40)
    torch.testing.assert_close(found.latents.cpu(), expected.latents)
    points = base.points(images().grid)
    torch.testing.assert_close(
        base.decode(found.latents, points).cpu(), on_cpu.decode(expected.latents, on_cpu.points(images().grid))
    )


@pairs
def test_an_update_waits_once(counter: Counter, layout: str, solver: str) -> None:
    recipe = recipe_of(layout, solver, **TRAINING[solver])
    learner = Learner(base_of(recipe), recipe.training)
    batch = images()
    learner.update([batch], 0.4)
    for _ in range(2):
        counter.reset()
        update = learner.update([batch], 0.5)
        assert len(counter.waits) == 1, counter.waits
        assert update.error > 0
        assert update.norm > 0
    assert learner.skipped == 0


def test_an_update_at_the_minimum_asks_whether_the_fit_has_converged(counter: Counter) -> None:
    recipe = recipe_of("global", "gauss-newton", envelope=True, converged=1.0)
    learner = Learner(base_of(recipe), recipe.training)
    learner.update([images()], 0.4)
    counter.reset()
    learner.update([images()], 0.5)
    assert len(counter.waits) == 2


def test_levels_and_areas_of_grids_are_copied_without_waiting(counter: Counter) -> None:
    globe = GlobeGrid(tuple(np.linspace(90, -90, 7).tolist()), tuple(np.arange(0.0, 360, 40).tolist()))
    random = np.random.default_rng(0)
    signals = [
        Signal(str(number), random.normal(number, 1, (*globe.shape, 1)).astype(np.float32), own_grid=globe,
               level=str(number % 2))
        for number in range(4)
    ]  # fmt: skip
    recipe = validated({"network": {"width": 8, "depth": 3}, "latent": {"numbers": 4}, "data": {"weights": "area"},
                        "training": {"steps": 10, "inner_points": 20}})  # fmt: skip
    axes = Axes("grid", 2, 1, "last", 4, ("t",), ("K",))
    base = build(recipe, axes, Normalizer.of_range(signals, "apart"), Globe.around([globe], "sphere")).to(GPU)
    learner, batch = Learner(base, recipe.training), Batch.of(signals, range(4), pin=True)
    learner.update([batch], 0.4)
    counter.reset()
    learner.update([batch], 0.5)
    assert len(counter.waits) == 1


@pytest.mark.parametrize("layout", ["global", "window"])
def test_the_closed_form_stays_on_its_device(counter: Counter, layout: str) -> None:
    recipe, batch = validated({"latent": LAYOUTS[layout], "training": {"minutes": 0}}), images()
    situation = Situation(Axes("image", 2, 3), Normalizer.of_code_range(3), Flat(2), GPU)
    found = fit_closed_form(recipe, situation, [batch], [batch.items(slice(0, 2))])
    assert found.base.device == GPU
    cpu = Situation(situation.axes, situation.normalizer, situation.geometry, torch.device("cpu"))
    expected = fit_closed_form(recipe, cpu, [images(pin=False)], [images(pin=False).items(slice(0, 2))])
    assert found.psnr == pytest.approx(expected.psnr, abs=1e-3)
    # one that is linear in its latent waits to see whose error must be decoded
    found.base.encode(batch)
    counter.reset()
    found.base.encode(batch)
    assert counter.waits == []
