"""Coordinates of latitudes and longitudes for the network, and their places among the sites.

Points on the sphere are moved and scaled so that those of the training items fill the unit cube; among the sites they
lie by latitude and longitude.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass

from functaconv.errors import UsageError
from functaconv.modalities.latlon_grid import GlobeGrid
from functaconv.signals.geometry import Points
from functaconv.signals.grid import AnyGrid

# decimals of degrees that are compared: about a hundred metres
DECIMALS = 3
# a gap between neighbouring longitudes this many times the usual one is the end of a region; so is one before a pole
CLOSED = 1.5
POLE = 90.0

Degrees = Annotated[float, Field(ge=-720, le=720)]


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Globe:
    """Latitude and longitude."""

    kind: Literal["sphere", "planar"]
    """sphere: the network sees x, y, z; planar: how far down and along the region a point lies"""
    north: Degrees
    south: Degrees
    middle: Degrees
    """longitude half way between the region's ends"""
    span: Annotated[float, Field(gt=0, le=360)]
    """degrees of longitude; 360 where the grid closes the circle"""
    centre: tuple[float, float, float]
    """of the box around the training items' points on the unit sphere"""
    side: Annotated[float, Field(gt=0, le=2.5)]
    """of that box, the longest"""
    reaches_poles: tuple[bool, bool] = (False, False)
    """in the north, in the south; there the field has one value, whatever the longitude"""

    def __post_init__(self) -> None:
        if not self.north > self.south:
            raise ValueError(f"the region reaches from {self.south} to {self.north} degrees")
        ends = (self.north == POLE, self.south == -POLE)
        if any(is_reached and not (is_end and self.is_closed)
               for is_reached, is_end in zip(self.reaches_poles, ends, strict=True)):  # fmt: skip
            raise ValueError("the region does not reach the poles, or says so")

    @property
    def axes(self) -> int:
        return 2

    @property
    def coords(self) -> int:
        return 3 if self.kind == "sphere" else 2

    @property
    def is_closed(self) -> bool:
        """The last column is a neighbour of the first."""
        return self.span == 360

    def points(self, grid: AnyGrid, spans: tuple[slice, ...] = ()) -> Points:
        if not isinstance(grid, GlobeGrid):
            raise UsageError("the base is for latitude-longitude grids, these points have no latitude and longitude")
        grid = grid.part(spans)
        latitude, longitude = grid.degrees()
        down = (self.north - latitude) / (self.north - self.south)
        # the nearer way around: what lies just outside the region stays beside it
        along = 0.5 + ((longitude - self.middle + 180) % 360 - 180) / self.span
        places = torch.stack([down, along], -1)
        if self.kind == "planar":
            return Points(places.float())
        coords = 0.5 + (grid.on_sphere() - torch.tensor(self.centre, dtype=torch.float64)) / self.side
        return Points(coords.float(), places.float())

    @classmethod
    def around(cls, grids: Iterable[GlobeGrid], kind: Literal["sphere", "planar"]) -> "Globe":
        """The region that the grids cover, their outermost cells included."""
        distinct = list(dict.fromkeys(grids))
        if not distinct:
            raise UsageError("there is no grid")
        # files round their degrees in different ways: a hair's breadth is no gap
        latitudes = sorted({round(value, DECIMALS) for grid in distinct for value in grid.latitude})
        usual = _usual_gap(latitudes)
        north, south = min(POLE, latitudes[-1] + usual / 2), max(-POLE, latitudes[0] - usual / 2)
        longitudes = {round(value % 360, DECIMALS) % 360 for grid in distinct for value in grid.longitude}
        middle, span = _circle(sorted(longitudes))
        gaps = POLE - latitudes[-1], latitudes[0] + POLE
        reached = tuple(span == 360 and len(latitudes) > 1 and gap <= CLOSED * usual for gap in gaps)
        north, south = (POLE if reached[0] else north), (-POLE if reached[1] else south)
        points = torch.cat([grid.on_sphere() for grid in distinct])
        low, high = points.amin(0), points.amax(0)
        centre, side = ((low + high) / 2).tolist(), float((high - low).max())
        return cls(
            kind=kind, north=north, south=south, middle=middle, span=span,
            centre=(centre[0], centre[1], centre[2]), side=side or 1.0, reaches_poles=(reached[0], reached[1]),
        )  # fmt: skip


def _usual_gap(values: list[float]) -> float:
    """The median distance between neighbours; a degree where there is only one value."""
    gaps = sorted(after - before for before, after in pairwise(values))
    return gaps[len(gaps) // 2] if gaps else 1.0


def _circle(longitudes: list[float]) -> tuple[float, float]:
    """Middle and span of longitudes in 0..360, ascending: all around, or without the widest gap between them."""
    usual = _usual_gap(longitudes)
    ahead = [*longitudes[1:], longitudes[0] + 360]
    gap, end = max((after - before, before) for before, after in zip(longitudes, ahead, strict=True))
    if gap <= CLOSED * usual:
        # edges of sites half way between columns
        return math.remainder(longitudes[0] - usual / 2 + 180, 360), 360.0
    span = 360 - gap + usual
    middle = end + usual / 2 - span / 2
    return math.remainder(middle, 360), span
