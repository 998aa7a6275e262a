"""GRIB files: messages, each a field, which become the channels of items."""

import itertools
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from functaconv.data.grids.choice import FieldChoice, Unfit, alternatives
from functaconv.data.grids.fields import Fields, Layout, Place, Variable, check_size, number_label, time_label
from functaconv.data.grids.origin import Origin, imported
from functaconv.data.noise import eccodes_heard
from functaconv.errors import InputError

_MISSING = 3.4028234663852886e38
"""the largest float32: what missing points are asked to be decoded to"""
_UNFIT = {
    "rotated_ll": "rotated pole: latitude has 2 axes",
    "rotated_gg": "rotated pole: latitude has 2 axes",
    "reduced_gg": "reduced Gaussian grid: rows have different lengths",
    "reduced_ll": "reduced grid: rows have different lengths",
    "sh": "spherical harmonics",
    "unstructured_grid": "unstructured grid",
    "healpix": "unstructured grid (HEALPix)",
}
_LEVEL_UNITS = {"isobaricInhPa": "hPa", "isobaricInPa": "Pa", "heightAboveGround": "m", "heightAboveSea": "m",
                "depthBelowLand": "m", "depthBelowLandLayer": "m", "depthBelowSea": "m", "theta": "K"}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Kept once per definition, so that grids are equal only if they are the same."""

    latitude: list[float]
    longitude: list[float]
    is_by_columns: bool
    """whether neighbours in the file are neighbours in latitude"""


@dataclass(frozen=True, slots=True)
class _Message:
    """A field and where it lies, as its header says."""

    offset: int
    part: int
    """GRIB2 can hold several fields in one message"""
    name: str
    """by which it is chosen"""
    described: Variable
    grid: _Grid | Unfit
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


@contextmanager
def open_grib(path: Path, origin: Origin, choice: FieldChoice) -> Iterator[Fields]:
    eccodes = imported("eccodes", "grib", "GRIB")
    scanned = _scanned(eccodes, path, origin)
    messages = _chosen(scanned, choice, origin)
    items = _matched(messages, origin)
    grid = items[0][0].grid
    assert not isinstance(grid, Unfit)
    described = [message.described for message in items[0]]
    if len({variable.variable for variable in described}) < len(described):
        described = [replace(message.described, variable=message.name) for message in items[0]]
    layout = Layout(tuple(described), grid.latitude, grid.longitude)

    def read() -> Iterator[Place]:
        with path.open("rb") as stream:
            for item, labels, attributes in zip(items, _labels(items), _attributes(items), strict=True):
                with origin.trouble(f"cannot read {item[0].name} {' '.join(labels)}"), eccodes_heard():
                    channels = np.stack([_values(eccodes, stream, message, grid) for message in item])
                yield labels, attributes, channels

    fields = Fields(origin, layout, len(items), labels=lambda: _labels(items), read=read)
    choice.count_others({message.name: message.grid for message in scanned}, fields.ignored)
    yield fields


def _scanned(eccodes: Any, path: Path, origin: Origin) -> list[_Message]:
    """All messages of the file; no value is decoded."""
    messages: list[_Message] = []
    grids: dict[str, _Grid | Unfit] = {}
    with eccodes_heard(), path.open("rb") as stream, closing(_handles(eccodes, stream)) as handles:
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
    # temperature on pressure levels and at the surface have one name, as do rain at an instant and since the beginning;
    # what a forecast begins with says nothing of its kind
    messages = _told_apart(messages, "level_name", messages)
    return _told_apart(messages, "step_type", [message for message in messages if message.hours])


def _told_apart(messages: Sequence[_Message], kind: str, among: Iterable[_Message]) -> list[_Message]:
    """Names with what differs between messages of one name: `t@surface`, `tp@accum`."""
    kinds: dict[str, set[str]] = {}
    for message in among:
        kinds.setdefault(message.name, set()).add(getattr(message, kind))
    return [
        replace(it, name=f"{it.name}@{getattr(it, kind)}") if len(kinds.get(it.name, ())) > 1 else it for it in messages
    ]


def _handles(eccodes: Any, stream: BinaryIO) -> Generator[Any]:
    """The fields from where the stream is, those that share a message one by one: a setting of the library, which
    sticks to the file."""
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


def _header(eccodes: Any, handle: Any, grids: dict[str, _Grid | Unfit], origin: Origin) -> _Message:
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
    return _Message(
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


def _grid(eccodes: Any, handle: Any, origin: Origin) -> _Grid | Unfit:
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
    return _Grid(latitude[:, 0].tolist(), np.unwrap(longitude[0], period=360).tolist(), is_by_columns)


def _check_points(eccodes: Any, handle: Any, points: int) -> None:
    """ValueError for a message that speaks of more values than it has places: each takes memory of its own."""
    for key in ("numberOfDataPoints", "numberOfValues", "numberOfCodedValues"):
        if eccodes.codes_is_defined(handle, key) and eccodes.codes_get(handle, key, int) > points:
            raise ValueError(f"{key} is more than the {points} points of the grid")


def _unrolled(values: np.ndarray, rows: int, columns: int, is_by_columns: bool) -> np.ndarray:
    return values.reshape(columns, rows).T if is_by_columns else values.reshape(rows, columns)


def _values(eccodes: Any, stream: BinaryIO, message: _Message, grid: _Grid) -> np.ndarray:
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


def _chosen(messages: Sequence[_Message], choice: FieldChoice, origin: Origin) -> dict[str, list[_Message]]:
    """By variable, those of the times and levels that were chosen."""
    counts = Counter(message.name for message in messages)
    listing = "; ".join(f"{name} ({count} messages)" for name, count in counts.items())
    found = {message.name: message.grid for message in messages}
    # one message on another grid is enough
    found |= {message.name: message.grid for message in messages if isinstance(message.grid, Unfit)}
    names = choice.names(found, listing, origin.shown)
    messages = [message for message in messages if message.name in names]
    if len({message.grid for message in messages}) > 1:
        raise InputError(
            f"{origin.shown}: fields on different grids: {listing}",
            hint=f"choose variables of one grid: {alternatives(found)}",
        )
    if choice.levels:
        held = choice.held_levels(np.array([message.level for message in messages]), origin.shown)
        messages = list(itertools.compress(messages, held))
    times = np.unique([message.time.isoformat() for message in messages])
    wanted = set(times[choice.held_times(times, origin.shown)][:: choice.stride].tolist())
    return {name: [it for it in messages if it.name == name and it.time.isoformat() in wanted] for name in names}


def _matched(by_variable: Mapping[str, list[_Message]], origin: Origin) -> list[tuple[_Message, ...]]:
    """One item for each time, level, member ... that all variables have, in the order of the file."""
    # 2 m temperature and 10 m wind can be channels of one item, and so can an analysis and a forecast for the same
    # time, if there is one of each
    axes = ["time", "member"]
    if any(len({message.level for message in found}) > 1 for found in by_variable.values()):
        axes.append("level")
    place = attrgetter(*axes)
    if any(len(set(map(place, found))) < len(found) for found in by_variable.values()):
        place = attrgetter(*axes, "reference")
    tables = {name: {place(message): message for message in found} for name, found in by_variable.items()}
    first, places = next(iter(tables.items()))
    for name, found in by_variable.items():
        for message in found:
            if tables[name][place(message)] is not message:
                raise InputError(
                    f"{origin.shown}: {name} at {message.time.isoformat()} (level {message.level:g}) is there more "
                    "than once",
                    hint="keep one of these messages, with grib_copy",
                )
        if tables[name].keys() != places.keys():
            different = len(tables[name].keys() ^ places.keys())
            raise InputError(
                f"{origin.shown}: {first} ({len(places)} messages) and {name} ({len(tables[name])}) differ in "
                f"{different} times, levels, members or steps: they cannot be channels of one item",
                hint="choose variables that share them: "
                + alternatives({name: frozenset(table) for name, table in tables.items()}),
            )
    return [tuple(table[key] for table in tables.values()) for key in places]


def _labels(items: Sequence[tuple[_Message, ...]]) -> Iterator[list[str]]:
    """What stands in the key of each item."""
    firsts = [item[0] for item in items]
    axes = ["level", "member", "hours"]
    several = {axis for axis in axes if len({getattr(message, axis) for message in firsts}) > 1}
    for message in firsts:
        labels = {
            "level": number_label(message.level),
            # the control forecast of an ensemble may have no number
            "member": "control" if message.member is None else f"m{message.member}",
            "hours": f"step{number_label(message.hours)}",
        }
        yield [time_label(message.time.isoformat()), *(labels[axis] for axis in axes if axis in several)]


def _attributes(items: Sequence[tuple[_Message, ...]]) -> Iterator[dict[str, Any]]:
    """Where each item lies: what its channels have in common as it is, the rest as a list of one value per channel."""
    every = list(itertools.chain(*items))
    is_forecast = any(message.time != message.reference for message in every)
    # the number of a file that is no ensemble is 0
    is_ensemble = any(message.member or message.members for message in every)
    for item in items:
        columns: dict[str, list[Any]] = {
            "time": [message.time.isoformat() for message in item],
            "level": [message.level for message in item],
            "level_name": [message.level_name for message in item],
            "level_units": [_LEVEL_UNITS.get(message.level_name, "") for message in item],
            "expver": [message.version for message in item],
        }
        if is_forecast:
            columns["reference_time"] = [message.reference.isoformat() for message in item]
            columns["step"] = [message.hours for message in item]
            columns["step_units"] = ["hours"]
        if is_ensemble:
            columns["member"] = [message.member for message in item]
        yield {
            column: values[0] if len(set(values)) == 1 else values
            for column, values in columns.items()
            if set(values) != {None}
        }
