"""The grids of a functaset of latitude-longitude grids: axes and masks, each kept once however many items share it."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import zarr

from functaconv.errors import InputError
from functaconv.functaset import arrays
from functaconv.functaset.stored_array import StoredArray

GROUP = "grids"
# different grids in one functaset: more would make as many folders, and a zarr.json of more than 100 MB
MOST_GRIDS = 1 << 14
# masks in a file of the store
MASKS_TOGETHER = 256
MOST_DEGREES = 720.0
MOST_IN_AXIS = 1 << 22
_RESTORE = "restore it from a copy, or encode again with --overwrite"


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
        """Add another table's grids and masks; returns `grid` and `mask`, numbers in the other, as numbers here."""
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
        """The table in an npz of `to_members`."""
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

    def __init__(self, latitude: StoredArray, longitude: StoredArray, mask: StoredArray | None) -> None:
        self._latitude, self._longitude, self._mask = latitude, longitude, mask
        self.arrays = [latitude, longitude] if mask is None else [latitude, longitude, mask]
        self.shape = (len(latitude), len(longitude))
        for array in (latitude, longitude):
            if array.dtype != "float64" or array.shape != (len(array),) or not 1 <= len(array) <= MOST_IN_AXIS:
                raise InputError(f"{array.name}: found {array.dtype} {array.shape}, expected degrees", hint=_RESTORE)
        if mask is not None and not (
            mask.dtype == "bool" and mask.shape[1:3] == self.shape and len(mask.shape) == 4 and mask.rows_per_chunk == 1
        ):  # fmt: skip
            raise InputError(f"{mask.name}: found {mask.shape}, expected masks of {self.shape}", hint=_RESTORE)

    @property
    def masks(self) -> int:
        """How many masks occur on this grid."""
        return 0 if self._mask is None else len(self._mask)

    @cached_property
    def latitude(self) -> np.ndarray:
        """float64 [row], degrees north."""
        return _degrees(self._latitude, 90.0)

    @cached_property
    def longitude(self) -> np.ndarray:
        """float64 [column], degrees east."""
        return _degrees(self._longitude, MOST_DEGREES)

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the rows, and of the columns."""
        return self.latitude, self.longitude

    def mask(self, number: int) -> np.ndarray:
        """Bool `[row, column, variable]`, True where a value is missing."""
        assert self._mask is not None
        return np.asarray(self._mask.read(slice(number, number + 1))[0])


def _degrees(array: StoredArray, most: float) -> np.ndarray:
    degrees = array.read()
    if not (np.abs(degrees) <= most).all():
        raise InputError(f"{array.name}: found something else than degrees", hint=_RESTORE)
    return degrees


def read_grids(arrays_of: Callable[[str], StoredArray | None]) -> list[StoredGrid]:
    """The grids out of the arrays of a store, by path (`grids/0/latitude`)."""
    grids: list[StoredGrid] = []
    while (latitude := arrays_of(f"{GROUP}/{len(grids)}/latitude")) is not None:
        name = f"{GROUP}/{len(grids)}"
        if len(grids) == MOST_GRIDS:
            raise InputError(f"{name}: more than {MOST_GRIDS} grids", hint=_RESTORE)
        longitude = arrays_of(f"{name}/longitude")
        if longitude is None:
            raise InputError(f"{name}/longitude: the array is missing", hint=_RESTORE)
        grids.append(StoredGrid(latitude, longitude, arrays_of(f"{name}/mask")))
    return grids
