"""Every network of layers with every modulation, and what is particular to some."""

from typing import Any

import pytest
import torch
from torch import Tensor

from functaconv.construction import build
from functaconv.errors import UsageError
from functaconv.modalities import Axes
from functaconv.networks import (
    MODULATIONS,
    Inputs,
    Multiscale,
    MultiscaleOptions,
    Network,
    Polynomial,
    PolynomialOptions,
)  # fmt: skip
from functaconv.recipe import Recipe
from functaconv.signals.normalizer import Normalizer
from tests.networks.test_networks import (
    CHANNELS,
    EXACT,
    ITEMS,
    LAYOUTS,
    NUMBERS,
    latents_of,
    placement_of,
    stirred,
)  # fmt: skip

LAYERED: dict[str, dict[str, Any]] = {
    "siren": {"kind": "siren", "width": 5, "depth": 3, "w0_first": 7.0, "w0_hidden": 5.0},
    "fourier": {"kind": "fourier", "features": 6, "layers": 2, "width": 5},
    "polynomial": {"kind": "polynomial", "width": 5, "depth": 4},
    "multiscale": {"kind": "multiscale", "width": 5, "depth": 3, "features": 4, "sites": 3, "fine_width": 4},
}


@pytest.mark.parametrize(
    ("kind", "modulation"),
    [(kind, modulation) for kind in LAYERED for modulation in MODULATIONS]
    + [("polynomial", "affine"), ("polynomial", "levels")],
)
def test_every_layered_network_takes_every_modulation(kind: str, modulation: str) -> None:
    """Its Jacobian, forward or by pullbacks, is autograd's, and so is the outer derivative through it."""
    recipe = Recipe().changed(
        {"network": LAYERED[kind] | {"modulation": modulation, "rank": 2}, "latent": {"numbers": NUMBERS}}
    )
    base = stirred(build(recipe, Axes("array", 2, CHANNELS), Normalizer((0.0,) * 2, (1.0,) * 2)))
    field, placement, latents = base.field, placement_of(base), latents_of(base)
    assert recipe.network.modulations >= field.network.modulations / (CHANNELS if modulation == "readout" else 1)
    features, rows = field.jacobian(latents, placement)
    torch.testing.assert_close(features, field(latents, placement), **EXACT)

    def of_item(latent: Tensor) -> Tensor:
        decoded: Tensor = field(latent[None], placement)[0]
        return decoded

    for item, latent in enumerate(latents):
        expected = torch.func.jacrev(of_item)(latent)[..., 0, :]
        assert expected.abs().amax((0, 1, 2)).min() > 0
        torch.testing.assert_close(rows.expand(ITEMS, -1, -1, -1, -1)[item], expected, **EXACT)
    learned = [parameter for parameter in field.parameters() if parameter.numel()]
    found = torch.autograd.grad(rows.square().sum(), learned, allow_unused=True, materialize_grads=True)
    again = Network.jacobian(field.network, field.latent_map(latents), placement, field.latent_map.weight)[1]
    assert again.shape[1:] == rows.shape[1:]
    slope = torch.func.jacrev(of_item)(latents[0])[..., 0, :].square().sum()
    first = field.jacobian(latents[:1], placement)[1].square().sum()
    torch.testing.assert_close(first, slope, **EXACT)
    assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("kind", LAYERED)
def test_fmm_has_a_derivative_at_a_zero_latent_and_leaves_the_network_as_it_is(kind: str) -> None:
    recipe = Recipe().changed({"network": LAYERED[kind] | {"modulation": "fmm"}, "latent": {"numbers": NUMBERS}})
    base = build(recipe, Axes("array", 2, CHANNELS), Normalizer((0.0,) * 2, (1.0,) * 2)).double()
    placement, zero = placement_of(base), torch.zeros(1, 1, NUMBERS, dtype=torch.float64)
    features, rows = base.field.jacobian(zero, placement)
    network = base.field.network
    assert rows.abs().amax((0, 1, 2, 3)).min() > 1e-3
    with torch.no_grad():
        for bend in network.bends:
            bend.left.zero_()
    torch.testing.assert_close(base.field(zero, placement), features, **EXACT)
    # without what A begins with only the biases would move
    weights = torch.split(base.field.latent_map.weight, list(network.parts))
    with torch.no_grad():
        for part in weights[: len(network.bends)]:
            part.zero_()
    assert not base.field.jacobian(zero, placement)[1].any()


def test_a_mapping_network_is_for_what_is_learned_site_by_site() -> None:
    with pytest.raises(UsageError, match="network\\.kind=multiscale has sites of its own"):
        Recipe().changed({"network": LAYERED["multiscale"], "latent": LAYOUTS["window"]})
    for settings in ({"network": {"kind": "fourier"}}, {"latent": {"sites": [2, 2], "kernel": 3}}):
        with pytest.raises(UsageError, match=r"latent\.mapping is for networks that are learned"):
            Recipe().changed({"latent": {"mapping": 1, "mapping_width": 6}}).changed(settings)


def test_coordinates_that_run_on_are_not_multiplied_at_every_level() -> None:
    network = {"kind": "polynomial"}
    for latent in (LAYOUTS["linear"], LAYOUTS["nearest"] | {"frame": "global"}):
        with pytest.raises(UsageError, match=r"set latent\.frame=local"):
            Recipe().changed({"network": network, "latent": latent})
    for latent in (LAYOUTS["linear"] | {"frame": "local"}, LAYOUTS["window"], {"frame": "global"}):
        Recipe().changed({"network": network, "latent": latent})


def test_values_keep_their_size_through_ten_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    options = PolynomialOptions(width=256, depth=11)
    network = Polynomial(Inputs(2, 3, 2), options, generator=generator)
    coords = torch.rand(1, 500, 2, generator=generator)
    zero = [torch.zeros(1, 1, 1, part) for part in network.parts]
    assert 0.3 < network.hidden(coords, zero).square().mean() < 10


def test_what_is_made_at_sites_is_read_smoothly_and_from_near_ones_only() -> None:
    options = MultiscaleOptions(width=6, depth=3, sites=4, features=5, fine_width=4)
    network = Multiscale(Inputs(2, 1, 2), options, generator=torch.Generator().manual_seed(0)).double()
    axis = torch.linspace(-0.2, 1.2, 57, dtype=torch.float64)
    coords = torch.cartesian_prod(axis, axis)[None]
    windows = network._windows(coords)
    assert windows.shape == (1, 57**2, 16)
    torch.testing.assert_close(windows.sum(-1), torch.ones(1, 57**2, dtype=torch.float64))
    assert int((windows > 1e-12).sum(-1).max()) == 4
    at_sites = network._windows(network.places[None])
    torch.testing.assert_close(at_sites[0], torch.eye(16, dtype=torch.float64))


def test_matrices_are_not_formed_for_every_cell() -> None:
    for modulation in ("fmm", "gate", "hyper", "factorized"):
        for layout in ("nearest", "linear", "window", "kernel3"):
            with pytest.raises(UsageError, match="forms a matrix of each layer for every item"):
                Recipe().changed({"network": {"modulation": modulation}, "latent": LAYOUTS[layout]})
