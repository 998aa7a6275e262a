"""What every entry of the table of networks promises; a network is added by adding its options to `CASES`."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.construction import build
from functaconv.errors import UsageError
from functaconv.modalities import Axes
from functaconv.networks import NETWORKS, Network, Placement
from functaconv.recipe import Recipe
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from tests.networks.toy import Toy

CASES: dict[str, dict[str, Any]] = {
    "toy": {"kind": "toy", "width": 5},
    "siren": {"kind": "siren", "width": 5, "depth": 4, "w0_first": 7.0, "w0_hidden": 5.0},
    "siren film": {"kind": "siren", "width": 5, "depth": 3, "w0_hidden": 5.0, "modulation": "film", "skips": True},
    "siren frequencies": {"kind": "siren", "width": 5, "depth": 3, "w0_hidden": 5.0, "frequencies": 3},
    "fourier": {"kind": "fourier", "features": 6, "mean_features": 3},
    "fourier layers": {"kind": "fourier", "features": 6, "layers": 2, "width": 5},
    "fourier learned": {"kind": "fourier", "features": 6, "learned": True},
    "fourier gelu": {"kind": "fourier", "features": 6, "layers": 1, "width": 5, "modulation": "shift"},
    "fourier sine": {"kind": "fourier", "features": 6, "learned": True, "layers": 2, "width": 5,
                     "activation": "sine", "w0_hidden": 2.0, "modulation": "shift"},
    "fourier film": {"kind": "fourier", "features": 6, "layers": 2, "width": 5, "activation": "leaky-relu",
                     "modulation": "film"},
    "siren fmm": {"kind": "siren", "width": 5, "depth": 3, "w0_hidden": 5.0, "modulation": "fmm", "skips": True},
    "siren lowrank": {"kind": "siren", "width": 5, "depth": 3, "w0_hidden": 5.0, "modulation": "lowrank",
                      "frequencies": 3},
    "siren readout": {"kind": "siren", "width": 5, "depth": 3, "w0_hidden": 5.0, "modulation": "readout"},
    "polynomial": {"kind": "polynomial", "width": 5, "depth": 4},
    "polynomial levels": {"kind": "polynomial", "width": 5, "depth": 3, "modulation": "levels"},
    "polynomial film": {"kind": "polynomial", "width": 5, "depth": 3, "modulation": "film"},
    "multiscale": {"kind": "multiscale", "width": 5, "depth": 3, "features": 4, "sites": 3, "fine_width": 4},
    "multiscale readout": {"kind": "multiscale", "width": 5, "depth": 3, "features": 4, "sites": 3, "fine_width": 4,
                           "modulation": "readout"},
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "global": {"sites": []},
    "nearest": {"sites": [2, 3]},
    "linear": {"sites": [2, 2], "interpolation": "linear"},
    "window": {"sites": [2, 2], "interpolation": "window"},
    "kernel3": {"sites": [2, 3], "kernel": 3},
    "mapping": {"mapping": 2, "mapping_width": 6},
    "mapping, nearest": {"sites": [2, 3], "mapping": 1, "mapping_width": 6},
    "mapping, linear": {"sites": [2, 2], "interpolation": "linear", "mapping": 2, "mapping_width": 6},
    "mapping, window": {"sites": [2, 2], "interpolation": "window", "mapping": 1, "mapping_width": 6},
}
# networks that take global latents only
GLOBAL = ("siren fmm", "multiscale", "multiscale readout")
# every network on a layout, every layout with a network
PAIRS = [
    (case, list(LAYOUTS)[number % len(LAYOUTS)])
    for number, case in enumerate(case for case in CASES if case not in GLOBAL)
] + [(case, "mapping") for case in GLOBAL]
ITEMS, NUMBERS, CHANNELS, SHAPE = 2, 3, 2, (4, 5)
EXACT = {"rtol": 1e-10, "atol": 1e-11}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "toy", Toy)


def recipe_of(case: str, layout: str = "global", **latent: Any) -> Recipe:
    return Recipe().changed({"network": CASES[case], "latent": {"numbers": NUMBERS, **LAYOUTS[layout], **latent}})


def base_of(case: str, layout: str = "global", **latent: Any) -> Base:
    return stirred(
        build(recipe_of(case, layout, **latent), Axes("array", 2, CHANNELS), Normalizer((0.0,) * 2, (1.0,) * 2))
    )


def stirred(base: Base) -> Base:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in base.field.network.parameters():
            # zeros would hide what is forgotten
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return base.double()


def latents_of(base: Base, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (ITEMS, base.field.sites.count, NUMBERS)
    return 0.3 * torch.randn(shape, dtype=torch.float64, generator=generator)


def placement_of(base: Base) -> Placement:
    return base.placement(Grid(SHAPE))


def in_grid_order(placement: Placement, features: Tensor) -> Tensor:
    return placement.scatter(features, features.new_zeros(len(features), SHAPE[0] * SHAPE[1], features.shape[-1]))


def test_every_network_is_tested() -> None:
    assert {options["kind"] for options in CASES.values()} == set(NETWORKS)


@pytest.mark.parametrize(("case", "layout"), PAIRS)
def test_derivatives_are_those_of_autograd(case: str, layout: str) -> None:
    base = base_of(case, layout)
    field, placement, latents = base.field, placement_of(base), latents_of(base).requires_grad_()
    features, pullback = field.vjp(latents, placement)
    torch.testing.assert_close(features, field(latents, placement), **EXACT)
    cotangent = torch.randn(features.shape, dtype=features.dtype, generator=torch.Generator().manual_seed(3))
    (expected,) = torch.autograd.grad(field(latents, placement), latents, cotangent)
    torch.testing.assert_close(pullback(cotangent), expected, **EXACT)
    # J times a change of the latents: the derivative of the pullback, which is linear, by its cotangent
    _, rows = field.jacobian(latents, placement)
    change, reads = latents_of(base, seed=4), field.reads(placement)
    read = change if reads is None else reads.of(change)
    cotangent.requires_grad_()
    (pulled,) = torch.autograd.grad(field(latents, placement), latents, cotangent, create_graph=True)
    (along,) = torch.autograd.grad(pulled, cotangent, change)
    found = torch.einsum("icphn,icn->icph", rows.expand(ITEMS, -1, -1, -1, -1), read)
    torch.testing.assert_close(found, along, **EXACT)


@pytest.mark.parametrize(("case", "layout"), PAIRS)
def test_one_latent_may_stand_for_all_items(case: str, layout: str) -> None:
    base = base_of(case, layout)
    placement, latents = placement_of(base), latents_of(base)[:1].requires_grad_()
    features, pullback = base.field.vjp(latents, placement)
    assert len(features) == 1
    cotangent = torch.randn(3, *features.shape[1:], dtype=features.dtype, generator=torch.Generator().manual_seed(3))
    all_features, of_all = base.field.vjp(latents.expand(3, -1, -1), placement)
    torch.testing.assert_close(features.expand_as(all_features), all_features, **EXACT)
    torch.testing.assert_close(pullback(cotangent), of_all(cotangent), **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_the_outer_loop_goes_through_the_pullback(case: str) -> None:
    layout = "nearest" if CASES[case]["kind"] == "siren" else "window"
    base = base_of(case, "global" if case in GLOBAL else layout)
    field, placement, latents = base.field, placement_of(base), latents_of(base).requires_grad_()
    parameters, direction = [latents, *field.parameters()], latents_of(base, seed=5)
    features, pullback = field.vjp(latents, placement)
    found = torch.autograd.grad((pullback(2 * features) * direction).sum(), parameters, allow_unused=True)
    (gradient,) = torch.autograd.grad(field(latents, placement).square().sum(), latents, create_graph=True)
    expected = torch.autograd.grad((gradient * direction).sum(), parameters, allow_unused=True)
    for one, other, parameter in zip(found, expected, parameters, strict=True):
        one, other = (torch.zeros_like(parameter) if given is None else given for given in (one, other))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_fast_derivatives_are_those_that_a_network_has_without_them(case: str) -> None:
    base = base_of(case, "global" if case in GLOBAL else "nearest")
    network, placement = base.field.network, placement_of(base)
    modulation = base.field.latent_map(latents_of(base))
    onto = base.field.latent_map.weight
    for fast, usual in (
        (network.features(modulation, placement), Network.features(network, modulation, placement)),
        (network.jacobian(modulation, placement, onto)[1], Network.jacobian(network, modulation, placement, onto)[1]),
    ):
        torch.testing.assert_close(fast.expand_as(usual), usual, **EXACT)


@pytest.mark.parametrize(("case", "layout"), PAIRS)
def test_a_point_depends_on_itself_alone(case: str, layout: str) -> None:
    base = base_of(case, layout)
    latents, points = latents_of(base), base.points(Grid(SHAPE))
    whole = in_grid_order(placement_of(base), base.field(latents, placement_of(base)))
    chosen = torch.tensor([7, 0, 13])
    few = base.place(points[chosen])
    found = few.scatter(base.field(latents, few), whole.new_zeros(ITEMS, 3, CHANNELS))
    torch.testing.assert_close(found, whole[:, chosen], **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_what_a_network_says_of_itself_holds(case: str) -> None:
    base = base_of(case)
    network, placement = base.field.network, placement_of(base)
    modulation, other = base.field.latent_map(latents_of(base)), base.field.latent_map(latents_of(base, seed=6))
    assert network.modulations == sum(network.parts) == modulation.shape[-1]
    assert all(any(matrix is known for known in network.parameters()) for matrix in network.matrices)
    assert all(matrix.dim() == 2 for matrix in network.matrices)
    at_zero, at_one, at_both = (
        network.features(given, placement) for given in (0 * modulation, modulation, modulation + other)
    )
    straight = at_one + network.features(other, placement) - at_zero
    assert torch.allclose(at_both, straight, **EXACT) == network.is_linear
    if network.absorbs_constants:
        constant = other[:1, :1]
        expected = network.features(modulation + constant, placement)
        network.absorb(constant[0, 0])
        torch.testing.assert_close(network.features(modulation, placement), expected, **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_a_network_is_a_function_of_its_generator_and_can_be_loaded(case: str) -> None:
    def made(seed: int, **how: bool) -> dict[str, Tensor]:
        recipe = recipe_of(case).changed({"training": {"seed": seed}})
        base = build(recipe, Axes("array", 2, CHANNELS), Normalizer((0.0,) * 2, (1.0,) * 2), **how)
        return dict(base.state_dict())

    first, again, other, empty = made(5), made(5), made(6), made(5, to_be_loaded=True)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert {name: tensor.shape for name, tensor in first.items()} == {name: t.shape for name, t in empty.items()}


@pytest.mark.parametrize("case", CASES)
def test_options_come_back_from_the_settings_and_others_are_refused(case: str) -> None:
    recipe = recipe_of(case)
    assert type(recipe.network) is NETWORKS[CASES[case]["kind"]].Options
    assert Recipe().changed(recipe.settings()) == recipe
    assert {field.name for field in fields(recipe.network)} == set(recipe.settings()["network"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"network\.unheard: Unexpected"):
        recipe.changed({"network": {"unheard": 1}})


@pytest.mark.parametrize("modulation", ["shift", "film"])
def test_shifts_of_hidden_layers_want_hidden_layers(modulation: str) -> None:
    with pytest.raises(UsageError, match=r"set network\.layers"):
        Recipe().changed({"network": {"kind": "fourier", "modulation": modulation}})
