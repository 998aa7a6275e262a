"""Where the points of an array lie: cell centres of the unit interval, square or cube."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from functaconv.errors import UsageError

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

    def axis(self, number: int) -> Tensor:
        """Cell centres along one axis, float64."""
        low, high = (0.0, 1.0) if self.region is None else self.region[number]
        size = self.shape[number]
        return low + (high - low) * (torch.arange(size, dtype=torch.float64) + 0.5) / size

    def coords(self) -> Tensor:
        """Cell centres, `[point, coord]`, float32, last axis fastest."""
        # rounded once, at the end: a centre must not depend on how it was reached
        axes = [self.axis(number).float() for number in range(len(self.shape))]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
