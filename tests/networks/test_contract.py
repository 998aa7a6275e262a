"""What every network promises, whatever the latents' layout."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from functaconv.networks import Inputs, ModulatedNetwork, Placement, Siren, SirenOptions
from functaconv.networks.siren import sine_cosine
from tests.conftest import in_grid_order

from .conftest import CHANNELS, LATENT, LAYOUTS, Layout, field_of, latents_of

# float64 through four layers with w0 up to 7: rounding is near 1e-15 and grows a little
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def weights_of_sites(layout: Layout, coords: Tensor) -> Tensor:
    """`[point, site]`: how much of each site a point reads, written without cells."""
    result = torch.ones(len(coords), 1, dtype=coords.dtype)
    for axis, count in enumerate(layout.sites.shape):
        centres = torch.arange(count) + 0.5
        scaled = coords[:, axis] * count
        if layout.sites.interpolation == "nearest":
            along = (scaled[:, None].floor().clamp(0, count - 1) == torch.arange(count)).to(coords.dtype)
        else:
            inside = scaled.clamp(0.5, count - 0.5)
            along = (1 - (inside[:, None] - centres).abs()).clamp(min=0)
        result = (result[:, :, None] * along[:, None, :]).flatten(1)
    return result


def seen_coords(layout: Layout, coords: Tensor) -> Tensor:
    """Coordinates as the network is to see them."""
    scaled = coords * torch.tensor(layout.sites.shape)
    if layout.sites.frame == "global":
        return scaled
    shift = 0.0 if layout.sites.interpolation == "nearest" else 0.5
    return scaled - shift - (scaled - shift).floor()


def naive(field: ModulatedNetwork, layout: Layout, latents: Tensor, coords: Tensor) -> Tensor:
    """Features point by point, from the formula in the network's description."""
    network = field.network
    sites = weights_of_sites(layout, coords)
    modulation = torch.einsum("ps,ism->ipm", sites, field.latent_map(latents))
    parts = modulation.split(network.width, -1)
    layers = len(network.w0)
    hidden = seen_coords(layout, coords).expand(len(latents), -1, -1)
    for layer in range(layers):
        scale = 1 + parts[layers + layer] if network.scales else 1.0
        linear = hidden @ network.weights[layer].T + network.biases[layer]
        hidden = torch.sin(network.w0[layer] * (scale * linear + parts[layer]))
    return hidden @ network.weights[-1].T + network.biases[-1] + network.output_offset


def test_features_are_those_of_the_formula_point_by_point(field: ModulatedNetwork, layout: Layout) -> None:
    coords, latents = layout.coords(), latents_of(layout)
    placement = layout.sites.place(coords)
    features = in_grid_order(placement, field(latents, placement), len(coords))
    assert features.shape == (len(latents), len(coords), CHANNELS)
    torch.testing.assert_close(features, naive(field, layout, latents, coords), **EXACT)


def test_derivatives_through_the_pullback_are_those_of_a_double_backward(
    field: ModulatedNetwork, layout: Layout
) -> None:
    placement = layout.sites.place(layout.coords())
    latents = latents_of(layout).requires_grad_()
    direction = latents_of(layout).flip(0)
    wanted = [latents, *field.parameters()]

    features, pullback = field.vjp(latents, placement)
    # a padded slot repeats point 0, which the plain loss has once only
    cotangent = 2 * features if placement.valid is None else 2 * placement.valid * features
    ours = torch.autograd.grad((pullback(cotangent) * direction).sum(), wanted, allow_unused=True)

    loss = naive(field, layout, latents, layout.coords()).square().sum()
    (gradient,) = torch.autograd.grad(loss, latents, create_graph=True)
    expected = torch.autograd.grad((gradient * direction).sum(), wanted, allow_unused=True)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs, rtol=1e-10, atol=1e-10)


def unit_cotangents(features: Tensor) -> Tensor:
    """One for each value of one item, side by side as items: `[value, cell, point, channel]`."""
    return torch.eye(features[0].numel(), dtype=features.dtype).reshape(-1, *features.shape[1:])


def of_all_latents(field: ModulatedNetwork, placement: Placement, rows: Tensor) -> Tensor:
    """A Jacobian by the latents its cells read, as one by all of them: `[item, cell, point, channel, site, latent]`."""
    of_field, sites = field.reads(placement), placement.sites
    reads = torch.arange(sites)[:, None] if of_field is None else of_field.index
    assert rows.shape[-1] == reads.shape[1] * LATENT
    whole = rows.new_zeros(*rows.shape[:4], sites + 1, LATENT)
    for cell, read in enumerate(reads):
        part = rows[:, cell].unflatten(-1, (len(read), LATENT))
        whole[:, cell] = whole[:, cell].index_add(3, read, part)
    return whole[..., :sites, :]


