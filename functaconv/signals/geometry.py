"""What a network sees of a grid's points, and where they lie among the sites of latents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from functaconv.errors import UsageError
from functaconv.signals.grid import AnyGrid, Grid


@dataclass(frozen=True)
class Points:
    """Where the points of a grid lie."""

    coords: Tensor
    """`[point, coord]`, as the network sees them"""
    positions: Tensor | None = None
    """`[point, axis]`, where among the sites they lie, when that is not what the network sees"""

    @property
    def site_coords(self) -> Tensor:
        """`[point, axis]`, in the unit interval, square or cube that the sites divide."""
        return self.coords if self.positions is None else self.positions

    def to(self, like: Tensor) -> "Points":
        """On the device and in the type of a tensor."""
        return self._each(lambda tensor: tensor.to(like.device, like.dtype, non_blocking=True))

    def __getitem__(self, chosen: Tensor | slice) -> "Points":
        return self._each(lambda tensor: tensor[chosen])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Points":
        return Points(change(self.coords), None if self.positions is None else change(self.positions))

    def __len__(self) -> int:
        return len(self.coords)


@runtime_checkable
class Geometry(Protocol):
    """From the points of grids to coordinates."""

    @property
    def axes(self) -> int:
        """How many axes the sites have."""

    @property
    def coords(self) -> int:
        """How many coordinates the network sees."""

    @property
    def is_closed(self) -> bool:
        """The last point of the last axis is a neighbour of the first."""

    @property
    def reaches_poles(self) -> tuple[bool, bool]:
        """Where the first axis begins, and where it ends, all of the last one is a single place."""

    def points(self, grid: AnyGrid, spans: tuple[slice, ...] = ()) -> Points:
        """The grid's points, last axis fastest; some of them along the first axes, where `spans` are given."""


@dataclass(frozen=True)
class Flat:
    """The unit interval, square or cube."""

    axes: int

    @property
    def coords(self) -> int:
        """How many coordinates the network sees."""
        return self.axes

    @property
    def is_closed(self) -> bool:
        return False

    @property
    def reaches_poles(self) -> tuple[bool, bool]:
        return False, False

    def points(self, grid: AnyGrid, spans: tuple[slice, ...] = ()) -> Points:
        if not isinstance(grid, Grid):
            raise UsageError("the base is for plain arrays, these points lie on the globe")
        return Points(grid.coords(spans))
