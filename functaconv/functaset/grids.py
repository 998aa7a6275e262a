"""The grids of a functaset of latitude-longitude grids: axes and masks, each kept once however many items share it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from functaconv.errors import InputError

GROUP = "grids"
MOST_GRIDS = 4096
"""grids of their own in one functaset: more would be as many folders"""
MOST_VALUES = 1 << 31
"""of all masks of a grid together, unpacked"""


@dataclass(eq=False)
class StoredGrid:
    """Axes that items share, and the masks that occur on them."""

    latitude: np.ndarray
    """float64 [row], degrees north"""
    longitude: np.ndarray
    """float64 [column], degrees east"""
    masks: list[np.ndarray] = field(default_factory=list)
    """bool [row, column, variable] each, True where a value is missing"""


class GridTable:
    """Grids and masks, numbered as they first occur."""

    def __init__(self) -> None:
        self.grids: list[StoredGrid] = []
        self._known: dict[bytes, int] = {}
        self._masks: dict[tuple[int, bytes], int] = {}

    def __len__(self) -> int:
        return len(self.grids)

    def __iter__(self) -> Iterator[StoredGrid]:
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
            self.grids.append(StoredGrid(axes[0], axes[1]))
        return self._known[digest]

    def mask_number(self, grid: int, mask: np.ndarray | None) -> int:
        """The number of a mask among those of a grid; -1 when nothing is missing."""
        if mask is None or not mask.any():
            return -1
        digest = blake2b(np.packbits(mask).tobytes()).digest()
        if (grid, digest) not in self._masks:
            self._masks[grid, digest] = len(self.grids[grid].masks)
            self.grids[grid].masks.append(mask)
        return self._masks[grid, digest]

    def merge(self, other: "GridTable", grid: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of another table's grids and masks as numbers of this one's, which takes in what it lacks."""
        new_grid, new_mask = np.empty_like(grid), np.full_like(mask, -1)
        for number, stored in enumerate(other):
            mine = self.number(stored.latitude, stored.longitude)
            rows = grid == number
            new_grid[rows] = mine
            for place, found in enumerate(stored.masks):
                new_mask[rows & (mask == place)] = self.mask_number(mine, found)
        return new_grid, new_mask

    def to_members(self) -> dict[str, np.ndarray]:
        """As arrays of an npz."""
        members: dict[str, np.ndarray] = {}
        for number, grid in enumerate(self.grids):
            members[f"grid{number}_latitude"], members[f"grid{number}_longitude"] = grid.latitude, grid.longitude
            if grid.masks:
                members[f"grid{number}_masks"] = np.packbits(np.stack(grid.masks))
                members[f"grid{number}_masks_shape"] = np.array([len(grid.masks), *grid.masks[0].shape])
        return members

    @classmethod
    def from_members(cls, members: Mapping[str, np.ndarray]) -> "GridTable":
        table, number = cls(), 0
        while f"grid{number}_latitude" in members:
            table.number(members[f"grid{number}_latitude"], members[f"grid{number}_longitude"])
            if f"grid{number}_masks" in members:
                shape = members[f"grid{number}_masks_shape"].tolist()
                bits = np.unpackbits(members[f"grid{number}_masks"], count=int(np.prod(shape)))
                for mask in bits.reshape(shape).astype(bool):
                    table.mask_number(number, mask)
            number += 1
        return table


def write_grids(root: zarr.Group, table: GridTable) -> None:
    """`grids/<n>` with latitude, longitude and, where values are missing, mask."""
    group = root.create_group(GROUP)
    for number, grid in enumerate(table):
        one = group.create_group(str(number))
        _write(one, "latitude", grid.latitude, ("row",), units="degrees_north", standard_name="latitude")
        _write(one, "longitude", grid.longitude, ("column",), units="degrees_east", standard_name="longitude")
        if grid.masks:
            masks = np.stack(grid.masks)
            _write(one, "mask", masks, ("mask", "row", "column", "variable"), long_name="True where a value is missing")


def _write(group: zarr.Group, name: str, values: np.ndarray, dims: tuple[str, ...], **attributes: str) -> None:
    chunks = (1, *values.shape[1:]) if values.ndim > 1 else values.shape
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=chunks,
        # one file however many masks there are
        shards=values.shape if values.ndim > 1 else None,
        dtype=values.dtype,
        serializer=BytesCodec(),
        compressors=[BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        dimension_names=dims,
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    array[...] = values


def read_grids(arrays: Mapping[str, "zarr.Array[Any]"]) -> list[StoredGrid]:
    """The grids out of the arrays of a store, by path (`grids/0/latitude`); damage is an InputError."""
    found: list[StoredGrid] = []
    while (latitude := arrays.get(f"{GROUP}/{len(found)}/latitude")) is not None:
        number = len(found)
        longitude = arrays.get(f"{GROUP}/{number}/longitude")
        if longitude is None or (latitude.ndim, longitude.ndim) != (1, 1):
            raise InputError(f"{GROUP}/{number}: the axes are not whole")
        mask = arrays.get(f"{GROUP}/{number}/mask")
        shape = (*latitude.shape, *longitude.shape)
        if mask is not None and (mask.ndim != 4 or mask.shape[1:3] != shape or np.prod(mask.shape) > MOST_VALUES):
            raise InputError(f"{GROUP}/{number}/mask: found {mask.shape}, expected masks of {shape}")
        try:
            masks = [] if mask is None else list(np.asarray(mask[...], bool))
            found.append(StoredGrid(np.asarray(latitude[...]), np.asarray(longitude[...]), masks))
        # codecs raise whatever they like on damaged bytes
        except Exception as error:
            raise InputError(
                f"{GROUP}/{number} cannot be read: {error}",
                hint="`functaconv inspect --verify` lists all damage; restore it from a copy or encode again",
            ) from error
    return found
