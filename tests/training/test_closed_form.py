"""Bases without an outer loop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from functaconv.checkpoint import read_base
from functaconv.documents import merged
from functaconv.errors import UsageError
from functaconv.modalities import Axes
from functaconv.recipe import validated
from functaconv.reporting.pca import analysis
from functaconv.settings import latent_of
from functaconv.signals.batch import Batch
from functaconv.signals.geometry import Flat
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.training import fit_base
from functaconv.training.closed_form import Situation, fit_closed_form
from functaconv.training.closed_form.whole import leading

CPU = torch.device("cpu")


def textures(items: int, shape: tuple[int, ...], channels: int = 1) -> Batch:
    """Smooth fields with something in common, in float."""
    generator = torch.Generator().manual_seed(0)
    places = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, size) for size in shape], indexing="ij"), -1)
    phase = 6 * torch.rand(items, 1, 4 * channels, generator=generator)
    waves = 8 * torch.randn(len(shape), 4 * channels, generator=generator)
    values = torch.sin(places.reshape(-1, len(shape)) @ waves + phase)
    values = values.reshape(items, -1, channels, 4).sum(-1)
    return Batch(Grid(shape), values, None, None, tuple(range(items)))


def fitted(batches: list[Batch], latent: str, *, modality: str = "array", **settings: Any) -> Any:
    first = batches[0]
    recipe = validated({**latent_of(latent), **settings})
    axes = Axes(modality, len(first.shape), first.values.shape[-1])
    channels, scale = axes.channels, 1.0 if modality == "voxels" else 8.0
    situation = Situation(axes, Normalizer((0.0,) * channels, (scale,) * channels), Flat(axes.dims), CPU)
    return fit_closed_form(recipe, situation, batches, [batch.items(slice(0, 4)) for batch in batches])


def test_as_many_cosines_as_points_are_pca() -> None:
    batch = textures(40, (6, 7), channels=2)
    found = fitted([batch], "5", closed_form={"features": 42})
    fit = found.base.encode(batch)
    rows = batch.values.flatten(1) / 8
    pca = analysis(rows.shape[1], len(rows))
    assert pca is not None
    pca.add(rows)
    # weighted by the inverse of the errors, and without: both near the best there is
    best = float(pca.pca(5).error(rows).mean())
    assert best * 0.999 <= float(fit.error.mean()) < 1.5 * best


def test_a_latent_may_have_as_many_numbers_as_there_are_items() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20, 1, 3, generator=generator) + 0.1 * torch.rand(20, 32 * 32, 3, generator=generator)
    batch = Batch(Grid((32, 32)), values, None, None, tuple(range(20)))
    assert float(fitted([batch], "16").base.encode(batch).error.max()) < 1e-2


def test_a_latent_may_have_more_numbers_than_there_are_components() -> None:
    batch = textures(9, (6,))
    fit = fitted([batch], "8").base.encode(batch)
    assert fit.latents.shape == (9, 1, 8)
    assert float(fit.error.max()) < 1e-6


@pytest.mark.parametrize(
    ("latent", "shape"), [("4x3", (16,)), ("3x4x3", (12, 16)), ("2x2x2x6", (6, 6, 6)), ("6x7x3", (30, 41))]
)
def test_windows_follow_smooth_fields(latent: str, shape: tuple[int, ...]) -> None:
    batch = textures(60, shape)
    found = fitted([batch], latent, closed_form={"rounds": 4, "features": 80})
    assert float(found.base.encode(batch).error.mean()) < 0.2 * float((batch.values / 8).var())


def test_the_same_items_give_the_same_base() -> None:
    one, other = (fitted([textures(12, (16,))], "4x3").base for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


def test_items_of_two_sizes_share_a_base() -> None:
    batches = [textures(20, (12, 16)), textures(20, (16, 12))]
    found = fitted(batches, "3x4x6")
    for batch in batches:
        assert float(found.base.encode(batch).error.mean()) < 0.2 * float((batch.values / 8).var())


def test_the_error_without_decoding_is_that_of_the_decoded() -> None:
    batch = textures(12, (12, 16))
    base = fitted([batch], "3x4x4").base
    fit = base.encode(batch)
    latents = fit.latents.half().float()
    decoded = base.decode(latents, base.points(batch.grid))
    exact = (decoded - base.normalizer.features(batch)).square().mean((1, 2))
    db = 10 * torch.log10(fit.problem.error(latents) / exact)
    assert db.abs().max() < 0.01


def test_without_minutes_the_closed_form_is_the_base(images: Path, tmp_path: Path) -> None:
    settings = {"latent": {"numbers": 4, "sites": [2, 3]}, "training": {"minutes": 0}}
    trained = fit_base(str(images), tmp_path / "base", settings=settings, device="cpu")
    assert (trained.updates, trained.recipe.network.kind, trained.learned) == (0, "fourier", None)
    assert trained.closed_form["psnr"] == pytest.approx(trained.psnr)
    assert read_base(tmp_path / "base").description.training["closed_form"] == trained.closed_form


def test_what_was_asked_for_is_written(images: Path, tmp_path: Path, tiny: dict[str, dict[str, object]]) -> None:
    tiny = merged(tiny, {"training": {"steps": 5}})
    free = {name: values for name, values in tiny.items() if name != "network"}
    chosen = fit_base(str(images), tmp_path / "free", settings=free, device="cpu")
    asked = fit_base(str(images), tmp_path / "asked", settings=tiny, device="cpu")
    assert chosen.psnr == max(chosen.learned or 0, chosen.closed_form["psnr"] or 0)
    assert asked.recipe.network.kind == "siren"
    assert asked.psnr == asked.learned


def test_a_network_that_cannot_be_fitted_in_closed_form_wants_minutes(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not this network: siren"):
        fit_base(str(images), tmp_path / "b", settings={"solver": {"kind": "gradient"}, "training": {"minutes": 0}})


def test_iterating_captures_what_diagonalising_does() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 120, generator=generator, dtype=torch.float64) / torch.arange(1, 121)
    matrix = rows.mT @ rows
    found, exact = (leading(matrix, 8, dense=dense) for dense in (10, 120))
    torch.testing.assert_close(found.mT @ found, torch.eye(8, dtype=found.dtype))
    captured = [float((basis.mT @ matrix @ basis).trace()) for basis in (found, exact)]
    assert captured[0] == pytest.approx(captured[1], rel=1e-5)


def test_clipped_voxels_are_nearer_than_unclipped_ones_and_lie_between_0_and_1() -> None:
    batch = textures(60, (8, 8, 8))
    batch = replace(batch, values=(batch.values > 0).float())
    plain, clipped = (
        fitted([batch], "12", data={"clipped": is_clipped}, modality="voxels").base for is_clipped in (False, True)
    )
    errors = []
    for base in (plain, clipped):
        decoded = base.decode(base.encode(batch).latents, base.points(batch.grid)).clamp(0, 1)
        errors.append(float((decoded - batch.values).square().mean()))
    assert errors[1] < 0.7 * errors[0]
    decoded = clipped.decode(clipped.encode(batch).latents, clipped.points(batch.grid))
    assert (float(decoded.min()), float(decoded.max())) == (0, 1)


def test_values_without_limits_are_not_clipped() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        fitted([textures(12, (6, 6))], "3", data={"clipped": True})
