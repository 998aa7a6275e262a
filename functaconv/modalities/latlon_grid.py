"""Grids of every latitude with every longitude, and such grids at other resolutions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from functaconv.errors import UsageError
from functaconv.signals.grid import MOST_VALUES, SMALLER, View

if TYPE_CHECKING:
    from torch import Tensor

# degrees from it that count as being there
POLE = 1e-6


@dataclass(frozen=True)
class GlobeGrid:
    """Every latitude with every longitude, in degrees north and east: in any order, from any origin, at any spacing."""

    latitude: tuple[float, ...]
    """of the rows"""
    longitude: tuple[float, ...]
    """of the columns"""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.latitude), len(self.longitude)

    @property
    def points(self) -> int:
        return math.prod(self.shape)

    def degrees(self) -> "tuple[Tensor, Tensor]":
        """Latitude and longitude of every point, `[point]`, float64, last axis fastest."""
        import torch

        axes = [torch.tensor(axis, dtype=torch.float64) for axis in (self.latitude, self.longitude)]
        latitude, longitude = torch.meshgrid(*axes, indexing="ij")
        return latitude.flatten(), longitude.flatten()

    def on_sphere(self) -> "Tensor":
        """The points on the unit sphere, `[point, (x, y, z)]`, float64: x to longitude 0, z to the north pole."""
        import torch

        latitude, longitude = self.degrees()
        # a turn more or less is the same place, to the last bit
        latitude, longitude = latitude.deg2rad(), (longitude % 360).deg2rad()
        x, y = latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin()
        return torch.stack([x, y, latitude.sin()], -1)

    def part(self, spans: tuple[slice, ...]) -> "GlobeGrid":
        """Some of the rows, and of the columns."""
        rows, columns = (*spans, slice(None), slice(None))[:2]
        return GlobeGrid(self.latitude[rows], self.longitude[columns])

    def halved(self) -> "GlobeGrid":
        latitude, longitude = (_halved(places) for places in (self.latitude, self.longitude))
        return GlobeGrid(tuple(min(90.0, max(-90.0, place)) for place in latitude), tuple(longitude))

    def areas(self) -> "Tensor":
        return area_weights(self)

    def resampled(self, view: View) -> "GlobeGrid":
        if view.like is not None:
            if view.like.points > MOST_VALUES:
                raise UsageError("that grid is too large for one item", hint=SMALLER)
            assert isinstance(view.like, GlobeGrid)
            return view.like
        if view.size is not None and len(view.size) != 2:
            raise UsageError(f"grids have 2 axes; the size has {len(view.size)}", hint="--size takes HxW")
        if view.region is not None and len(view.region) != 2:
            raise UsageError(
                f"grids have 2 axes; the region has {len(view.region)}",
                hint="--region takes south:north,west:east in degrees",
            )
        # an axis may jump where its longitudes begin anew: the way there is a step like the others
        axes = [np.array(self.latitude), np.unwrap(self.longitude, period=360)]
        sizes = view.size or tuple(max(1, round(len(axis) * view.scale)) for axis in axes)
        if math.prod(sizes) > MOST_VALUES:
            raise UsageError(f"{sizes[0]}x{sizes[1]} is too large for one item", hint=SMALLER)
        if view.region is not None and view.size is not None:
            # cells of that region, in the native directions
            latitude, longitude = (
                _between(low, high, size, descends=len(axis) > 1 and axis[0] > axis[-1])
                for (low, high), size, axis in zip(view.region, view.size, axes, strict=True)
            )
        else:
            scale = view.scale if view.size is None else None
            latitude = refined(axes[0], sizes[0], scale, keeps_ends=_has_pole(axes[0]))
            longitude = refined(axes[1], sizes[1], None)
            if view.region is not None:
                (south, north), (west, east) = view.region
                latitude = latitude[(latitude >= south) & (latitude <= north)]
                longitude = _eastward(longitude, west, east)
                if not len(latitude) or not len(longitude):
                    raise UsageError(f"no point of the grid lies in the region {view.region}", hint="give a --size too")
        return GlobeGrid(tuple(latitude.clip(-90, 90).tolist()), tuple(longitude.tolist()))


@lru_cache(maxsize=64)
def area_weights(grid: GlobeGrid) -> "Tensor":
    """The area that every point of a regular grid stands for, `[point]`, float32: the cosine of its latitude, in units
    of the mean over the grid. At the poles, where the cosine is 0, a row keeps the cap that reaches half way to its
    neighbour.
    """
    import torch

    rows = torch.tensor(grid.latitude, dtype=torch.float64).deg2rad().cos().clamp(min=0)
    gaps = torch.tensor(grid.latitude, dtype=torch.float64).diff().abs()
    if len(gaps):
        # the mean cosine over half a row next to a pole
        cap = math.sin(math.radians(float(gaps.min())) / 4) / 2
        rows = rows.clamp(min=cap)
    return (rows / rows.mean()).float().repeat_interleave(len(grid.longitude))


def refined(axis: np.ndarray, size: int, scale: float | None, *, keeps_ends: bool = False) -> np.ndarray:
    """An axis with another number of cells over the same extent, in degrees, however it is spaced.

    With `keeps_ends` its first and last values stay: the rows of the poles.
    """
    count = len(axis)
    if size == count and scale in (None, 1.0):
        return axis
    if count == 1:
        return np.repeat(axis, size)
    if keeps_ends:
        size = round((count - 1) * scale) + 1 if scale is not None else size
        places = np.arange(size) * ((count - 1) / max(1, size - 1))
    else:
        places = (np.arange(size) + 0.5) * (count / size) - 0.5
    low = np.clip(np.floor(places).astype(int), 0, count - 2)
    return np.asarray(axis[low] + (places - low) * (axis[low + 1] - axis[low]))


def _eastward(longitude: np.ndarray, west: float, east: float) -> np.ndarray:
    """Those from one end to the other, in that order."""
    beyond = np.round((longitude - west) % 360, 9) % 360
    kept = np.sort(beyond[beyond <= min(east - west, 360)])
    return west + kept


def _has_pole(latitude: np.ndarray) -> bool:
    return bool((np.abs(latitude) >= 90 - POLE).any())


def _between(low: float, high: float, size: int, *, descends: bool) -> np.ndarray:
    """Cell centres."""
    centres = low + (high - low) * (np.arange(size) + 0.5) / size
    return centres[::-1] if descends else centres


def _halved(places: Sequence[float]) -> list[float]:
    """A quarter of the way to either neighbour of each place along an axis."""
    steps = [(after - before) / 4 for before, after in pairwise(places)] or [0.25]
    return [place + shift for place, back, ahead in zip(places, [steps[0], *steps], [*steps, steps[-1]], strict=True)
            for shift in (-back, ahead)]  # fmt: skip
