"""What a network that looks at a linear decode adds to it."""

import math

import pytest
import torch
from torch import Tensor

from functaconv.areas import CellMeans
from functaconv.networks import Fourier, FourierOptions, Inputs, LatentMap, ModulatedNetwork, Placement, SiteGrid
from functaconv.networks.refinement import DEPTH, TOGETHER, Refinement, between

EXACT = {"rtol": 1e-10, "atol": 1e-10}
LATENT, CHANNELS, WIDTH = 3, 2, 4
# so many that the network does not see from the middle to the border
FAR = 4 * DEPTH * TOGETHER
KNOTS = [(8,), (5,), (6, 4), (3, 8), (4, 3, 2)]


def refinement(knots: tuple[int, ...], *, is_fresh: bool = False) -> Refinement:
    """One that has learned something."""
    generator = torch.Generator().manual_seed(0)
    made = Refinement(knots, CHANNELS, WIDTH, generator=generator).double()
    with torch.no_grad():
        made.spread.fill_(0.5)
        if not is_fresh:
            made.network.out.normal_(generator=generator)
    return made


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def field_of(knots: tuple[int, ...]) -> ModulatedNetwork:
    generator = torch.Generator().manual_seed(2)
    inputs = Inputs(coords=len(knots), channels=CHANNELS, axes=len(knots))
    network = Fourier(inputs, FourierOptions(features=9, mean_features=2), generator=generator)
    sites = SiteGrid((1,) * len(knots))
    latent_map = LatentMap(sites, LATENT, network.modulations, generator=generator)
    return ModulatedNetwork(network, latent_map, sites, refinement(knots)).double()


