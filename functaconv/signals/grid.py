"""Where the points of an item lie: the protocol, and cell centres of the unit interval, square or cube."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from functaconv.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Region = tuple[tuple[float, float], ...]
"""lower and upper end along each axis, in the unit interval; beyond it one extrapolates"""

AXES = {1: ("position",), 2: ("row", "column"), 3: ("depth", "row", "column")}
MOST_VALUES = 1 << 27
"""of one rendered item, all channels: half a GiB of float32, of which a file format makes a copy or two"""
SMALLER = "render it smaller with --size or --scale, or in parts with --region"


@runtime_checkable
class AnyGrid(Protocol):
    """Where the points of an item lie. Grids are compared by value, and are keys of what is computed for them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis."""

    @property
    def points(self) -> int: ...

    def areas(self) -> "Tensor | None":
        """How much of the domain each point stands for, `[point]`, mean 1; None where all stand for the same."""

    def halved(self) -> "AnyGrid":
        """The grid with two points for each along every axis, over the same extent."""

    def resampled(self, view: "View") -> "AnyGrid":
        """The grid of an item that is rendered; a UsageError where the view makes no sense for it."""


@dataclass(frozen=True)
class View:
    """At what size, and which part of the unit interval, square or cube; of places on the globe, which degrees.

    Without a size an item has its native resolution times `scale`, in `region` as elsewhere. `like` is a grid in place
    of all that.
    """

    size: tuple[int, ...] | None = None
    scale: float = 1.0
    region: Region | None = None
    like: AnyGrid | None = None


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

    def coords(self, spans: tuple[slice, ...] = ()) -> "Tensor":
        """Cell centres, `[point, coord]`, float32, last axis fastest; of some of the cells along the first axes."""
        import torch

        # rounded once, at the end: a centre must not depend on how it was reached
        spans = (*spans, *(slice(None),) * len(self.shape))
        axes = [self.axis(number)[spans[number]].float() for number in range(len(self.shape))]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))

    def areas(self) -> None:
        """None: cells are alike."""

    def halved(self) -> "Grid":
        return Grid(tuple(2 * size for size in self.shape))

    def resampled(self, view: View) -> "Grid":
        spans = view.region or ((0.0, 1.0),) * len(self.shape)
        shape = view.size
        if shape is None:
            shape = tuple(
                max(1, round(size * (high - low) * view.scale))
                for size, (low, high) in zip(self.shape, spans, strict=False)
            )
        if len(shape) != len(self.shape) or len(spans) != len(self.shape):
            raise UsageError(
                f"the items have {len(self.shape)} axes; the size or region has {max(len(shape), len(spans))}",
                hint="--size takes HxW for images, --region y0:y1,x0:x1",
            )
        if math.prod(shape) > MOST_VALUES:
            raise UsageError(f"{'x'.join(map(str, shape))} is too large for one item", hint=SMALLER)
        return Grid(tuple(shape), view.region)
