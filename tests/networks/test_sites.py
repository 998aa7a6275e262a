"""Placement of points in cells, and the latent map."""

import itertools

import pytest
import torch
from torch import Tensor

from functaconv.networks import LatentMap, SiteGrid
from functaconv.networks.sites import neighbours
from tests.conftest import in_grid_order

from .conftest import Layout


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_gather_is_the_adjoint_of_spread(layout: Layout) -> None:
    placement = layout.sites.place(layout.coords())
    cells, points = placement.index.shape
    at_sites, at_points = random(2, layout.sites.count, 4), random(2, cells, points, 4, seed=1)
    forward = (placement.spread(at_sites) * at_points).sum()
    backward = (at_sites * placement.gather(at_points)).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-12, atol=1e-12)


def test_every_point_has_one_slot_and_the_rest_is_padding(layout: Layout) -> None:
    coords = layout.coords()
    placement = layout.sites.place(coords)
    slots = placement.index.flatten()
    if placement.valid is not None:
        valid = placement.valid.flatten() > 0
        assert not slots[~valid].any(), "padding repeats point 0"
        slots = slots[valid]
    assert torch.equal(slots.sort().values, torch.arange(len(coords)))


def test_the_pieces_of_a_split_are_the_whole(layout: Layout) -> None:
    placement = layout.sites.place(layout.coords())
    at_sites, values = random(2, layout.sites.count, 3), random(2, len(layout.coords()), 3, seed=1)
    spread = placement.spread(at_sites).expand(2, *placement.index.shape, 3)
    valid = 1 if placement.valid is None else placement.valid
    expected = placement.gather(values[:, placement.index] * valid)
    for most in (1, 3, 8, 10**6):
        pieces = placement.split(most)
        assert all(piece.index.numel() <= most for piece in pieces)
        read, gathered = values.new_full(values.shape, torch.nan), torch.zeros_like(at_sites)
        for piece in pieces:
            piece.scatter(piece.spread(at_sites).expand(2, *piece.index.shape, 3), read)
            valid = 1 if piece.valid is None else piece.valid
            gathered += piece.gather(values[:, piece.index] * valid)
        assert torch.equal(read, in_grid_order(placement, spread, len(layout.coords())))
        torch.testing.assert_close(gathered, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_points_outside_belong_to_the_cell_at_the_border(interpolation: str) -> None:
    sites = SiteGrid((2, 3), interpolation, "global")
    values = torch.arange(6.0, dtype=torch.float64).reshape(1, 6, 1)
    points = torch.tensor([[-5.0, -0.1], [0.1, 7.0], [1.0, 0.5], [3.0, 1.0]], dtype=torch.float64)
    placement = sites.place(points)
    spread = placement.spread(values).expand(-1, -1, placement.index.shape[1], -1)
    read = in_grid_order(placement, spread, len(points))
    assert read.flatten().tolist() == [0.0, 2.0, 4.0, 5.0]
    # the coordinates run on: extrapolation, not repetition
    assert torch.equal(in_grid_order(placement, placement.coords[None], 4)[0], points * torch.tensor([2.0, 3.0]))


def read_along(sites: SiteGrid, positions: Tensor, values: Tensor) -> Tensor:
    """What points at these positions of a one-dimensional grid read of the sites' values."""
    placement = sites.place(positions[:, None])
    return in_grid_order(placement, placement.spread(values[None, :, None]), len(positions))[0, :, 0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_linear_interpolation_is_exact_at_site_centres(count: int) -> None:
    values = random(count)
    # eighths: site centres that are not rounded
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    torch.testing.assert_close(
        read_along(SiteGrid((count,), "linear"), centres, values), values, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("count", [2, 5])
def test_linear_interpolation_is_continuous_across_cells(count: int) -> None:
    values = random(count)
    borders = torch.cat([(torch.arange(count) + 0.5) / count, torch.tensor([0.0, 1.0])]).double()
    sites = SiteGrid((count,), "linear")
    below, above = (read_along(sites, borders + step, values) for step in (-1e-9, 1e-9))
    # a slope of at most count * range, over 2e-9
    torch.testing.assert_close(below, above, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("shape", "reach"), [((1,), 2), ((4,), 1), ((3, 2), 0), ((2, 3, 2), 2)])
def test_neighbours_are_those_of_a_plain_search(shape: tuple[int, ...], reach: int) -> None:
    sites = list(itertools.product(*map(range, shape)))
    number = {site: index for index, site in enumerate(sites)}
    offsets = list(itertools.product(range(-reach, reach + 1), repeat=len(shape)))
    expected = [
        [number.get(tuple(a + b for a, b in zip(site, offset, strict=True)), len(sites)) for offset in offsets]
        for site in sites
    ]
    assert neighbours(shape, reach).tolist() == expected


@pytest.mark.parametrize(("shape", "kernel"), [((1, 1), 3), ((2, 3), 1), ((5, 4), 3)])
def test_latent_map_is_a_convolution_with_zeros_beyond_the_border(shape: tuple[int, int], kernel: int) -> None:
    items, latent, modulations = 2, 3, 5
    latent_map = LatentMap(SiteGrid(shape), latent, modulations, kernel=kernel, generator=torch.Generator()).double()
    latents = random(items, shape[0] * shape[1], latent)
    weight = latent_map.weight.reshape(modulations, kernel, kernel, latent).permute(0, 3, 1, 2)
    image = latents.reshape(items, *shape, latent).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv2d(image, weight, padding=kernel // 2).flatten(2).mT
    torch.testing.assert_close(latent_map(latents), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "kernel"), [((1,), 1), ((6,), 3), ((3, 2), 1), ((2, 2, 3), 3)])
def test_pullback_of_the_latent_map_is_its_transpose(shape: tuple[int, ...], kernel: int) -> None:
    sites = SiteGrid(shape)
    latent_map = LatentMap(sites, 3, 4, kernel=kernel, generator=torch.Generator()).double()
    latents, cotangent = random(2, sites.count, 3), random(2, sites.count, 4, seed=1)
    torch.testing.assert_close(
        (latent_map(latents) * cotangent).sum(),
        (latents * latent_map.vjp(latents)[1](cotangent)).sum(),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize(("kernel", "fan_in"), [(1, 6), (3, 54)])
def test_latent_map_starts_within_the_bound_of_its_fan_in(kernel: int, fan_in: int) -> None:
    weight = LatentMap(SiteGrid((4, 4)), 6, 200, kernel=kernel, generator=torch.Generator()).weight
    assert weight.shape == (200, fan_in)
    assert 0.95 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5
