"""Coordinates of items along the other axes of a dataset: time, level, member and others."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from functaconv.data.grids.axes import text
from functaconv.data.grids.fields import RESERVED
from functaconv.data.grids.origin import Origin
from functaconv.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

# positions of all axes and coordinates together, each of 200 bytes; the hours of 200 years are 3.5 million
MOST_PLACES = 1 << 22
TIME_NAMES = ("valid_time", "time", "t", "date", "datetime")
_LEVEL_NAMES = {"level", "levels", "lev", "plev", "pressure_level", "pressure", "isobaricinhpa", "isobaricinpa",
                "height", "heightaboveground", "heightabovesea", "altitude", "depth", "depthbelowland",
                "depthbelowlandlayer", "depthbelowsea", "model_level", "hybrid", "sigma", "potential_temperature",
                "theta"}  # fmt: skip
_PRESSURE_UNITS = ("pa", "hpa", "millibar", "millibars", "mbar", "mb")
# in lower case, as in "day as %Y%m%d.%f", which is how CDO writes absolute times
_DATE_UNITS = "%y%m%d"
# smaller numbers are no dates; with the hour, they could be seconds since 1970
_FIRST_DAY, _FIRST_HOUR = 1000_01_01, 1800_01_01_00
_MEMBER_NAMES = ("number", "member", "members", "realization", "ensemble", "ensemble_member", "ens")


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A coordinate along some of the axes, which becomes an attribute of items."""

    name: str
    """in the file"""
    dims: tuple[str, ...]
    values: np.ndarray
    """ISO strings, other strings, or numbers"""
    attributes: Mapping[Any, Any]
    """in the file"""
    calendar: str | None = None
    """of times, if it is not the common one"""
    is_time: bool = False
    column: str = ""
    """in the attributes of an item"""

    @property
    def constant(self) -> dict[str, str]:
        """Attributes that are the same for all items: units, calendar."""
        units = str(self.attributes.get("units", ""))
        if self.is_time:
            return {} if self.calendar is None else {"calendar": self.calendar}
        if self.column == "level":
            return {"level_name": self.name, "level_units": units}
        return {} if units in ("", "1") else {f"{self.column}_units": units}