def placed(field: ModulatedNetwork, points: int = 11) -> Placement:
    dims = len(field.sites.shape)
    return field.sites.place(torch.rand(points, dims, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


@pytest.mark.parametrize("knots", KNOTS)
def test_nothing_becomes_nothing_and_something_something(knots: tuple[int, ...]) -> None:
    values, made = drawn(2, math.prod(knots), CHANNELS), refinement(knots)
    assert made(values).shape == values.shape
    assert made(values).abs().min() > 0
    assert not made(torch.zeros_like(values)).any()
    assert not refinement(knots, is_fresh=True)(values).any()


def test_a_knot_is_changed_by_those_around_it() -> None:
    at = FAR // 2
    values = drawn(1, FAR, CHANNELS).requires_grad_()
    (gradient,) = torch.autograd.grad(refinement((FAR,))(values)[0, at].sum(), values)
    seen = gradient[0].abs().sum(1).nonzero()[:, 0]
    assert (int(seen.min()), int(seen.max())) == (at - DEPTH * TOGETHER, at + (DEPTH + 1) * TOGETHER - 1)


@pytest.mark.parametrize("knots", [(FAR,), (FAR, 6), (2, FAR, 2)])
def test_what_is_moved_by_a_site_is_changed_alike(knots: tuple[int, ...]) -> None:
    axis, middle = knots.index(FAR), FAR // 2
    values, made = drawn(1, math.prod(knots), CHANNELS).reshape(1, *knots, CHANNELS), refinement(knots)
    # far from the border, where sites are repeated
    values.narrow(1 + axis, 0, middle - 1).zero_()
    values.narrow(1 + axis, middle + 1, middle - 1).zero_()
    moved = values.roll(-TOGETHER, 1 + axis)
    ours = made(values.flatten(1, -2)).reshape(values.shape).roll(-TOGETHER, 1 + axis)
    theirs = made(moved.flatten(1, -2)).reshape(values.shape)
    near = (1 + axis, middle - 3, 3)
    torch.testing.assert_close(ours.narrow(*near), theirs.narrow(*near), **EXACT)


@pytest.mark.parametrize("knots", KNOTS)
def test_at_the_knots_their_values_are_read(knots: tuple[int, ...]) -> None:
    made, added = refinement(knots), drawn(2, math.prod(knots), CHANNELS)
    torch.testing.assert_close(made.read(added, made.places), added, **EXACT)
    assert (between(made.places, knots)[1].abs().sum(0) == 1).all()


def test_quadratics_are_read_exactly_and_constants_everywhere() -> None:
    made = refinement((8, 6))
    x, y = made.places.unbind(-1)
    at = 0.25 + 0.5 * torch.rand(20, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    added = torch.stack([x * x - y + 1, x * y], -1)[None]
    u, v = at.unbind(-1)
    torch.testing.assert_close(made.read(added, at)[0], torch.stack([u * u - v + 1, u * v], -1), rtol=0, atol=1e-6)
    anywhere = 4 * torch.rand(50, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1.5
    constant = made.read(torch.ones_like(added), anywhere)
    torch.testing.assert_close(constant, torch.ones_like(constant), **EXACT)


@pytest.mark.parametrize("knots", KNOTS)
def test_a_grid_is_read_as_its_points_are(knots: tuple[int, ...]) -> None:
    made, dims = refinement(knots), len(knots)
    added = drawn(2, math.prod(knots), CHANNELS)
    axes = [torch.linspace(-0.3, 1.4, 5 + axis, dtype=torch.float64) for axis in range(dims)]
    grid = torch.cartesian_prod(*axes).reshape(-1, dims)
    expected = sum(share[:, None] * added[:, knot] for knot, share in zip(*between(grid, knots), strict=True))
    torch.testing.assert_close(made.read(added, grid), expected, **EXACT)


def test_it_is_smooth_at_the_knots_and_reflected_at_the_border() -> None:
    made, added, step = refinement((6,)), drawn(1, 6, CHANNELS), 1e-4

    def slope(at: Tensor) -> Tensor:
        return (made.read(added, at + step / 10) - made.read(added, at - step / 10)) / (step / 5)

    knot = made.places[2:3]
    torch.testing.assert_close(slope(knot - step), slope(knot + step), rtol=0.2, atol=0.1)
    inside = torch.tensor([[0.07], [0.3]]).double()
    torch.testing.assert_close(made.read(added, -inside), made.read(added, inside), **EXACT)
    torch.testing.assert_close(made.read(added, 2 - inside), made.read(added, inside), **EXACT)


@pytest.mark.parametrize("knots", KNOTS)
def test_a_field_is_its_linear_part_and_what_is_added(knots: tuple[int, ...]) -> None:
    field, latents = field_of(knots), drawn(2, 1, LATENT)
    placement = placed(field)
    plain = ModulatedNetwork(field.network, field.latent_map, field.sites)
    added = field.refined(torch.zeros_like(plain(latents, placement)), latents, placement)
    assert added.abs().min() > 0
    torch.testing.assert_close(field(latents, placement), plain(latents, placement) + added, **EXACT)
    at_knots = plain(latents, field.sites.place(field.refinement.places.double()))
    mean = plain(torch.zeros_like(latents), field.sites.place(field.refinement.places.double()))
    expected = field.refinement.read(field.refinement((at_knots - mean)[:, 0]), placement.coords[0])
    torch.testing.assert_close(added[:, 0], expected, **EXACT)
    # derivatives are those of the linear part
    features, pullback = field.vjp(latents, placement)
    torch.testing.assert_close(features, field(latents, placement), **EXACT)
    cotangent = drawn(*features.shape, seed=6)
    torch.testing.assert_close(pullback(cotangent), plain.vjp(latents, placement)[1](cotangent), **EXACT)
    features, rows = field.jacobian(latents, placement)
    torch.testing.assert_close(features, field(latents, placement), **EXACT)
    torch.testing.assert_close(rows, plain.jacobian(latents, placement)[1], **EXACT)


def test_another_basis_changes_nothing() -> None:
    field, latents, matrix = field_of((6, 4)), drawn(2, 1, LATENT), drawn(LATENT, LATENT, seed=7)
    placement = placed(field)
    expected = field(latents @ matrix.mT, placement)
    field.substitute(matrix, torch.zeros(LATENT).double())
    torch.testing.assert_close(field(latents, placement), expected, **EXACT)


def test_the_spread_is_that_of_the_linear_part_at_the_knots() -> None:
    field, spread = field_of((6, 4)), torch.tensor([3.0, 1.0, 0.5]).double()
    plain = ModulatedNetwork(field.network, field.latent_map, field.sites)
    at = field.sites.place(field.refinement.places.double())
    rows = plain.jacobian(torch.zeros(1, 1, LATENT).double(), at)[1]
    field.expect(spread)
    torch.testing.assert_close(field.refinement.spread, (rows * spread).square().sum(-1).mean().sqrt(), **EXACT)


def test_derivatives_are_there_after_a_look_without_them() -> None:
    field, latents = field_of((6, 4)), drawn(1, 1, LATENT)
    placement = placed(field)
    with torch.inference_mode():
        expected = field(latents, placement)
    features = field(given := latents.clone().requires_grad_(), placement)
    torch.testing.assert_close(features, expected, **EXACT)
    (gradient,) = torch.autograd.grad(features.sum(), given)
    assert gradient.all()


def test_means_over_cells_are_means_of_what_is_added() -> None:
    field, latents = field_of((6, 4)), drawn(2, 1, LATENT)
    fine = placed(field, 12)
    means = CellMeans(field, fine, torch.arange(12).reshape(4, 3))
    assert means.keeps_derivatives
    linear = drawn(2, 1, 4, CHANNELS, seed=8)
    added = field.refined(torch.zeros(2, 1, 12, CHANNELS).double(), latents, fine).reshape(2, 1, 4, 3, CHANNELS)
    torch.testing.assert_close(means.refined(linear, latents, fine), linear + added.mean(3), **EXACT)
