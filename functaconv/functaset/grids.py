"""The grids of a functaset of latitude-longitude grids: axes and masks, each kept once however many items share it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from functaconv.errors import InputError
from functaconv.functaset import arrays

GROUP = "grids"
MOST_GRIDS = 1 << 16
"""grids of their own in one functaset: more would be as many folders"""
MASKS_TOGETHER = 256
"""in a file of the store"""
MOST_DEGREES = 720.0


@dataclass(eq=False)
class Axes:
    """Axes that items share, and the masks that occur on them."""

    latitude: np.ndarray
    """float64 [row], degrees north"""
    longitude: np.ndarray
    """float64 [column], degrees east"""
    shape: tuple[int, ...] = ()
    """of a mask: [row, column, variable]"""
    masks: list[np.ndarray] = field(default_factory=list)
    """the bits of each, 1 where a value is missing"""

    def mask(self, number: int) -> np.ndarray:
        """Bool `[row, column, variable]`, True where a value is missing."""
        return np.unpackbits(self.masks[number], count=math.prod(self.shape)).reshape(self.shape).astype(bool)


class GridTable:
    """Grids and masks, numbered as they first occur."""

    def __init__(self) -> None:
        self.grids: list[Axes] = []
        self._known: dict[bytes, int] = {}
        self._masks: dict[tuple[int, bytes], int] = {}

    def __len__(self) -> int:
        return len(self.grids)

    def __iter__(self) -> Iterator[Axes]:
        return iter(self.grids)

    def number(self, latitude: np.ndarray, longitude: np.ndarray) -> int:
        """The number of the grid with these axes."""
        axes = [np.ascontiguousarray(axis, np.float64) for axis in (latitude, longitude)]
        digest = blake2b(str(len(axes[0])).encode() + axes[0].tobytes() + axes[1].tobytes()).digest()
        if digest not in self._known:
            if len(self.grids) >= MOST_GRIDS:
                raise InputError(
                    f"more than {MOST_GRIDS} different grids in one dataset",
                    hint="put items of one grid, or of few, into shards of their own",
                )
            self._known[digest] = len(self.grids)
            self.grids.append(Axes(axes[0], axes[1]))
        return self._known[digest]

    def mask_number(self, grid: int, mask: np.ndarray | None) -> int:
        """The number of a mask, bool `[row, column, variable]`, among those of a grid; -1 when nothing is missing."""
        if mask is None or not mask.any():
            return -1
        self.grids[grid].shape = mask.shape
        return self._bits_number(grid, np.packbits(mask))

    def _bits_number(self, grid: int, bits: np.ndarray) -> int:
        digest = blake2b(bits.tobytes()).digest()
        if (grid, digest) not in self._masks:
            self._masks[grid, digest] = len(self.grids[grid].masks)
            self.grids[grid].masks.append(bits)
        return self._masks[grid, digest]

    def merge(self, other: "GridTable", grid: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of another table's grids and masks as numbers of this one's, which takes in what it lacks."""
        new_grid, new_mask = np.empty_like(grid), np.full_like(mask, -1)
        for number, axes in enumerate(other):
            mine = self.number(axes.latitude, axes.longitude)
            self.grids[mine].shape = axes.shape or self.grids[mine].shape
            rows = grid == number
            new_grid[rows] = mine
            for place, bits in enumerate(axes.masks):
                new_mask[rows & (mask == place)] = self._bits_number(mine, bits)
        return new_grid, new_mask

    def to_members(self) -> dict[str, np.ndarray]:
        """As arrays of an npz."""
        members: dict[str, np.ndarray] = {}
        for number, axes in enumerate(self.grids):
            members[f"grid{number}_latitude"], members[f"grid{number}_longitude"] = axes.latitude, axes.longitude
            if axes.masks:
                members[f"grid{number}_masks"] = np.stack(axes.masks)
                members[f"grid{number}_masks_shape"] = np.array(axes.shape)
        return members

    @classmethod
    def from_members(cls, members: Mapping[str, np.ndarray]) -> "GridTable":
        table, number = cls(), 0
        while f"grid{number}_latitude" in members:
            table.number(members[f"grid{number}_latitude"], members[f"grid{number}_longitude"])
            if f"grid{number}_masks" in members:
                table.grids[number].shape = tuple(members[f"grid{number}_masks_shape"].tolist())
                for bits in members[f"grid{number}_masks"]:
                    table._bits_number(number, bits)
            number += 1
        return table


