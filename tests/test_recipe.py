"""Recipes: published numbers, validated settings, and the bases they build."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from functaconv.base import Base
from functaconv.construction import build
from functaconv.defaults import Situation
from functaconv.documents import merged
from functaconv.errors import InputError, UsageError
from functaconv.modalities import Axes
from functaconv.networks import FourierOptions
from functaconv.networks.refinement import knots_of
from functaconv.presets import PRESETS, preset
from functaconv.recipe import LatentRecipe, Recipe, validated
from functaconv.settings import assignment, from_toml, latent_of
from functaconv.signals.batch import Batch
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.solvers import GaussNewtonOptions

SMALL = Situation((32, 32), 3, on_gpu=False)
RGB = Axes("image", 2, 3)

# Dupont et al. 2022 and google-deepmind/functa: meta-SGD with one rate per dimension, Adam, no schedule
FUNCTA = {
    "network": {"kind": "siren", "width": 512, "w0_first": 30, "w0_hidden": 30, "output_offset": 0.5,
                "modulation": "shift"},
    "latent": {"numbers": 256, "sites": (), "learned_start": False},
    "solver": {"kind": "gradient", "steps": 3, "per_step": False, "initial": (0.005, 0.1), "limits": (0, 1)},
    "training": {"steps": 500_000, "batch_size": 16, "rate": 3e-6, "solver_rate": 3e-6, "second_order": True,
                 "schedule": "constant", "warmup": 0, "clip": 0, "ema": 0, "inner_points": None},
}  # fmt: skip
# Bauer et al. 2023
SPATIAL = {
    "network": {"kind": "siren", "width": 256, "w0_first": 10, "w0_hidden": 10, "modulation": "shift"},
    "latent": {"interpolation": "nearest", "learned_start": False},
    "solver": {"kind": "gradient", "steps": 3, "per_step": False, "initial": (0.005, 0.1), "limits": (0, 1)},
    "training": {"steps": 200_000, "batch_size": 128, "rate": 3e-5, "solver_rate": 3e-5, "second_order": True},
}
OWN = {
    "functa-cifar10": {"network": {"depth": 10}},
    "functa-celeba64": {"network": {"depth": 15}},
    "functa-shapenet64": {"network": {"depth": 15}},
    "functa-era5": {"network": {"depth": 15}},
    "spatial-cifar10": {"network": {"depth": 6}, "latent": {"numbers": 16, "sites": (8, 8), "kernel": 1}},
    "spatial-imagenet256": {"network": {"depth": 8}, "latent": {"numbers": 64, "sites": (32, 32), "kernel": 3}},
}


# Skorokhodov et al. 2021, Singh et al. 2023, Chan et al. 2021
GENERATORS = {
    "inr-gan-fmm": {"kind": "fourier", "learned": True, "features": 256, "layers": 4, "width": 512,
                    "modulation": "fmm", "rank": 10},
    "inr-gan-multiscale": {"kind": "multiscale", "width": 512, "fine_depth": 5, "modulation": "fmm", "rank": 10},
    "poly-inr": {"kind": "polynomial", "width": 1024, "depth": 11, "modulation": "affine"},
    "film": {"kind": "siren", "width": 256, "depth": 9, "modulation": "film"},
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATORS)
def test_networks_of_generators_have_the_published_sizes(name: str) -> None:
    recipe = preset(name, SMALL)
    assert GENERATORS[name].items() <= recipe.settings()["network"].items()
    assert (recipe.latent.mapping, recipe.latent.sites) == (2, ())
    assert "ours" in PRESETS[name].purpose
    asked = preset(name, replace(SMALL, latent=LatentRecipe(numbers=64)))
    assert asked.training.inner_points is not None
    assert asked.training.inner_points <= recipe.training.inner_points


def test_published_presets_have_the_published_settings() -> None:
    for name in OWN:
        recipe = preset(name, SMALL)
        for table in (FUNCTA if name.startswith("functa") else SPATIAL, OWN[name]):
            for section, values in table.items():
                for key, value in values.items():
                    assert getattr(getattr(recipe, section), key) == value, (section, key)
        for other in (Situation((7,), 1, on_gpu=True), Situation((9000, 8000), 3, True)):
            assert preset(name, other) == recipe, "it does not depend on the data"
        assert recipe.solver.kind == "gradient"


@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(OWN)))
def test_sized_presets_are_valid_and_build_for_any_data(name: str) -> None:
    for shape in ((1,), (1000,), (8, 8), (64, 64), (1000, 3), (2000, 3000), (64, 64, 64)):
        assert_builds(name, shape)


def assert_builds(name: str, shape: tuple[int, ...]) -> None:
    recipe = preset(name, Situation(shape, 1, on_gpu=len(shape) == 2))
    assert validated(recipe.settings()) == recipe
    assert (recipe.training.steps is None) != (recipe.training.minutes is None)
    # clipped features are those of volumes of 0 and 1
    axes = Axes("voxels" if recipe.data.clipped else "array", len(shape), 1)
    base = build(recipe, axes, Normalizer((0.0,), (1.0,)))
    assert base.numbers == recipe.latent.numbers * torch.Size(recipe.latent.sites or (1,)).numel()
    assert recipe.latent.sites == () or len(recipe.latent.sites) == len(shape)


def test_a_recipe_comes_back_from_toml(tmp_path: Path) -> None:
    for name in PRESETS:
        plain = preset(name, SMALL)
        assert validated(plain.settings()) == plain
        assert plain.changed({}) == plain
        recipe = plain.changed({"data": {"field": "npz:a b", "channels": 1}, "name": 'a "name"\n é'})
        path = tmp_path / "recipe.toml"
        path.write_text(recipe.to_toml(), encoding="utf-8")
        assert validated(from_toml(path)) == recipe
        assert validated(tomllib.loads(recipe.to_toml())).to_toml() == recipe.to_toml()


def test_changes_replace_single_settings_only() -> None:
    recipe = preset("functa-cifar10", SMALL)
    changed = recipe.changed({"training": {"rate": 1e-4}, "latent": {"sites": [4, 4]}})
    assert changed.training == replace(recipe.training, rate=1e-4)
    assert changed.latent == replace(recipe.latent, sites=(4, 4))
    assert (changed.network, changed.solver) == (recipe.network, recipe.solver)


def test_another_kind_begins_with_its_own_defaults() -> None:
    recipe = preset("functa-cifar10", SMALL)
    changed = recipe.changed({"network": {"kind": "fourier", "width": 7}, "solver": {"kind": "gauss-newton"}})
    assert changed.network == FourierOptions(width=7)
    assert changed.solver == GaussNewtonOptions()
    assert (
        merged({"solver": {"kind": "gradient", "steps": 2}}, {"solver": {"steps": 5}})["solver"]["kind"] == "gradient"
    )


def test_an_unknown_name_brings_the_nearest() -> None:
    for name, near in (("functa-cifar", "functa-cifar10"), ("image", "images"), ("spatial_imagenet256", "spatial-")):
        with pytest.raises(UsageError, match="no preset") as caught:
            preset(name, SMALL)
        assert f"did you mean '{near}" in str(caught.value.hint)
    for text in ("trainng.rate=1", "training.rates=1"):
        with pytest.raises(UsageError, match="no setting") as caught:
            assignment(text)
        assert "did you mean 'training.rate" in str(caught.value.hint)


REFUSED = [
    {"network": {"width": 0}},
    {"network": {"width": 8193}},
    {"network": {"depth": 1}},
    {"network": {"depth": 2.5}},
    {"network": {"w0_first": 0}},
    {"network": {"w0_hidden": float("inf")}},
    {"network": {"output_offset": float("nan")}},
    {"network": {"modulation": "scale"}},
    {"latent": {"numbers": 0}},
    {"latent": {"numbers": 65537}},
    {"latent": {"sites": [0, 4]}},
    {"latent": {"sites": [2, 2, 2, 2]}},
    {"latent": {"kernel": 2}},
    {"latent": {"kernel": 5}},
    {"latent": {"interpolation": "cubic"}},
    {"solver": {"steps": 0}},
    {"solver": {"initial": [0.0, 0.1]}},
    {"solver": {"initial": [0.1]}},
    {"solver": {"initial": [0.5, 0.1]}},
    {"solver": {"limits": [2.0, 1.0]}},
    {"training": {"steps": 0}},
    {"training": {"minutes": -1}},
    {"training": {"ema": 1.0}},
    {"training": {"warmup": 1.1}},
    {"training": {"batch_size": 0}},
    {"training": {"seed": -1}},
    {"training": {"recompute": "maybe"}},
    {"data": {"channels": 2}},
    {"training": {"unknown": 1}},
    {"unknown": 1},
    {"name": ""},
    {"training": 3},
    {"network": {"depth": 10**9}},
    {"latent": {"numbers": 10**9}},
    {"latent": {"sites": [10**9, 10**9]}},
    {"solver": {"steps": 10**9}},
]
# each within its range, together larger than any memory
TOO_LARGE = [
    {"network": {"width": 8192, "depth": 100}},
    {"network": {"width": 8192, "frequencies": 10**9}},
    {"latent": {"sites": [1024, 1024, 1024]}},
    {"latent": {"sites": [256, 256, 64], "kernel": 3, "numbers": 1}},
    {"network": {"width": 4096, "depth": 10, "modulation": "film"}, "latent": {"numbers": 65536}},
    {"solver": {"kind": "gauss-newton"}, "latent": {"numbers": 65536}, "network": {"width": 2}},
    {
        "solver": {"kind": "gauss-newton"},
        "latent": {"numbers": 256, "sites": [16, 16], "interpolation": "linear"},
    },
]


def test_settings_out_of_range_are_refused_by_name() -> None:
    for settings in [*REFUSED, *TOO_LARGE]:
        with pytest.raises(UsageError, match="the recipe is not valid") as caught:
            Recipe().changed(settings)
        assert caught.value.hint
        if settings in REFUSED:
            (section, values), *_ = settings.items()
            name = f"{section}.{next(iter(values))}" if isinstance(values, dict) else section
            assert name in str(caught.value), settings


def test_an_assignment_is_a_nested_table() -> None:
    for text, expected in [
        ("training.rate=1e-4", {"training": {"rate": 1e-4}}),
        ("latent.sites=[8, 8]", {"latent": {"sites": [8, 8]}}),
        (" network.kind = siren ", {"network": {"kind": "siren"}}),
        ('name="a=b"', {"name": "a=b"}),
        ("latent.learned_start=true", {"latent": {"learned_start": True}}),
        ("data.field=npz:a", {"data": {"field": "npz:a"}}),
    ]:
        assert assignment(text) == expected

    for text in ("training.rate", "=3", "", "training=3"):
        with pytest.raises(UsageError):
            assignment(text)


def test_a_latent_is_sites_then_numbers() -> None:
    for text, numbers, sites in (("256", 256, []), ("8x8x16", 16, [8, 8]), ("4X2", 2, [4]), ("2x3x4x5", 5, [2, 3, 4])):
        assert latent_of(text) == {"latent": {"numbers": numbers, "sites": sites}}
    for text in ("", "x", "8x", "0", "8x0x4", "-8", "1.5", "2x2x2x2x2", "8×8"):
        with pytest.raises(UsageError, match="cannot read the latent"):
            latent_of(text)


def test_a_file_that_is_no_recipe_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for content in (
        b"a = ", b"\xff\xfe", b"[training]\nrate = 1\nrate = 2\n", b"a = " + b"[" * 5000, b"a = " + b"9" * 5000,
        b"a = 1\n" * 300_000,
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"recipe\.toml"):
            from_toml(path)
    with pytest.raises(InputError, match=r"absent\.toml: .*No such file"):
        from_toml(tmp_path / "absent.toml")
    with pytest.raises(InputError):
        from_toml(tmp_path)


def test_a_wrong_name_in_a_recipe_file_is_told_with_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[network]\nwidht = 3\n")
    with pytest.raises(UsageError, match=r"no setting 'network\.widht'") as caught:
        from_toml(path)
    assert "did you mean 'network.width'" in str(caught.value.hint)


@pytest.mark.parametrize("latent", [LatentRecipe(numbers=5000), LatentRecipe(numbers=4000, sites=(4, 4))], ids=str)
def test_a_latent_that_a_preset_cannot_take_is_a_mistake_of_the_user(latent: LatentRecipe) -> None:
    situation = Situation((32, 32), 3, False, latent, has_network=True)
    with pytest.raises(UsageError, match=r"not valid: \d+ (numbers|entries)"):
        preset("images", situation)


def built(**settings: Any) -> Base:
    network = {"width": 6, "depth": 3, **settings.pop("network", {})}
    recipe = Recipe().changed({"network": network, **settings})
    return build(recipe, RGB, Normalizer.of_code_range(3))


def test_a_base_is_built_as_the_recipe_says() -> None:
    base = built(
        network={"modulation": "film", "output_offset": 0.25, "w0_first": 7, "w0_hidden": 5},
        latent={"numbers": 5, "sites": [2, 3], "kernel": 3, "interpolation": "linear"},
        solver={"steps": 4, "initial": [0.1, 0.2], "limits": [0.0, 0.5]},
    )
    assert base.field.network.w0 == [7, 5]
    assert (base.field.network.scales, base.field.network.output_offset) == (True, 0.25)
    assert base.field.latent_map.weight.shape == (2 * 2 * 6, 9 * 5)
    assert base.solver.rates.shape == (4, 5)
    assert ((base.solver.rates >= 0.1) & (base.solver.rates <= 0.2)).all()
    assert (base.sites, base.numbers, base.is_coupled) == ((2, 3), 30, True)
    assert (base.field.sites.frame, base.start.shape) == ("global", (1, 6, 5))
    assert built(latent={"sites": [2, 3]}).field.sites.frame == "local"
    assert built().sites == ()


@pytest.mark.parametrize("learned", [False, True])
def test_the_start_is_a_parameter_when_it_is_learned(learned: bool) -> None:
    base = built(latent={"learned_start": learned})
    assert ("start" in dict(base.named_parameters())) == learned
    assert not base.start.any()


def test_a_base_depends_on_the_seed_of_the_recipe_alone() -> None:
    first, again = built(), built()
    torch.manual_seed(1)
    other = built(training={"seed": 1})
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.solver.rates, other.solver.rates) or not torch.equal(
        first.field.network.weights[0], other.field.network.weights[0]
    )


def test_sites_with_other_axes_than_the_data_are_refused() -> None:
    for sites in [[4], [4, 4, 4]]:
        with pytest.raises(UsageError, match="site axes"):
            built(latent={"sites": sites})


def test_an_unknown_kind_names_the_known_ones() -> None:
    for section in ["network", "solver"]:
        with pytest.raises(UsageError, match=f"there is no {section} 'sirn'") as caught:
            built(**{section: {"kind": "sirn"}})
        assert "known:" in str(caught.value.hint)


@pytest.mark.parametrize("shape", [(4, 4), (16, 16)])
def test_sites_move_alike_whether_a_grid_has_points_for_all_of_them_or_not(shape: tuple[int, int]) -> None:
    """A constant image of any size moves a site as the gradient of the mean over the site's own points."""
    base = built(latent={"sites": [8, 8], "numbers": 3}, network={"w0_first": 0.01})
    points = shape[0] * shape[1]
    batch = Batch(Grid(shape), torch.full((1, points, 3), 0.9), torch.ones(1), None, (0,))
    moved = base.encode(batch, steps=1).latents[0]
    moved = moved[moved.any(-1)]
    assert len(moved) == min(64, points)
    one = built(latent={"numbers": 3}, network={"w0_first": 0.01})
    one.load_state_dict({**base.state_dict(), "start": one.start})
    batch = Batch(Grid((1, 1)), torch.full((1, 1, 3), 0.9), torch.ones(1), None, (0,))
    expected = one.encode(batch, steps=1).latents[0]
    # the first layer hardly turns: where in its cell a point lies does not matter
    torch.testing.assert_close(moved, expected.expand_as(moved), rtol=0.1, atol=1e-5)


