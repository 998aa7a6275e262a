"""Fields as items: arrays, keys, and the attributes that all sources share."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from functaconv.data import limits
from functaconv.data.folder import clean_key
from functaconv.data.grids.origin import Origin
from functaconv.data.items import OF_GRIDS
from functaconv.errors import InputError

# attributes with a meaning of their own: a coordinate that is called so gets another name
RESERVED = OF_GRIDS | {"source"}
# degrees along both axes: the json of every item holds them, with some 16 characters each
MOST_DEGREES = limits.TEXT // 16


@dataclass(frozen=True, slots=True)
class Variable:
    variable: str
    units: str
    long_name: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Variables and axes, the same for all items of a source."""

    variables: tuple[Variable, ...]
    latitude: list[float]
    longitude: list[float]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one array: `[latitude, longitude]`, or `[latitude, longitude, variable]` where variables are several."""
        rows, columns = len(self.latitude), len(self.longitude)
        return (rows, columns) if len(self.variables) == 1 else (rows, columns, len(self.variables))

    @property
    def bytes(self) -> int:
        """Of one array as float32."""
        return math.prod(self.shape) * 4


Place = tuple[list[str], dict[str, Any], np.ndarray]
"""of an item: labels for the key, attributes, and an array per variable `[variable, latitude, longitude]`"""


def check_size(origin: Origin, rows: int, columns: int, each: int = 0) -> None:
    """InputError for axes, or items of `each` values per point, that are larger than shards may hold."""
    if rows + columns > MOST_DEGREES:
        lengths = f"{rows} latitudes and {columns} longitudes"
        raise InputError(f"{origin.shown}: {lengths}, expected at most {MOST_DEGREES} together")
    if (needed := rows * columns * each * 4) > limits.MEMBER:
        shape = f"{rows} x {columns}" + f" x {each}" * (each > 1)
        raise InputError(
            f"{origin.shown}: one item of {shape} values needs {needed} bytes, expected at most {limits.MEMBER}"
        )


class Fields:
    """The items of one source: counted without reading a value, then read block by block."""

    def __init__(
        self,
        origin: Origin,
        layout: Layout,
        count: int,
        *,
        labels: Callable[[], Iterator[list[str]]],
        read: Callable[[], Iterator[Place]],
    ) -> None:
        check_size(origin, len(layout.latitude), len(layout.longitude), len(layout.variables))
        self._origin, self._layout, self._read, self._labels = origin, layout, read, labels
        self.count = count
        self.variables = tuple(variable.variable for variable in layout.variables)
        self.shape = layout.shape
        self.latitude, self.longitude = layout.latitude, layout.longitude
        self.bytes = count * layout.bytes
        """of all values as float32"""
        self.ignored: Counter[str] = Counter()
        """what the source holds besides, by kind"""

    def labels(self) -> Iterator[tuple[str, ...]]:
        """The labels of each item, in order, without reading a value: time, level, member ..."""
        return map(tuple, self._labels())

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        """Key, array and attributes (JSON-ready) of every item; time first, then the other axes."""
        variables = self._layout.variables
        several = len(variables) > 1
        described = {
            column: [getattr(variable, column) for variable in variables] if several else getattr(variables[0], column)
            for column in ("variable", "units", "long_name")
        }
        for labels, place, channels in self._read():
            array = np.moveaxis(channels, 0, -1) if several else channels[0]
            attributes = {
                **described,
                **place,
                "latitude": self._layout.latitude,
                "longitude": self._layout.longitude,
                "dims": ["latitude", "longitude", "channel"][: array.ndim],
                "shape": list(array.shape),
                "dtype": "float32",
                "n_missing": int(np.isnan(array).sum()),
                "source": self._origin.place.name,
            }
            yield clean_key("_".join([self._origin.key, *labels])), np.ascontiguousarray(array), attributes


def time_label(time: str) -> str:
    """2022-05-01T03:00:00 -> 2022-05-01T03; minutes and seconds where there are some: 2022-05-01T0330."""
    return time.removesuffix(":00").removesuffix(":00").replace(":", "")


def number_label(value: float | str) -> str:
    """0.995 -> 0p995: a key has no dots."""
    text = value if isinstance(value, str) else f"{value:.10g}"
    return re.sub(r"[^A-Za-z0-9+-]", "_", text.replace(".", "p"))