def write_grids(root: zarr.Group, table: GridTable) -> None:
    """`grids/<n>` with latitude, longitude and, where values are missing, mask."""
    group = root.create_group(GROUP)
    for number, axes in enumerate(table):
        one = group.create_group(str(number))
        for name, values, dim, units in (
            ("latitude", axes.latitude, "row", "degrees_north"),
            ("longitude", axes.longitude, "column", "degrees_east"),
        ):
            array = _array(one, name, values.shape, "float64", (dim,), units=units, standard_name=name)
            array[...] = values
        if axes.masks:
            shape = (len(axes.masks), *axes.shape)
            dims = ("mask", "row", "column", "variable")
            array = _array(one, "mask", shape, "bool", dims, long_name="True where a value is missing")
            for start in range(0, len(axes.masks), MASKS_TOGETHER):
                stop = min(start + MASKS_TOGETHER, len(axes.masks))
                array[start:stop] = np.stack([axes.mask(place) for place in range(start, stop)])


def _array(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, dims: tuple[str, ...], **attributes: str
) -> "zarr.Array[Any]":
    is_stack = len(shape) > 1
    return arrays.create(
        group,
        name,
        shape=shape,
        # a mask is read by itself
        chunks=(1, *shape[1:]) if is_stack else shape,
        shards=(min(shape[0], MASKS_TOGETHER), *shape[1:]) if is_stack else None,
        dtype=dtype,
        dimension_names=dims,
        attributes=dict(attributes),
    )


class StoredGrid:
    """`grids/<n>` of a store; nothing is read before it is asked for."""

    def __init__(self, number: int, latitude: "zarr.Array[Any]", longitude: Any, mask: Any) -> None:
        self.name = f"{GROUP}/{number}"
        self._latitude, self._longitude, self._mask = latitude, longitude, mask
        for name, array, dims in (("latitude", latitude, 1), ("longitude", longitude, 1), ("mask", mask, 4)):
            if array is None and name == "mask":
                continue
            if (
                not isinstance(array, zarr.Array)
                or array.ndim != dims
                or math.prod(array.chunks) > arrays.MOST_IN_CHUNK
            ):
                raise InputError(f"{self.name}/{name}: the axes or masks are not whole")
        self.shape = (latitude.shape[0], longitude.shape[0])
        if mask is not None and mask.shape[1:3] != self.shape:
            raise InputError(f"{self.name}/mask: found {mask.shape}, expected masks of {self.shape}")

    @property
    def masks(self) -> int:
        """How many masks occur on this grid."""
        return 0 if self._mask is None else int(self._mask.shape[0])

    def lost(self, root: Path) -> list[str]:
        """What files of the axes and masks are missing or empty in the store at `root`."""
        return [
            f"{array.path}: {problem}"
            for array in (self._latitude, self._longitude, self._mask)
            if array is not None
            for _, _, problem in arrays.missing_shards(array, root)
        ]

    @cached_property
    def latitude(self) -> np.ndarray:
        """float64 [row], degrees north."""
        return self._axis(self._latitude, 90.0)

    @cached_property
    def longitude(self) -> np.ndarray:
        """float64 [column], degrees east."""
        return self._axis(self._longitude, MOST_DEGREES)

    def mask(self, number: int) -> np.ndarray:
        """Bool `[row, column, variable]`, True where a value is missing."""
        return np.asarray(arrays.read(self._mask, slice(number, number + 1))[0], bool)

    def _axis(self, array: "zarr.Array[Any]", most: float) -> np.ndarray:
        found = arrays.read(array, slice(None))
        if found.dtype != np.float64 or not (np.abs(found) <= most).all():
            raise InputError(f"{array.path}: found something else than degrees", hint="restore it from a copy")
        return found


def read_grids(found: Mapping[str, "zarr.Array[Any]"]) -> list[StoredGrid]:
    """The grids out of the arrays of a store, by path (`grids/0/latitude`)."""
    grids: list[StoredGrid] = []
    while f"{GROUP}/{len(grids)}/latitude" in found:
        name = f"{GROUP}/{len(grids)}"
        parts = (found.get(f"{name}/{part}") for part in ("longitude", "mask"))
        grids.append(StoredGrid(len(grids), found[f"{name}/latitude"], *parts))
    return grids
