"""Canonical latents: the same functions and the same fits, in latents that mean something."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.checkpoint import StoredBase, base_of, base_to_bytes, read_base
from functaconv.construction import build
from functaconv.conversion import EncodeOptions, encode
from functaconv.conversion.work import Work
from functaconv.data.expansion import expand_shards
from functaconv.data.shards import read_records
from functaconv.documents import merged
from functaconv.files import replace_bytes
from functaconv.functaset.opening import open_functaset
from functaconv.metrics import psnr
from functaconv.modalities import Axes
from functaconv.modalities.reading import Reading
from functaconv.recipe import Recipe
from functaconv.rendering import View, arrays
from functaconv.signals.batch import Batch, batched
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from functaconv.solvers import fit
from functaconv.training import fit_base
from functaconv.training.canonical import Basis, make_canonical
from tests.conftest import TINY, smooth

SHAPE = (9, 8)
LATENTS: dict[str, dict[str, Any]] = {
    "global": {"numbers": 5},
    "nearest": {"numbers": 4, "sites": [2, 3]},
    "linear": {"numbers": 3, "sites": [2, 2], "interpolation": "linear"},
    "film": {"numbers": 5},
    "kernel3": {"numbers": 3, "sites": [2, 3], "kernel": 3},
    "mapping": {"numbers": 5, "mapping": 2, "mapping_width": 9},
    "mapping of sites": {"numbers": 3, "sites": [2, 2], "interpolation": "linear", "mapping": 1},
}
CENTRED = ("global", "nearest", "linear", "mapping", "mapping of sites")


def made(kind: str, *, learned_start: bool = False, **solver: Any) -> Base:
    """A base in float64, its biases and its start as if learned."""
    recipe = Recipe().changed(
        {
            "network": {"width": 10, "depth": 3, "w0_first": 6.0, "w0_hidden": 4.0}
            | ({"modulation": "film"} if kind in ("film", "mapping") else {}),
            "latent": {**LATENTS[kind], "learned_start": learned_start},
            "solver": {"kind": "gauss-newton", **solver},
        }
    )
    base = build(recipe, Axes("array", 2, 2, "last", 4), Normalizer.of_code_range(2)).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for bias in base.field.network.biases:
        bias.uniform_(-0.3, 0.3, generator=generator)
    if learned_start:
        base.start.uniform_(-0.2, 0.2, generator=generator)
    return base


def batches_of(count: int = 40, *, gaps: str = "none", seed: int = 0) -> list[Batch]:
    """Items of two shapes; with values missing, the same ones in all items or others in each."""
    signals = []
    for number in range(count):
        shape = SHAPE if number % 4 else (7, 10)
        values = smooth(seed + number, shape, 2)
        chance = np.random.default_rng(number if gaps == "each" else 0)
        valid = None if gaps == "none" else chance.random(values.shape) > 0.2
        signals.append(Signal(str(number), values.astype(np.float32), valid=valid))
    return list(batched(enumerate(signals), 16))


def training_latents(base: Base, batches: list[Batch]) -> Tensor:
    return torch.cat([base.encode(batch).latents for batch in batches])


def test_latents_have_the_same_functions() -> None:
    for kind in LATENTS:
        before = made(kind, learned_start=kind in ("global", "linear"))
        after = deepcopy(before)
        basis = make_canonical(after, batches_of())
        assert basis is not None
        latents = torch.randn(6, before.field.sites.count, before.latent, dtype=torch.float64)
        coords = before.points(Grid((11, 13)))
        expected = before.decode(latents, coords)
        torch.testing.assert_close(after.decode(basis.canonical(latents), coords), expected, rtol=0, atol=1e-9)
        back = basis.canonical(latents) @ basis.matrix.mT + basis.constant
        torch.testing.assert_close(back, latents, rtol=0, atol=1e-9)
        torch.testing.assert_close(after.start, basis.canonical(before.start), rtol=0, atol=1e-9)


def test_fits_go_the_same_way() -> None:
    for kind, gaps in [
        ("global", "none"),
        ("nearest", "all"),
        ("linear", "each"),
        ("film", "all"),
        ("kernel3", "each"),
        ("mapping", "all"),
        ("mapping of sites", "each"),
    ]:
        before = made(kind)
        after = deepcopy(before)
        make_canonical(after, batches_of(gaps=gaps))
        for batch in batches_of(6, gaps=gaps, seed=900):
            coords = before.points(batch.grid)
            for steps in (1, 2, 3):
                found = [fit(base.problem(batch), base.start, base.solver, steps=steps) for base in (before, after)]
                old, new = (base.decode(one.latents, coords) for base, one in zip((before, after), found, strict=True))
                torch.testing.assert_close(new, old, rtol=0, atol=1e-9)
                old, new = (base.encode(batch, steps=steps).error for base in (before, after))
                torch.testing.assert_close(new, old, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("options", [{"chord": True}, {"learned_damping": True, "damping": 0.3}], ids=str)
def test_other_ways_to_fit_go_the_same_way_too(options: dict[str, Any]) -> None:
    before = made("nearest", **options)
    after = deepcopy(before)
    make_canonical(after, batches_of())
    (batch,) = batches_of(3, seed=900)[:1]
    old, new = (fit(base.problem(batch).at(base.start), base.start, base.solver, steps=3) for base in (before, after))
    torch.testing.assert_close(new.error, old.error, rtol=1e-9, atol=1e-12)


def test_latents_of_the_training_items_are_uncorrelated_and_in_order() -> None:
    for kind in LATENTS:
        base, batches = made(kind), batches_of(60)
        make_canonical(base, batches)
        flat = training_latents(base, batches).flatten(0, 1)
        if kind in CENTRED:
            assert flat.mean(0).abs().max() < 1e-9
        second = flat.mT @ flat / len(flat)
        size = second.diagonal()
        assert (second - torch.diag(size)).abs().max() < 1e-9 * size.max()
        assert (size.diff() <= 1e-12).all()
        torch.testing.assert_close(base.latent_mean, flat.mean(0), rtol=0, atol=1e-9)
        torch.testing.assert_close(base.latent_std, flat.std(0, correction=0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["global", "nearest"])
def test_a_change_of_a_latent_is_as_long_as_that_of_the_output(kind: str) -> None:
    base, batches = made(kind), [batch for batch in batches_of() if batch.shape == SHAPE]
    make_canonical(base, batches)
    coords, little = base.points(Grid(SHAPE)), 1e-5
    changes = little * torch.eye(base.latent, dtype=torch.float64)[:, None].expand(-1, base.field.sites.count, -1)
    changed = base.decode(base.start + changes, coords) - base.decode(base.start, coords)
    # the same change at all sites: the mean over all points is that over a site's own
    torch.testing.assert_close(
        changed.square().mean((1, 2)).sqrt(), torch.full((base.latent,), little, dtype=torch.float64),
        rtol=1e-2 if kind == "global" else 0.1, atol=0,
    )  # fmt: skip


def test_what_is_canonical_stays_nearly_as_it_is() -> None:
    base, batches = made("global"), batches_of()
    make_canonical(base, batches)
    basis = make_canonical(deepcopy(base), batches)
    assert basis is not None
    torch.testing.assert_close(basis.matrix, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-2)


def test_without_items_a_base_stays_as_it_is() -> None:
    base = made("global")
    assert make_canonical(base, []) is None
    assert not base.is_canonical


def test_a_curvature_without_full_rank_has_a_basis() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 8, dtype=torch.float64, generator=generator)
    latents = torch.randn(4, 1, 8, dtype=torch.float64, generator=generator)
    # rounding may leave it not even semidefinite
    curvature = rows.mT @ rows - 1e-7 * torch.eye(8, dtype=torch.float64)
    for given in (curvature, torch.zeros_like(curvature)):
        basis = Basis.of(given, latents, is_centred=True)
        torch.testing.assert_close(basis.matrix @ basis.inverse, torch.eye(8).double(), rtol=0, atol=1e-6)
        found = basis.canonical(latents)
        assert found.isfinite().all()


def test_axes_point_the_same_way_whichever_way_they_were_found(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(30, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    curvature = torch.diag(torch.linspace(1, 2, 6).double())
    expected = Basis.of(curvature, latents, is_centred=True)
    found = torch.linalg.eigh

    def turned(matrix: Tensor) -> Any:
        result = found(matrix)
        return type(result)((result[0], -result[1]))

    monkeypatch.setattr("torch.linalg.eigh", turned)
    torch.testing.assert_close(Basis.of(curvature, latents, is_centred=True).matrix, expected.matrix)


@pytest.fixture(scope="module", params=["global", "nearest", "kernel3", "mapping"])
def exported(
    request: pytest.FixtureRequest, base_file: Path, spatial_base_file: Path, images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> StoredBase:  # fmt: skip
    """A base as fit-base writes it, in float32."""
    if request.param == "global":
        return read_base(base_file)
    if request.param == "nearest":
        return read_base(spatial_base_file)
    settings = merged(TINY, {"latent": LATENTS[request.param], "training": {"steps": 10}})
    path = tmp_path_factory.mktemp("base") / request.param
    return read_base(fit_base(str(images), path, settings=settings, device="cpu").path)


def image_batches(images: Path, base: Base) -> Iterator[Batch]:
    reading = Reading(base.axes, None)
    records = (record for name in expand_shards([str(images)]) for record in read_records(name))
    return batched(enumerate(signal for record in records if (signal := reading.signal(record)) is not None), 32)


def test_an_exported_base_is_canonical_and_as_good_as_when_it_was_validated(
    exported: StoredBase, images: Path, tmp_path: Path
) -> None:
    """Validation comes before the change of the basis."""
    base = exported.base
    assert base.is_canonical
    settings = {**exported.recipe.settings(), "training": {"steps": 3}}
    again = fit_base(str(images), tmp_path / "base", settings=settings, validation=str(images), device="cpu")
    found = torch.cat([read_base(again.path).base.encode(batch).error for batch in image_batches(images, base)])
    assert again.validation_items == len(found)
    assert psnr(found.numpy()).mean() == pytest.approx(again.psnr, abs=0.01)
    latents = training_latents(base, list(image_batches(images, base)))
    # of nearly the items that the basis was found with
    torch.testing.assert_close(base.latent_std, latents.flatten(0, 1).std(0), rtol=0.1, atol=1e-4)


def test_a_base_of_gradient_steps_keeps_its_basis(gradient_base_file: Path) -> None:
    base = read_base(gradient_base_file).base
    assert not base.is_canonical
    assert (base.latent_std > 0).all()


# fewer numbers
def cut(latents: Tensor, keep: int) -> Tensor:
    return torch.cat([latents[..., :keep], torch.zeros_like(latents[..., keep:])], -1)


def test_a_truncated_base_decodes_what_the_whole_one_decodes_with_zeros(exported: StoredBase) -> None:
    stored = exported
    base, full = stored.base, stored.base.latent
    latents = 0.1 * torch.randn(3, base.field.sites.count, full)
    for keep in range(1, full):
        smaller = stored.truncated(keep)
        found = smaller.base.decode(latents[..., :keep], base.points(Grid(SHAPE)))
        torch.testing.assert_close(found, base.decode(cut(latents, keep), base.points(Grid(SHAPE))))
        assert smaller.base.is_canonical
        assert smaller.recipe == stored.recipe.changed({"latent": {"numbers": keep}})
        assert smaller.description.training == {**stored.description.training, "truncated_from": full}
        assert torch.equal(smaller.base.latent_std, base.latent_std[:keep])
        # the way there does not matter
        assert stored.truncated(full - 1).truncated(keep).sha256 == smaller.sha256
    assert stored.truncated(full) is stored


@pytest.fixture(scope="module")
def store(spatial_base_file: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(spatial_base_file, str(images), tmp_path_factory.mktemp("store") / "out", device="cpu").path


def test_a_functaset_of_fewer_numbers_is_rendered_by_the_base_of_fewer(store: Path) -> None:
    whole, base = open_functaset(store), base_of(open_functaset(store))
    view = whole.truncated(2)
    assert base_of(view).latent == 2
    latents = cut(torch.from_numpy(whole.latents()).flatten(1, 2), 2)
    expected = base.decode(latents, base.points(Grid((12, 12))))
    for number, (key, array) in enumerate(arrays(view)):
        assert key == whole.keys[number]
        np.testing.assert_allclose(array.reshape(-1, 3), expected[number].numpy(), atol=1e-5)
    assert all(array.shape == (24, 24, 3) for _, array in arrays(view, [0], view=View(scale=2)))


def test_fitting_fewer_numbers_is_no_worse_than_leaving_some_out(
    spatial_base_file: Path, store: Path, images: Path, tmp_path: Path
) -> None:
    kept = encode(spatial_base_file, str(images), tmp_path / "kept", device="cpu", keep=2)
    functaset = open_functaset(kept.path)
    assert functaset.layout.latent == 2
    assert functaset.attributes.canonical
    assert functaset.attributes.settings["keep"] == 2
    base = base_of(functaset)
    assert base.latent == 2
    view = open_functaset(store).truncated(2)
    left = []
    for batch in image_batches(images, base):
        rows = np.array(batch.positions)
        latents = torch.from_numpy(view.latents(rows)).flatten(1, 2)
        left.append(base.problem(batch).error(latents))
    assert functaset.psnr.mean() > psnr(torch.cat(left).numpy()).mean()


def test_codes_of_canonical_latents_have_one_step_where_it_reaches(
    base_file: Path, images: Path, tmp_path: Path
) -> None:
    stored = read_base(base_file)
    stored.base.latent_std.copy_(0.5 ** torch.arange(8))
    replace_bytes(tmp_path / "base", base_to_bytes(stored.base, stored.recipe, stored.description.training))
    quantiser = Work.of(tmp_path / "base", str(images), EncodeOptions(bits="8", device="cpu")).codec
    assert quantiser.scale is not None
    assert quantiser.offset is not None
    # 4.5 deviations to either side; a quarter of the widest is the least
    steps = 9 / 255 * np.array([1, 0.5, *[0.25] * 6])
    np.testing.assert_allclose(quantiser.scale, steps, rtol=1e-5)
    np.testing.assert_allclose(quantiser.offset + 127.5 * quantiser.scale, stored.base.latent_mean.numpy(), atol=1e-5)


def test_codes_of_other_latents_have_a_step_each(gradient_base_file: Path, images: Path) -> None:
    quantiser = Work.of(gradient_base_file, str(images), EncodeOptions(bits="8", device="cpu")).codec
    std = read_base(gradient_base_file).base.latent_std.numpy()
    np.testing.assert_allclose(quantiser.scale, 9 / 255 * std, rtol=1e-5)