def test_the_images_preset_is_made_for_the_solver_that_is_asked_for() -> None:
    situation = {"shape": (32, 32), "channels": 3, "on_gpu": False}
    default, asked = (
        preset("images", Situation(**situation)),
        preset("images", Situation(**situation, solver="gauss-newton")),
    )
    gradient = preset("images", Situation(**situation, solver="gradient"))
    # the closed form is corrected or refined unless something else is asked for
    assert (default.network.kind, asked.network.kind, gradient.network.kind) == ("fourier", "siren", "siren")
    assert (default.solver.kind, default.training.optimizer) == ("gauss-newton", "muon")
    assert (asked.solver.kind, asked.training.optimizer) == ("gauss-newton", "muon")
    assert (gradient.solver.kind, gradient.training.optimizer) == ("gradient", "adam")
    assert asked.latent == gradient.latent == replace(default.latent, map_width=0)


def test_thousands_of_small_photographs_have_a_global_latent_unless_a_network_is_asked_for() -> None:
    many = replace(SMALL, has_many=True)
    recipe = preset("images", many)
    assert (recipe.latent.numbers, recipe.latent.sites, recipe.latent.is_refined) == (256, (), True)
    # as many numbers for few of them, behind windows
    assert preset("images", SMALL).latent.sites == (4, 4)
    for other in (replace(many, solver="gauss-newton"), replace(many, has_network=True), replace(many, shape=(33, 32))):
        assert preset("images", other).latent == preset("images", replace(other, has_many=False)).latent