def test_jacobian_is_the_pullback_of_unit_cotangents(field: ModulatedNetwork, layout: Layout) -> None:
    placement, latents = layout.sites.place(layout.coords()), latents_of(layout)
    features, rows = field.jacobian(latents, placement)
    torch.testing.assert_close(features, field(latents, placement), **EXACT)
    whole = of_all_latents(field, placement, rows)
    units = unit_cotangents(features)
    for item in range(len(latents)):
        _, pullback = field.vjp(latents[item : item + 1].expand(len(units), -1, -1), placement)
        torch.testing.assert_close(whole[item].reshape(len(units), -1, LATENT), pullback(units), **EXACT)


def test_the_jacobians_of_the_pieces_are_the_whole(field: ModulatedNetwork, layout: Layout) -> None:
    placement, latents = layout.sites.place(layout.coords()), latents_of(layout, 2)

    def put(part: Placement) -> Tensor:
        whole = of_all_latents(field, part, field.jacobian(latents, part)[1]).flatten(3)
        return part.scatter(whole, whole.new_zeros(2, len(layout.coords()), whole.shape[-1]))

    for most in (1, 4, 9):
        pieces = sum(put(piece) for piece in placement.split(most))
        torch.testing.assert_close(pieces, put(placement), **EXACT)


@pytest.mark.parametrize(
    ("name", "film"), [("global-2d", True), ("nearest-2d-global-frame", False), ("kernel3-1d", False)]
)
@pytest.mark.parametrize("kind", ["siren"])
def test_pullback_agrees_with_finite_differences(kind: str, film: bool, name: str) -> None:
    layout = LAYOUTS[name]
    field = field_of(layout, kind, film, width=2, depth=3)
    placement = layout.sites.place(layout.coords()[:3])
    shape = field(latents_of(layout, 1), placement).shape
    cotangent = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def gradient(latents: Tensor, cotangent: Tensor) -> Tensor:
        features, pullback = field.vjp(latents, placement)
        return pullback(cotangent * features)

    inputs = (latents_of(layout, 1).requires_grad_(), cotangent.requires_grad_())
    assert torch.autograd.gradcheck(gradient, inputs)


def test_sine_and_cosine_have_all_their_derivatives() -> None:
    angle = torch.linspace(-4, 4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sine_cosine, angle)
    assert torch.autograd.gradgradcheck(sine_cosine, angle)
    assert torch.autograd.gradcheck(lambda x: sine_cosine(x)[1], angle)
    assert torch.autograd.gradcheck(lambda x: sine_cosine(x)[0], angle)


def test_a_zero_latent_leaves_the_network_as_it_is(field: ModulatedNetwork, layout: Layout) -> None:
    placement = layout.sites.place(layout.coords())
    network = field.network
    hidden = placement.coords
    for weight, bias, w0 in zip(network.weights[:-1], network.biases[:-1], network.w0, strict=True):
        hidden = torch.sin(w0 * (hidden @ weight.T + bias))
    plain = hidden @ network.weights[-1].T + network.biases[-1] + 0.5
    features = field(torch.zeros(2, layout.sites.count, LATENT, dtype=torch.float64), placement)
    torch.testing.assert_close(features, plain.expand_as(features), **EXACT)


def siren_of(coords: int, seed: int | None, **options: Any) -> Siren:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Siren(Inputs(coords=coords, channels=3, axes=coords), SirenOptions(**options), generator=generator)


@pytest.mark.parametrize(("coords", "w0"), [(1, 30.0), (2, 30.0), (3, 10.0)])
def test_initialisation_is_functas(coords: int, w0: float) -> None:
    width = 64
    network = siren_of(coords, 0, width=width, depth=5, w0_first=w0, w0_hidden=w0)
    assert [tuple(weight.shape) for weight in network.weights] == [(64, coords), *[(64, 64)] * 3, (3, 64)]
    bounds = [1 / coords, *[math.sqrt(6 / width) / w0] * 4]
    for weight, bound in zip(network.weights, bounds, strict=True):
        # uniform: near the bound, never beyond it, and of its deviation
        assert 0.9 * bound < weight.abs().max() <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert all(not bias.any() for bias in network.biases)


def test_depth_counts_the_output_layer_and_modulations_the_sine_layers() -> None:
    assert siren_of(2, None, width=8, depth=10).modulations == 9 * 8
    assert siren_of(2, None, width=8, depth=10, modulation="film").modulations == 2 * 9 * 8
