"""What is to be rendered, out of words: which items, at what size, and which part of them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from functaconv.data.grids import axes_of
from functaconv.errors import InputError, UsageError
from functaconv.modalities.latlon_grid import GlobeGrid
from functaconv.signals.grid import Region


def grid_of_file(path: Path) -> GlobeGrid:
    """The grid of a NetCDF or GRIB file, or a zarr store."""
    rows, columns = axes_of(path)
    return GlobeGrid(tuple(rows), tuple(columns))


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
                hint = f"0 to {count - 1}" if count else "it is empty"
                raise InputError(f"there is no item {index}: the functaset has {count}", hint=hint)
            chosen.append(index % count)
        else:
            span = slice(*(int(end) if end else None for end in (match[2], match[3])))
            chosen.extend(range(*span.indices(count)))
    return chosen
