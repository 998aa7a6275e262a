"""Where points of the globe lie: physics, not the order in which a file lists them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from functaconv.errors import UsageError
from functaconv.modalities.latlon_grid import GlobeGrid, area_weights
from functaconv.modalities.sphere import Globe
from functaconv.networks import SiteGrid
from functaconv.signals.geometry import Flat, Points
from functaconv.signals.grid import Grid

GLOBAL = GlobeGrid(tuple(np.arange(90.0, -91, -10).tolist()), tuple(np.arange(0.0, 360, 15).tolist()))
REGION = GlobeGrid(tuple(np.arange(58.0, 49.9, -0.5).tolist()), tuple(np.arange(-10.0, 2.1, 0.5).tolist()))


def by_place(points: Points, grid: GlobeGrid) -> dict[tuple[float, float], list[float]]:
    """Coordinates and place of every point, by latitude and longitude in 0..360."""
    found = torch.cat([points.coords, points.site_coords], -1).tolist()
    keys = itertools.product(grid.latitude, (round(value % 360, 6) for value in grid.longitude))
    return dict(zip(keys, found, strict=True))


@pytest.mark.parametrize("kind", ["sphere", "planar"])
@pytest.mark.parametrize("grid", [GLOBAL, REGION], ids=["global", "region"])
def test_a_point_is_where_it_is_however_the_axes_run(grid: GlobeGrid, kind: str) -> None:
    geometry = Globe.around([grid], kind)  # type: ignore[arg-type]
    expected = by_place(geometry.points(grid), grid)
    half = len(grid.longitude) // 2
    for other in (
        GlobeGrid(grid.latitude[::-1], grid.longitude),
        GlobeGrid(grid.latitude, grid.longitude[half:] + grid.longitude[:half]),
        GlobeGrid(grid.latitude, tuple(value - 360 for value in grid.longitude)),
    ):
        # the axes of a file do not shape the base that learns from it either
        assert Globe.around([other], kind) == geometry  # type: ignore[arg-type]
        found = by_place(geometry.points(other), other)
        assert found.keys() == expected.keys()
        for place, values in found.items():
            np.testing.assert_allclose(values, expected[place], atol=1e-6)


@pytest.mark.parametrize("grid", [GLOBAL, REGION], ids=["global", "region"])
def test_the_training_region_fills_the_unit_cube(grid: GlobeGrid) -> None:
    points = Globe.around([grid], "sphere").points(grid)
    low, high = points.coords.amin(0), points.coords.amax(0)
    assert low.min() >= -1e-6
    assert high.max() <= 1 + 1e-6
    # one scale for all axes, so that distances stay true: the longest one is filled
    assert float((high - low).max()) == pytest.approx(1, abs=1e-6)
    assert points.site_coords.amin() >= 0
    assert points.site_coords.amax() <= 1


def test_there_is_no_seam_and_poles_are_points() -> None:
    geometry = Globe.around([GLOBAL], "sphere")
    assert geometry.is_closed
    seam = geometry.points(GlobeGrid((90.0, 20.0, -90.0), (0.0, 360.0, -360.0, 123.0))).coords.reshape(3, 4, 3)
    np.testing.assert_allclose(seam[1, 0], seam[1, 1], atol=1e-6)
    np.testing.assert_allclose(seam[1, 0], seam[1, 2], atol=1e-6)
    for pole in (seam[0], seam[2]):
        assert (pole - pole[0]).abs().max() < 1e-6


def test_a_region_is_not_closed_and_crosses_the_date_line() -> None:
    for first in (-10.0, 170.0):
        grid = GlobeGrid((10.0, 0.0), tuple(np.arange(first, first + 20, 2.0).tolist()))
        geometry = Globe.around([grid], "planar")
        assert not geometry.is_closed
        assert geometry.span == pytest.approx(20)
        along = geometry.points(grid).site_coords.reshape(2, 10, 2)[0, :, 1]
        np.testing.assert_allclose(along, (np.arange(10) + 0.5) / 10, atol=1e-6)


def test_what_lies_just_outside_a_region_is_beside_it() -> None:
    geometry = Globe.around([REGION], "planar")
    west, east = geometry.points(GlobeGrid((55.0,), (-11.0, 3.0))).site_coords[:, 1].tolist()
    assert -0.2 < west < 0
    assert 1 < east < 1.2


def test_grids_of_a_mixed_set_share_a_box() -> None:
    geometry = Globe.around([REGION, GLOBAL], "sphere")
    assert geometry.side == pytest.approx(2)
    assert geometry.north == 90


@given(
    latitudes=st.lists(st.floats(-90, 90), min_size=1, max_size=5, unique=True),
    longitudes=st.lists(st.floats(-180, 360), min_size=1, max_size=5, unique=True),
)
def test_any_axes_have_a_geometry(latitudes: list[float], longitudes: list[float]) -> None:
    grid = GlobeGrid(tuple(latitudes), tuple(longitudes))
    points = Globe.around([grid], "sphere").points(grid)
    assert torch.isfinite(points.coords).all()
    assert torch.isfinite(points.site_coords).all()


def test_points_of_another_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="latitude and longitude"):
        Globe.around([REGION], "sphere").points(Grid((3, 3)))
    with pytest.raises(UsageError, match="globe"):
        Flat(2).points(REGION)


def test_area_weights_are_cosines_and_poles_keep_a_little() -> None:
    weights = area_weights(GLOBAL).reshape(GLOBAL.shape)
    assert float(weights.mean()) == pytest.approx(1)
    assert (weights == weights[:, :1]).all()
    np.testing.assert_allclose(weights[3, 0] / weights[9, 0], np.cos(np.radians(60)), rtol=1e-6)
    assert 0 < weights[0, 0] < weights[1, 0] / 4


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_sites_go_around_the_globe(interpolation: str) -> None:
    sites = SiteGrid((4, 6), interpolation, "global", is_closed=True)  # type: ignore[arg-type]
    geometry = Globe.around([GLOBAL], "sphere")

    def reads(longitude: float) -> set[int]:
        points = geometry.points(GlobeGrid((5.0,), (longitude, 100.0)))
        placement = sites.place(points.coords, points.site_coords)
        cell = int((placement.index == 0).any(1).nonzero()[0])
        return set(placement.corners[cell].tolist()) if placement.corners is not None else {cell}

    # the first and the last column of sites are neighbours
    if interpolation == "linear":
        assert reads(-7.5) == reads(352.5) == reads(-7.4) == reads(-7.6)
        assert {number % 6 for number in reads(-7.5)} == {0, 5}
    assert reads(1.0) == reads(361.0) == reads(-359.0)


def test_interpolation_has_no_step_at_the_seam() -> None:
    sites = SiteGrid((3, 5), "linear", "global", is_closed=True)
    geometry = Globe.around([GLOBAL], "sphere")
    values = torch.randn(15, generator=torch.Generator().manual_seed(0))
    longitudes = (np.arange(-36, 36, 0.05)).tolist()
    points = geometry.points(GlobeGrid((12.0,), tuple(longitudes)))
    placement = sites.place(points.coords, points.site_coords)
    assert placement.corners is not None
    assert placement.blend is not None
    blended = (values[placement.corners][:, None] * placement.blend).sum(-1)[..., None]
    along = placement.scatter(blended[None], torch.full((1, len(longitudes), 1), torch.nan))[0, :, 0]
    assert torch.isfinite(along).all()
    assert along.diff().abs().max() < 0.01


def test_a_base_that_says_nothing_of_poles_reaches_none() -> None:
    said = {"kind": "planar", "north": 90.0, "south": -90.0, "middle": 0.0, "span": 360.0, "centre": (0.0, 0.0, 0.0),
            "side": 2.0}  # fmt: skip
    assert TypeAdapter(Globe).validate_python(said).reaches_poles == (False, False)
    with pytest.raises(ValidationError, match="poles"):
        TypeAdapter(Globe).validate_python(said | {"north": 80.0, "reaches_poles": (True, True)})
    with pytest.raises(ValidationError, match="poles"):
        TypeAdapter(Globe).validate_python(said | {"span": 350.0, "reaches_poles": (True, False)})


def test_rows_between_the_rows_of_the_poles_stay_on_the_globe() -> None:
    halved = GLOBAL.halved()
    assert (max(halved.latitude), min(halved.latitude)) == (90, -90)
    assert halved.shape == (2 * GLOBAL.shape[0], 2 * GLOBAL.shape[1])
