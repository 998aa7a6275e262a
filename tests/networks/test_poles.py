"""At a pole all longitudes are one place: what latents say there is one value."""

import pytest
import torch
from torch import Tensor

from functaconv.modalities.latlon_grid import GlobeGrid
from functaconv.modalities.sphere import Globe
from functaconv.networks import Closure, Fourier, FourierOptions, Inputs, LatentMap, ModulatedNetwork, SiteGrid
from functaconv.networks.correction import Correction
from functaconv.networks.cosines import cosines, lowest
from functaconv.networks.reads import Poles
from functaconv.solvers.normal_matrix import NormalMatrix

NUMBERS, CHANNELS = 3, 2
BOTH, NORTH, SOUTH = (True, True), (True, False), (False, True)


def field_of(sites: SiteGrid, *, is_corrected: bool = False) -> ModulatedNetwork:
    generator = torch.Generator().manual_seed(0)
    inputs = Inputs(
        coords=2 if sites.count == 1 else 4, channels=CHANNELS, axes=2,
        closure=Closure(sites.is_closed, sites.reaches_poles),
    )  # fmt: skip
    network = Fourier(inputs, FourierOptions(features=9, mean_features=9), generator=generator)
    torch.nn.init.normal_(network.readout, generator=generator)
    torch.nn.init.normal_(network.mean, generator=generator)
    correction = None
    if is_corrected:
        correction = Correction(sites, NUMBERS, 4, torch.ones(network.modulations), generator=generator)
        torch.nn.init.normal_(correction.network.out, generator=generator)
    latent_map = LatentMap(sites, NUMBERS, network.modulations, correction=correction, generator=generator)
    return ModulatedNetwork(network, latent_map, sites).double()


def values_at(field: ModulatedNetwork, latents: Tensor, places: Tensor) -> Tensor:
    """`[point, channel]` of the first item."""
    placement = field.sites.place(places)
    out = torch.zeros(len(latents), len(places), CHANNELS, dtype=torch.float64)
    return placement.scatter(field(latents, placement).detach(), out)[0]


def around(down: float, steps: int = 24) -> Tensor:
    along = (torch.arange(steps, dtype=torch.float64) + 0.3) / steps
    return torch.stack([torch.full_like(along, down), along], -1)


def random_latents(sites: SiteGrid) -> Tensor:
    return torch.randn(1, sites.count, NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("is_corrected", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 4)], ids=str)
def test_a_pole_has_one_value_and_is_approached_from_everywhere(shape: tuple[int, int], is_corrected: bool) -> None:
    sites = SiteGrid(shape, "window", "both", True, BOTH)
    field, latents = field_of(sites, is_corrected=is_corrected), random_latents(sites)
    for pole, step in ((0.0, 1e-7), (1.0, -1e-7)):
        there = values_at(field, latents, around(pole))
        torch.testing.assert_close(there, there[:1].expand_as(there), rtol=0, atol=1e-12)
        beside = values_at(field, latents, around(pole + step))
        assert beside.std(0).max() > 1e-9
        torch.testing.assert_close(beside, there, rtol=0, atol=1e-4)


@pytest.mark.parametrize("reached", [NORTH, SOUTH], ids=["north", "south"])
def test_the_other_end_is_a_border(reached: tuple[bool, bool]) -> None:
    sites = SiteGrid((2, 4), "window", "both", True, reached)
    field, latents = field_of(sites), random_latents(sites)
    spread = [float(values_at(field, latents, around(end)).std(0).max()) for end in (0.0, 1.0)]
    assert (spread[0] < 1e-12, spread[1] < 1e-12) == reached


def test_there_is_no_seam_where_a_cap_ends_nor_at_the_date_line() -> None:
    sites = SiteGrid((3, 4), "window", "both", True, BOTH)
    field, latents = field_of(sites), random_latents(sites)
    for border in (1 / 6, 1 / 2, 5 / 6):
        pair = [values_at(field, latents, around(border + step)) for step in (-1e-7, 1e-7)]
        torch.testing.assert_close(*pair, rtol=0, atol=1e-4)
    # past the pole as well as elsewhere
    for down in (0.02, 0.4, 0.98):
        places = torch.tensor([[down, 1e-7], [down, 1 - 1e-7]], dtype=torch.float64)
        values = values_at(field, latents, places)
        torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("interpolation", ["linear", "window"])
