"""Learning a correction or refinement on top of the closed form, from shards to renders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from functaconv.checkpoint import read_base
from functaconv.cli.app import run
from functaconv.functaset.opening import open_functaset
from functaconv.signals.batch import Batch
from functaconv.signals.grid import Grid
from functaconv.solvers import fit
from functaconv.training import Trained, fit_base

# behind windows the latent map is corrected, what a global latent decodes to is refined
LATENTS: dict[str, dict[str, Any]] = {"corrected": {"sites": [3, 3], "numbers": 6}, "refined": {"numbers": 12}}
LATENT = LATENTS["corrected"]
TRAINING = {"steps": 60, "batch_size": 8, "warmup": 0.1}


@pytest.fixture(scope="module")
def shards(image_shards: Callable[..., Path]) -> Path:
    return image_shards(48, seed=3)


@pytest.fixture(scope="module", params=list(LATENTS))
def latent(request: pytest.FixtureRequest) -> dict[str, Any]:
    return LATENTS[request.param]


@pytest.fixture(scope="module")
def trained(shards: Path, latent: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    path = tmp_path_factory.mktemp("corrected") / "base"
    return fit_base(str(shards), path, settings={"latent": latent, "training": TRAINING}, device="cpu")


def random_batch(items: int, shape: tuple[int, int]) -> Batch:
    values = torch.randint(0, 256, (items, shape[0] * shape[1], 3), dtype=torch.uint8, generator=torch.Generator())
    return Batch(Grid(shape), values, torch.full((items,), 255.0), None, tuple(range(items)))


def test_it_is_better_than_the_closed_form(trained: Trained) -> None:
    assert trained.learned is not None
    assert trained.closed_form["psnr"] is not None
    assert trained.learned > trained.closed_form["psnr"] + 0.05
    stored = read_base(trained.path)
    assert stored.recipe.latent.map_width
    assert stored.base.field.is_corrected
    assert not stored.base.field.is_linear
    assert (stored.base.field.refinement is not None) == (not stored.recipe.latent.sites)
    assert stored.base.is_canonical
    assert not stored.base.start.any()


def test_only_the_correction_has_learned(
    trained: Trained, shards: Path, latent: dict[str, Any], tmp_path: Path
) -> None:
    closed = {"latent": latent, "training": {"minutes": 0}}
    floor = read_base(fit_base(str(shards), tmp_path / "base", settings=closed, device="cpu").path).base
    learned = read_base(trained.path).base
    torch.testing.assert_close(learned.field.network.state_dict(), floor.field.network.state_dict())
    # in other bases of the same latents
    ours, theirs = learned.field.latent_map.weight, floor.field.latent_map.weight
    torch.testing.assert_close(ours, theirs @ torch.linalg.lstsq(theirs, ours).solution, rtol=1e-3, atol=1e-4)


def test_a_gradient_is_exact_but_for_a_refinement(trained: Trained) -> None:
    base = read_base(trained.path).base.double()
    problem, sites = base.problem(random_batch(2, (12, 12))), base.field.sites.count
    latents = torch.randn(2, sites, base.latent, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    if base.field.refinement is not None:
        (piece,) = problem.pieces
        residual = (piece.residual(base.field(latents, piece.placement)) * piece.weights).detach()
        linear = base.field.network.features(base.field.latent_map(latents), piece.placement)
        (expected,) = torch.autograd.grad((linear * residual).sum(), latents)
    else:
        (expected,) = torch.autograd.grad(-problem.error(latents).sum() / 2, latents)
    found = problem.gradient(latents.detach()).jt_residual
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    # the same where what is linear is known
    known = base.prepared(random_batch(2, (12, 12))).gradient(latents.detach()).jt_residual
    torch.testing.assert_close(known, expected, rtol=1e-9, atol=1e-12)


def test_a_fit_takes_the_same_steps_where_no_linearization_is_kept(trained: Trained) -> None:
    base, batch = read_base(trained.path).base, random_batch(3, (12, 12))
    latents = fit(base.problem(batch), base.start, base.solver, steps=3).latents
    torch.testing.assert_close(latents, base.fit(base.prepared(batch), steps=3).latents, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(latents, base.encode(batch, steps=1).latents, atol=1e-3)


def test_each_step_of_a_fit_helps(trained: Trained, shards: Path) -> None:
    base, batch = read_base(trained.path).base, random_batch(4, (12, 12))
    errors = [base.encode(batch, steps=steps).error for steps in (1, 2, 6)]
    assert (errors[1] <= errors[0]).all()
    assert (errors[2] < errors[0]).all()


def test_encode_fewer_numbers_and_render(
    trained: Trained, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: Any) -> dict[str, Any]:
        assert run([*map(str, arguments), "--json"]) == 0
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    whole = told("encode", trained.path, shards, tmp_path / "whole.zarr", "--device", "cpu")
    fewer = told("encode", trained.path, shards, tmp_path / "fewer.zarr", "--device", "cpu", "--keep", 3)
    assert whole["psnr"]["mean"] > fewer["psnr"]["mean"]
    for name, report in (("whole", whole), ("fewer", fewer)):
        measured = told("report", tmp_path / f"{name}.zarr", "--against", shards)
        assert measured["against"]["psnr_mean"] == pytest.approx(report["psnr"]["mean"], abs=0.05)
    assert open_functaset(tmp_path / "fewer.zarr").attributes.latent == 3
    assert run(["render", str(tmp_path / "whole.zarr"), str(tmp_path / "out"), "--scale", "2"]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 48


def test_steps_that_are_computed_again_learn_the_same(shards: Path, latent: dict[str, Any], tmp_path: Path) -> None:
    learned = []
    for recompute in ("yes", "no"):
        training = TRAINING | {"steps": 5, "recompute": recompute}
        path = tmp_path / recompute
        fit_base(str(shards), path, settings={"latent": latent, "training": training}, device="cpu")
        learned.append(read_base(path).base.state_dict())
    torch.testing.assert_close(*learned, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("asked", ["2x2x3", "3"])
def test_items_that_do_not_differ(asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (12, 12), (7, 70, 200)).save(folder / f"{number}.png")
    base, store = tmp_path / "base.safetensors", tmp_path / "out.zarr"
    for arguments in (
        ("pack", folder, tmp_path / "shards"),
        ("fit-base", tmp_path / "shards", base, "--latent", asked, "--steps", 3, "--device", "cpu"),
        ("encode", base, tmp_path / "shards", store, "--device", "cpu"),
    ):
        assert run([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    assert open_functaset(store).measure("mse").max() < 1e-5
