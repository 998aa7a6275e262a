"""What is to be rendered: which items, at what size, and which part of them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from functaconv.data.grids import axes_of
from functaconv.errors import InputError, UsageError
from functaconv.signals.grid import GlobeGrid, Grid, Region

MOST_VALUES = 1 << 27
"""of one rendered item, all channels: half a GiB of float32, of which a file format makes a copy or two"""
SMALLER = "render it smaller with --size or --scale, or in parts with --region"
POLE = 1e-6
"""degrees from it that count as being there"""


@dataclass(frozen=True)
class View:
    """At what size, and which part of the unit interval, square or cube; of a grid, which latitudes and longitudes.

    Without a size an item has its native resolution times `scale`, in `region` as elsewhere. `like` is a grid in place
    of all that.
    """

    size: tuple[int, ...] | None = None
    scale: float = 1.0
    region: Region | None = None
    like: GlobeGrid | None = None

    def grid(self, native: Sequence[int]) -> Grid:
        """The grid of an item whose whole is `native` points large."""
        if self.like is not None:
            raise UsageError("--like is for latitude-longitude grids", hint="--size or --scale")
        spans = self.region or ((0.0, 1.0),) * len(native)
        shape = self.size
        if shape is None:
            shape = tuple(
                max(1, round(size * (high - low) * self.scale))
                for size, (low, high) in zip(native, spans, strict=False)
            )
        if len(shape) != len(native) or len(spans) != len(native):
            raise UsageError(
                f"the items have {len(native)} axes; the size or region has {max(len(shape), len(spans))}",
                hint="--size takes HxW for images, --region y0:y1,x0:x1",
            )
        if math.prod(shape) > MOST_VALUES:
            raise UsageError(f"{'x'.join(map(str, shape))} is too large for one item", hint=SMALLER)
        return Grid(tuple(shape), self.region)

    def globe(self, native: GlobeGrid) -> GlobeGrid:
        """The grid of an item that lies on a native one."""
        if self.like is not None:
            if self.like.points > MOST_VALUES:
                raise UsageError("that grid is too large for one item", hint=SMALLER)
            return self.like
        if self.size is not None and len(self.size) != 2:
            raise UsageError(f"grids have 2 axes; the size has {len(self.size)}", hint="--size takes HxW")
        if self.region is not None and len(self.region) != 2:
            raise UsageError(
                f"grids have 2 axes; the region has {len(self.region)}",
                hint="--region takes south:north,west:east in degrees",
            )
        # an axis may jump where its longitudes begin anew: the way there is a step like the others
        axes = [np.array(native.latitude), np.unwrap(native.longitude, period=360)]
        sizes = self.size or tuple(max(1, round(len(axis) * self.scale)) for axis in axes)
        if math.prod(sizes) > MOST_VALUES:
            raise UsageError(f"{sizes[0]}x{sizes[1]} is too large for one item", hint=SMALLER)
        if self.region is not None and self.size is not None:
            # cells of that region, in the native directions
            latitude, longitude = (
                _between(low, high, size, descends=len(axis) > 1 and axis[0] > axis[-1])
                for (low, high), size, axis in zip(self.region, self.size, axes, strict=True)
            )
        else:
            scale = self.scale if self.size is None else None
            latitude = refined(axes[0], sizes[0], scale, keeps_ends=_has_pole(axes[0]))
            longitude = refined(axes[1], sizes[1], None)
            if self.region is not None:
                (south, north), (west, east) = self.region
                latitude = latitude[(latitude >= south) & (latitude <= north)]
                longitude = _eastward(longitude, west, east)
                if not len(latitude) or not len(longitude):
                    raise UsageError(f"no point of the grid lies in the region {self.region}", hint="give a --size too")
        return GlobeGrid(tuple(latitude.clip(-90, 90).tolist()), tuple(longitude.tolist()))


def grid_of_file(path: Path) -> GlobeGrid:
    """The latitudes and longitudes of a NetCDF or GRIB file, or a zarr store."""
    latitude, longitude = axes_of(path)
    return GlobeGrid(tuple(latitude), tuple(longitude))


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


def size_of(text: str) -> tuple[int, ...]:
    """`64x48` (or `512`, `32x32x32`) as a shape."""
    parts = text.lower().split("x")
    if not all(part.isdecimal() and 0 < int(part) < 10**7 for part in parts) or len(parts) > 3:
        raise UsageError(f"cannot read the size {text!r}", hint="write it as height x width: --size 256x256")
    return tuple(int(part) for part in parts)


def region_of(text: str) -> Region:
    """`y0:y1,x0:x1` in the unit square."""
    try:
        spans = tuple((float(low), float(high)) for low, high in (part.split(":") for part in text.split(",")))
    except ValueError:
        spans = ()
    if not spans or not all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in spans):
        raise UsageError(
            f"cannot read the region {text!r}", hint="write it as y0:y1,x0:x1, such as --region 0.25:0.75,0:1"
        )
    return spans


def selection_of(texts: Sequence[str], count: int) -> list[int]:
    """`INDEX` and half-open `START:STOP` as item numbers; negative ones count from the end."""
    chosen: list[int] = []
    for text in texts:
        match = re.fullmatch(r"\s*(-?\d+)\s*|\s*(-?\d*)\s*:\s*(-?\d*)\s*", text)
        if match is None:
            raise UsageError(f"cannot read the item {text!r}", hint="write an index, or START:STOP (half open)")
        if match[1] is not None:
            index = int(match[1])
            if not -count <= index < count:
                found = f"0 to {count - 1}" if count else "it is empty"
                raise InputError(f"there is no item {index}: the functaset has {count}", hint=found)
            chosen.append(index % count)
        else:
            span = slice(*(int(end) if end else None for end in (match[2], match[3])))
            chosen.extend(range(*span.indices(count)))
    return chosen