def test_shares_add_up_to_one(interpolation: str) -> None:
    sites = SiteGrid((2, 4), interpolation, "both", True, BOTH)  # type: ignore[arg-type]
    placement = sites.place(torch.cat([around(down) for down in (-0.01, 0.0, 0.1, 0.5, 0.93, 1.0)]))
    assert placement.blend is not None
    assert (placement.blend >= 0).all()
    torch.testing.assert_close(placement.blend.sum(-1), torch.ones_like(placement.blend[..., 0]))


@pytest.mark.parametrize("reached", [BOTH, NORTH, SOUTH], ids=["both", "north", "south"])
def test_waves_vanish_at_the_poles_that_are_reached(reached: tuple[bool, bool]) -> None:
    closure = Closure(True, reached)
    chosen = lowest(20, 2, closure)
    assert len(torch.unique(chosen, dim=0)) == 20
    for end, is_reached in zip((0.0, 1.0), reached, strict=True):
        waves = cosines(around(end), chosen, closure)[:, chosen[:, 1] > 0]
        assert (waves.abs().max() < 1e-12) == is_reached


def test_what_is_read_at_the_poles_has_an_adjoint() -> None:
    generator = torch.Generator().manual_seed(0)
    for reached in (BOTH, NORTH, SOUTH, (False, False)):
        poles = Poles((3, 4), reached)
        one = torch.randn(2, 12, 5, dtype=torch.float64, generator=generator)
        other = torch.randn(2, 12 + poles.count, 5, dtype=torch.float64, generator=generator)
        torch.testing.assert_close((poles.extended(one) * other).sum(), (one * poles.folded(other)).sum())


def test_the_normal_matrix_is_that_of_the_derivatives() -> None:
    sites = SiteGrid((2, 4), "window", "both", True, BOTH)
    field, latents = field_of(sites), random_latents(sites)
    placement = sites.place(torch.rand(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))

    def decoded(given: Tensor) -> Tensor:
        out = torch.zeros(1, 60, CHANNELS, dtype=torch.float64)
        return placement.scatter(field(given, placement), out).flatten()

    jacobian = torch.autograd.functional.jacobian(decoded, latents).reshape(60 * CHANNELS, -1)
    _, rows = field.jacobian(latents, placement)
    assert placement.valid is not None
    rows = (rows * placement.valid[..., None]).flatten(2, 3)
    matrix = NormalMatrix(rows.mT @ rows, field.reads(placement), sites.count)
    torch.testing.assert_close(matrix.assembled()[0], jacobian.mT @ jacobian)
    torch.testing.assert_close(matrix.times(latents).flatten(), jacobian.mT @ jacobian @ latents.flatten())


@pytest.mark.parametrize(
    ("latitudes", "reached"),
    [
        (range(90, -91, -10), BOTH),
        (range(85, -90, -10), BOTH),
        # a row that was left out, as sea surface temperature does
        (range(80, -81, -10), BOTH),
        (range(0, 91, 10), NORTH),
        (range(-60, 61, 10), (False, False)),
    ],
    ids=["rows at the poles", "cell centres", "a row beside them", "a hemisphere", "a band"],
)
def test_grids_around_the_globe_reach_the_poles(latitudes: range, reached: tuple[bool, bool]) -> None:
    longitudes = tuple(float(value) for value in range(0, 360, 15))
    geometry = Globe.around([GlobeGrid(tuple(map(float, latitudes)), longitudes)], "planar")
    assert geometry.reaches_poles == reached
    assert (geometry.north == 90, geometry.south == -90) == reached
    region = Globe.around([GlobeGrid(tuple(map(float, latitudes)), longitudes[:12])], "planar")
    assert region.reaches_poles == (False, False)
