"""The messages of a GRIB file, as ecCodes reads their headers and values."""

import itertools
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from functaconv.data.grids.choice import Unfit
from functaconv.data.grids.fields import Variable, check_size
from functaconv.data.grids.origin import Origin

# the largest float32, as which ecCodes decodes missing points
_MISSING = 3.4028234663852886e38
_UNFIT = {
    "rotated_ll": "rotated pole: latitude has 2 axes",
    "rotated_gg": "rotated pole: latitude has 2 axes",
    "reduced_gg": "reduced Gaussian grid: rows have different lengths",
    "reduced_ll": "reduced grid: rows have different lengths",
    "sh": "spherical harmonics",
    "unstructured_grid": "unstructured grid",
    "healpix": "unstructured grid (HEALPix)",
}


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Kept once per definition, so that grids are equal only if they are the same."""

    latitude: list[float]
    longitude: list[float]
    is_by_columns: bool
    """whether neighbours in the file are neighbours in latitude"""


@dataclass(frozen=True, slots=True)
class Message:
    """A field, as its header describes it."""

    offset: int
    part: int
    """GRIB2 can hold several fields in one message"""
    name: str
    """by which it is chosen"""
    described: Variable
    grid: Grid | Unfit
    level_name: str
    level: float
    step_type: str
    """instant, or how values of the time before are summed up: accum, avg, max ..."""
    time: datetime
    """when the field is valid"""
    reference: datetime
    member: int | None
    members: int
    """of the ensemble; 0: unknown, or there is none"""
    version: str | None
    """of the data, as ECMWF numbers them"""

    @property
    def hours(self) -> float:
        """From the reference time."""
        return (self.time - self.reference) / timedelta(hours=1)


def messages_of(eccodes: Any, path: Path, origin: Origin) -> list[Message]:
    """All messages of the file; no value is decoded."""
    messages: list[Message] = []
    grids: dict[str, Grid | Unfit] = {}
    with path.open("rb") as stream, closing(_handles(eccodes, stream)) as handles:
        for number in itertools.count(1):
            with origin.trouble(f"cannot read message {number}"):
                handle = next(handles, None)
                if handle is None:
                    break
                messages.append(_header(eccodes, handle, grids, origin))
    messages = [
        replace(it, part=part)
        for _, group in itertools.groupby(messages, attrgetter("offset"))
        for part, it in enumerate(group)
    ]
    # temperature on pressure levels and at the surface have one name, as have rain at an instant and accumulated rain;
    # the first step of a forecast does not say which kind it is
    messages = _told_apart(messages, "level_name", messages)
    return _told_apart(messages, "step_type", [message for message in messages if message.hours])


def _told_apart(messages: Sequence[Message], kind: str, among: Iterable[Message]) -> list[Message]:
    """Names with what differs between messages of one name: `t@surface`, `tp@accum`."""
    kinds: dict[str, set[str]] = {}
    for message in among:
        kinds.setdefault(message.name, set()).add(getattr(message, kind))
    return [
        replace(it, name=f"{it.name}@{getattr(it, kind)}") if len(kinds.get(it.name, ())) > 1 else it for it in messages
    ]


def _handles(eccodes: Any, stream: BinaryIO) -> Generator[Any]:
    """The fields from the stream's position on. Fields that share a message come one by one: a setting of the library
    that holds for the file.
    """
    eccodes.codes_grib_multi_support_on()
    eccodes.codes_grib_multi_support_reset_file(stream)
    try:
        while (handle := eccodes.codes_grib_new_from_file(stream)) is not None:
            try:
                yield handle
            finally:
                eccodes.codes_release(handle)
    finally:
        eccodes.codes_grib_multi_support_off()


def _header(eccodes: Any, handle: Any, grids: dict[str, Grid | Unfit], origin: Origin) -> Message:
    def get(key: str, kind: type, otherwise: Any = None) -> Any:
        return eccodes.codes_get(handle, key, kind) if eccodes.codes_is_defined(handle, key) else otherwise

    checksum = get("md5GridSection", str)
    if checksum not in grids:
        grids[checksum] = _grid(eccodes, handle, origin)
    names = (get("cfVarName", str), get("shortName", str), f"param{get('paramId', int)}")
    name = next(name for name in names if name not in (None, "unknown", "~"))
    time = reference = _time(get("validityDate", int), get("validityTime", int))
    # day 0 stands for a month in some climatologies: no forecast
    with suppress(ValueError):
        reference = _time(get("dataDate", int), get("dataTime", int))
    return Message(
        offset=get("offset", int),
        part=0,
        name=name,
        described=Variable(name, get("units", str, ""), get("name", str, name)),
        grid=grids[checksum],
        level_name=get("typeOfLevel", str, "unknown"),
        level=get("level", float, 0.0),
        step_type=get("stepType", str, "instant"),
        time=time,
        reference=reference,
        member=get("number", int),
        members=get("totalNumber", int) or get("numberOfForecastsInEnsemble", int, 0),
        version=get("expver", str),
    )


def _time(date: int, time: int) -> datetime:
    """20220501, 330 -> 2022-05-01T03:30"""
    return datetime.strptime(f"{date:08d}{time:04d}", "%Y%m%d%H%M")


def _grid(eccodes: Any, handle: Any, origin: Origin) -> Grid | Unfit:
    kind = eccodes.codes_get(handle, "gridType", str)
    if kind not in ("regular_ll", "regular_gg"):
        return Unfit(_UNFIT.get(kind, f"grid of type {kind}: latitude has 2 axes"))
    if eccodes.codes_get(handle, "alternativeRowScanning", int):
        return Unfit("rows that run to and fro (alternativeRowScanning)")
    rows, columns = eccodes.codes_get(handle, "Nj", int), eccodes.codes_get(handle, "Ni", int)
    check_size(origin, rows, columns, 1)
    _check_points(eccodes, handle, rows * columns)
    is_by_columns = bool(eccodes.codes_get(handle, "jPointsAreConsecutive", int))
    # point by point: lists of the distinct values are sorted, which is not their order where longitudes pass Greenwich
    latitude, longitude = (
        _unrolled(eccodes.codes_get_array(handle, key), rows, columns, is_by_columns)
        for key in ("latitudes", "longitudes")
    )
    return Grid(latitude[:, 0].tolist(), np.unwrap(longitude[0], period=360).tolist(), is_by_columns)


def _check_points(eccodes: Any, handle: Any, points: int) -> None:
    """ValueError for a message that claims more values than its grid has points: each would take memory."""
    for key in ("numberOfDataPoints", "numberOfValues", "numberOfCodedValues"):
        if eccodes.codes_is_defined(handle, key) and eccodes.codes_get(handle, key, int) > points:
            raise ValueError(f"{key} is more than the {points} points of the grid")


def _unrolled(values: np.ndarray, rows: int, columns: int, is_by_columns: bool) -> np.ndarray:
    return values.reshape(columns, rows).T if is_by_columns else values.reshape(rows, columns)


def values_of(eccodes: Any, stream: BinaryIO, message: Message, grid: Grid) -> np.ndarray:
    """`[latitude, longitude]` as float32."""
    stream.seek(message.offset)
    with closing(_handles(eccodes, stream)) as handles:
        handle = next(itertools.islice(handles, message.part, None))
        _check_points(eccodes, handle, len(grid.latitude) * len(grid.longitude))
        eccodes.codes_set(handle, "missingValue", _MISSING)
        values = eccodes.codes_get_values(handle)
    values[values == _MISSING] = np.nan
    values = _unrolled(values, len(grid.latitude), len(grid.longitude), grid.is_by_columns)
    result: np.ndarray = values.astype(np.float32)
    return result
