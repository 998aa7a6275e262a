"""Where the points of an array lie: cell centres of the unit interval, square or cube; or places on the globe."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from functaconv.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Region = tuple[tuple[float, float], ...]
"""lower and upper end along each axis, in the unit interval; beyond it one extrapolates"""

AXES = {1: ("position",), 2: ("row", "column"), 3: ("depth", "row", "column")}


@dataclass(frozen=True)
class Grid:
    """A regular grid of `shape` cells over `region` (by default the whole unit cube), whatever its aspect."""

    shape: tuple[int, ...]
    region: Region | None = None

    def __post_init__(self) -> None:
        if len(self.shape) not in AXES:
            raise UsageError(f"a grid has one to three axes, not {len(self.shape)} (shape {self.shape})")
        if self.region is not None and len(self.region) != len(self.shape):
            raise UsageError(
                f"the region has {len(self.region)} axes, the items have {len(self.shape)} "
                f"({', '.join(AXES[len(self.shape)])})",
                hint="write one start:stop per axis, as in --region 0:1,0.25:0.75",
            )

    @property
    def points(self) -> int:
        return math.prod(self.shape)

    def axis(self, number: int) -> "Tensor":
        """Cell centres along one axis, float64."""
        import torch

        low, high = (0.0, 1.0) if self.region is None else self.region[number]
        size = self.shape[number]
        return low + (high - low) * (torch.arange(size, dtype=torch.float64) + 0.5) / size

    def coords(self) -> "Tensor":
        """Cell centres, `[point, coord]`, float32, last axis fastest."""
        import torch

        # rounded once, at the end: a centre must not depend on how it was reached
        axes = [self.axis(number).float() for number in range(len(self.shape))]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


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


AnyGrid = Grid | GlobeGrid


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
