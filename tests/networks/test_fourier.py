"""Windowed latents, and the network that is linear in what modulates it."""

import math

import pytest
import torch

from functaconv.networks import Fourier, FourierOptions, Inputs, LatentMap, ModulatedNetwork, SiteGrid
from functaconv.networks.cosines import Closure, cosines, weighed

NUMBERS, CHANNELS = 3, 2


def grid_of(*sizes: int) -> torch.Tensor:
    axes = [(torch.arange(size, dtype=torch.float64) + 0.5) / size for size in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(sizes))


def field_of(sites: SiteGrid) -> ModulatedNetwork:
    generator = torch.Generator().manual_seed(0)
    axes = len(sites.shape)
    coords = axes if sites.count == 1 else 2 * axes
    inputs = Inputs(coords=coords, channels=CHANNELS, axes=axes, closure=Closure(sites.is_closed, sites.reaches_poles))
    network = Fourier(inputs, FourierOptions(features=5, mean_features=3), generator=None)
    network.frequencies.copy_(torch.randint(0, 4, (5, axes), generator=generator))
    network.mean_frequencies.copy_(torch.randint(0, 3, (3, axes), generator=generator))
    torch.nn.init.normal_(network.readout, generator=generator)
    torch.nn.init.normal_(network.mean, generator=generator)
    return ModulatedNetwork(
        network, LatentMap(sites, NUMBERS, network.modulations, generator=generator), sites
    ).double()


SITES = {
    "global": (SiteGrid((1, 1)), (5, 4)),
    "line": (SiteGrid((3,), "window", "both"), (7,)),
    "plane": (SiteGrid((2, 3), "window", "both"), (5, 7)),
    "closed": (SiteGrid((2, 4), "window", "both", is_closed=True), (4, 9)),
    "poles": (SiteGrid((2, 4), "window", "both", is_closed=True, reaches_poles=(True, True)), (5, 9)),
    "pole": (SiteGrid((2, 3), "window", "both", is_closed=True, reaches_poles=(False, True)), (5, 7)),
    "volume": (SiteGrid((2, 2, 2), "window", "both"), (3, 4, 3)),
}


def test_derivatives_are_autograds() -> None:
    for sites, shape in SITES.values():
        field, placement = field_of(sites), sites.place(grid_of(*shape))
        latents = torch.randn(2, sites.count, NUMBERS, dtype=torch.float64, requires_grad=True)
        features, pullback = field.vjp(latents, placement)
        cotangent = torch.randn_like(features)
        (expected,) = torch.autograd.grad(field(latents, placement), latents, cotangent)
        torch.testing.assert_close(pullback(cotangent), expected)
        at_latents, rows = field.jacobian(latents, placement)
        torch.testing.assert_close(at_latents, features)
        # linear: the derivatives are the differences
        change = torch.randn(1, sites.count, NUMBERS, dtype=torch.float64)
        reads = field.reads(placement)
        read = change if reads is None else reads.of(change)
        moved = torch.einsum("cphn,cn->cph", rows[0], read[0])
        torch.testing.assert_close(field(latents + change, placement), features + moved)


@pytest.mark.parametrize("name", ["plane", "closed", "poles", "pole", "volume"])
def test_a_grid_is_seen_through_windows_as_its_points_are(name: str) -> None:
    sites, shape = SITES[name]
    field = field_of(sites)
    latents = torch.randn(3, sites.count, NUMBERS, dtype=torch.float64, requires_grad=True)
    # also beyond the border, in any order, some of it alone
    coords = (grid_of(*shape) * 1.4 - 0.2)[torch.randperm(math.prod(shape))[:-1]]
    placement = sites.place(coords)
    expected = placement.scatter(field(latents, placement), latents.new_zeros(3, len(coords), CHANNELS))
    found = field.on_grid(latents, coords)
    assert found is not None
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(found)
    slopes = [torch.autograd.grad(values, latents, cotangent)[0] for values in (found, expected)]
    torch.testing.assert_close(*slopes)


def test_what_is_no_grid_is_seen_point_by_point() -> None:
    sites, _ = SITES["plane"]
    latents = torch.randn(1, sites.count, NUMBERS, dtype=torch.float64)
    assert field_of(sites).on_grid(latents, torch.rand(40, 2, dtype=torch.float64)) is None
    for name in ("global", "line"):
        sites, shape = SITES[name]
        latents = torch.randn(1, sites.count, NUMBERS, dtype=torch.float64)
        assert field_of(sites).on_grid(latents, grid_of(*shape)) is None


def test_windows_add_up_to_one_and_leave_no_seam() -> None:
    sites = SiteGrid((2, 3), "window", "both")
    field = field_of(sites)
    latents = torch.randn(1, sites.count, NUMBERS, dtype=torch.float64)
    placement = sites.place(grid_of(11, 13))
    assert placement.blend is not None
    torch.testing.assert_close(placement.blend.sum(-1), torch.ones_like(placement.blend[..., 0]))
    # across borders of cells, and where windows end
    for border in (0.25, 0.5, 0.75):
        pair = torch.tensor([[border - 1e-7, 0.4], [border + 1e-7, 0.4]], dtype=torch.float64)
        there = sites.place(pair)
        values = there.scatter(field(latents, there), torch.zeros(1, 2, CHANNELS, dtype=torch.float64))
        torch.testing.assert_close(values[0, 0], values[0, 1], rtol=0, atol=1e-4)


def test_a_closed_axis_has_no_beginning() -> None:
    sites = SiteGrid((2, 4), "window", "both", is_closed=True)
    field = field_of(sites)
    latents = torch.randn(1, sites.count, NUMBERS, dtype=torch.float64)
    pair = sites.place(torch.tensor([[0.3, 1e-7], [0.3, 1 - 1e-7]], dtype=torch.float64))
    values = pair.scatter(field(latents, pair), torch.zeros(1, 2, CHANNELS, dtype=torch.float64))
    torch.testing.assert_close(values[0, 0], values[0, 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("points", ["grid", "scattered"])
def test_weighing_axis_by_axis_is_a_product(points: str, is_closed: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    coords = grid_of(6, 5) if points == "grid" else torch.rand(40, 2, generator=generator, dtype=torch.float64)
    frequencies = torch.randint(0, 5, (7, 2), generator=generator).float()
    weights = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    expected = cosines(coords, frequencies, Closure(is_closed)) @ weights
    torch.testing.assert_close(weighed(coords, frequencies, weights, Closure(is_closed)), expected)


def test_cosines_are_orthonormal_over_the_domain() -> None:
    coords, every = grid_of(16, 16), torch.cartesian_prod(torch.arange(4), torch.arange(4)).float()
    found = cosines(coords, every)
    torch.testing.assert_close(found.mT @ found / len(coords), torch.eye(16, dtype=torch.float64))
    assert math.isclose(float(found[:, 0].mean()), 1)