def coordinates(dataset: "xr.Dataset", dims: Sequence[str], origin: Origin) -> list[Coordinate]:
    """Time, level and member under those names, the rest under their own."""
    along = {str(name): each for name, each in dataset.coords.variables.items() if set(each.dims) <= set(dims)}
    # a string of any length is some numbers of 8 bytes
    count = sum(dataset.sizes[dim] for dim in dims) + sum(max(each.size, each.nbytes // 8) for each in along.values())
    if count > MOST_PLACES:
        raise InputError(
            f"{origin.shown}: {count} places along {', '.join(dims)}, expected at most {MOST_PLACES}",
            hint="split the file",
        )
    decoded = []
    for name, variable in along.items():
        with origin.trouble(f"cannot read {name}"):
            decoded.append(_decoded(name, variable))
    # what lies along the axes comes first, and a coordinate named like its axis before others
    decoded.sort(key=lambda coordinate: (not coordinate.dims, coordinate.name not in dims, coordinate.name))
    time = min((each for each in decoded if each.is_time), key=_time_rank, default=None)
    taken = {*RESERVED} if time is None else {*RESERVED, "time"}
    result = []
    for coordinate in decoded:
        column = "time" if coordinate is time else _role(coordinate)
        if column is None or (column in taken and coordinate is not time):
            column = coordinate.name
            while column in taken:
                column += "_"
        taken.add(column)
        result.append(replace(coordinate, column=column))
    return result


def plain(values: np.ndarray) -> np.ndarray:
    """As JSON can hold it: float64 that prints like what the file holds, integers, booleans, strings."""
    if values.dtype.kind == "f":
        # 46.65 as float32 is to stay 46.65
        return values.astype(str).astype(np.float64)
    if values.dtype.kind in "biu":
        return values
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    if all(isinstance(value, str) for value in values.flat):
        return values.astype(str)
    raise ValueError(f"values of type {values.dtype}, expected numbers or strings")


def _decoded(name: str, variable: "xr.Variable") -> Coordinate:
    """Times as ISO strings to the second; those with units like months, which are no length, stay numbers."""
    import xarray

    values, attributes = variable.to_numpy(), variable.attrs
    dims = tuple(str(dim) for dim in variable.dims)
    numbers = Coordinate(name, dims, plain(values), attributes)
    units = str(attributes.get("units", ""))
    if (name.lower() in TIME_NAMES or _DATE_UNITS in units.lower()) and (dates := _written_dates(numbers.values)):
        iso = np.array([date.isoformat() for date in dates]).reshape(values.shape)
        return replace(numbers, values=iso, is_time=True)
    if values.dtype.kind not in "iuf" or " since " not in units:
        return numbers
    if not np.isfinite(values).all():
        raise ValueError("a time is missing")
    kept = {key: attributes[key] for key in ("units", "calendar") if key in attributes}
    with warnings.catch_warnings():
        # years before 1678 come as dates of cftime, which is all right
        warnings.filterwarnings("ignore", "Unable to decode time axis", xarray.SerializationWarning)
        try:
            times = xarray.coders.CFDatetimeCoder().decode(xarray.Variable(dims, values, kept)).to_numpy()
        except ValueError:
            return numbers
    if times.dtype.kind == "M":
        times = times.astype("datetime64[us]").astype(object)
    # rounded: hours since 1900 as floats end just below the second
    dates = [(date + timedelta(milliseconds=500)).replace(microsecond=0) for date in times.flat]
    iso = np.array([date.isoformat() for date in dates]).reshape(times.shape)
    return replace(numbers, values=iso, calendar=getattr(dates[0], "calendar", None), is_time=True)


def _written_dates(values: np.ndarray) -> list[datetime] | None:
    """Dates written as 20200131, 2020013106 (with the hour), 20200131.25 (with a part of the day), or in ISO 8601."""
    listed = values.ravel().tolist()
    try:
        if values.dtype.kind == "U":
            dates = [datetime.fromisoformat(text.strip()) for text in listed]
            return [date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date for date in dates]
        if values.dtype.kind in "iuf" and min(listed, default=0) >= _FIRST_HOUR:
            return [datetime.strptime(f"{value:.0f}", "%Y%m%d%H") for value in listed]
        if values.dtype.kind in "iuf" and min(listed, default=0) >= _FIRST_DAY:
            return [_day(value) for value in listed]
    # numbers, or words, that are no dates
    except ValueError:
        pass
    return None


def _day(value: float) -> datetime:
    whole, part = divmod(value, 1)
    date = datetime.strptime(f"{whole:.0f}", "%Y%m%d") + timedelta(days=part, milliseconds=500)
    return date.replace(microsecond=0)


def _time_rank(time: Coordinate) -> tuple[int, int, str]:
    """The smallest is the time an item is valid at: CDS files call it valid_time, whatever their standard name says."""
    name = time.name.lower()
    if name == "valid_time":
        return (0, 0, "")
    if text(time.attributes, "standard_name") == "time":
        return (1, 0, time.name)
    if name in TIME_NAMES:
        return (2, TIME_NAMES.index(name), "")
    return (3, -len(time.dims), time.name)


def _role(coordinate: Coordinate) -> str | None:
    """reference_time, level or member."""
    name = coordinate.name.lower()
    standard, positive, axis, units = (
        text(coordinate.attributes, key) for key in ("standard_name", "positive", "axis", "units")
    )
    if coordinate.is_time:
        return "reference_time" if "reference" in f"{name} {standard}" or name == "time" else None
    if name in _MEMBER_NAMES or standard == "realization":
        return "member"
    is_vertical = name in _LEVEL_NAMES or positive in ("up", "down") or axis == "z" or units in _PRESSURE_UNITS
    return "level" if is_vertical and len(coordinate.dims) < 2 else None
