"""Fields as items: arrays, keys, and the attributes that all sources share."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass
class Fields:
    """The items of one source: counted without reading a value, then read block by block."""

    origin: Origin
    described: Sequence[Variable]
    latitude: list[float]
    longitude: list[float]
    count: int
    labels: Callable[[], Iterator[list[str]]]
    """gives the labels of each item, in order, without reading a value: time, level, member ..."""
    read: Callable[[], Iterator[Place]]
    ignored: Counter[str] = field(default_factory=Counter)
    """what the source holds besides, by kind"""

    def __post_init__(self) -> None:
        check_size(self.origin, len(self.latitude), len(self.longitude), len(self.described))

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(variable.variable for variable in self.described)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one array: `[latitude, longitude]`, or `[latitude, longitude, variable]` where variables are several."""
        rows, columns = len(self.latitude), len(self.longitude)
        return (rows, columns) if len(self.described) == 1 else (rows, columns, len(self.described))

    @property
    def bytes(self) -> int:
        """Of all values as float32."""
        return self.count * math.prod(self.shape) * 4

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        """Key, array and attributes (JSON-ready) of every item; time first, then the other axes."""
        several = len(self.described) > 1
        columns = {name: [getattr(one, name) for one in self.described] for name in ("variable", "units", "long_name")}
        described = {name: values if several else values[0] for name, values in columns.items()}
        for labels, place, channels in self.read():
            array = np.moveaxis(channels, 0, -1) if several else channels[0]
            attributes = {
                **described,
                **place,
                "latitude": self.latitude,
                "longitude": self.longitude,
                "dims": ["latitude", "longitude", "channel"][: array.ndim],
                "shape": list(array.shape),
                "dtype": "float32",
                "n_missing": int(np.isnan(array).sum()),
                "source": self.origin.place.name,
            }
            yield clean_key("_".join([self.origin.key, *labels])), np.ascontiguousarray(array), attributes


def time_label(time: str) -> str:
    """2022-05-01T03:00:00 -> 2022-05-01T03; minutes and seconds where there are some: 2022-05-01T0330."""
    return time.removesuffix(":00").removesuffix(":00").replace(":", "")


def number_label(value: float | str) -> str:
    """0.995 -> 0p995: a key has no dots."""
    text = value if isinstance(value, str) else f"{value:.10g}"
    return re.sub(r"[^A-Za-z0-9+-]", "_", text.replace(".", "p"))