@pytest.mark.parametrize(
    "settings",
    [
        {"network": {"kind": "siren"}}, {"network": {"layers": 1}}, {"solver": {"chord": False}},
        {"solver": {"kind": "gradient"}}, {"latent": {"kernel": 3}}, {"latent": {"learned_start": True}},
    ],
)  # fmt: skip
def test_a_correction_is_one_of_the_closed_form(settings: dict[str, Any]) -> None:
    corrected = preset("images", SMALL)
    assert corrected.latent.map_width
    with pytest.raises(UsageError, match=r"latent\.map_width corrects the closed form"):
        corrected.changed(settings)
    corrected.changed({"latent": {"map_width": 0}}).changed(settings)


def test_a_global_latent_is_refined_on_flat_domains() -> None:
    asked = Situation((30, 100), 3, on_gpu=False, latent=LatentRecipe(numbers=64))
    refined = preset("images", asked)
    assert refined.latent.is_refined
    assert preset("images", replace(asked, is_refinable=False)).network.kind == "siren"
    with pytest.raises(UsageError, match="knots"):
        refined.changed({"latent": {"knots": [512, 512]}})
    with pytest.raises(UsageError, match=r"training\.envelope"):
        refined.changed({"training": {"envelope": True}})


@pytest.mark.parametrize(
    ("shape", "knots"),
    [((32, 32), (32, 32)), ((33, 1), (32, 2)), ((4, 900), (4, 900)), ((300, 200), (64, 64)), ((10000,), (4096,)),
     ((1, 64, 64), (2, 44, 46)), ((20, 20, 20), (16, 16, 16))],
)  # fmt: skip
def test_knots_are_the_points_of_the_items_within_reason(shape: tuple[int, ...], knots: tuple[int, ...]) -> None:
    assert knots_of(shape) == knots


def test_more_is_measured_than_fitted() -> None:
    for numbers, channels in [(64, 1), (256, 3), (512, 2)]:
        latent = LatentRecipe(numbers=numbers)
        training = preset("images", Situation((64, 64), channels, False, latent, "gauss-newton")).training
        assert training.inner_points is not None
        assert channels * training.inner_points >= 4 * numbers
