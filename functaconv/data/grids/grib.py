"""GRIB files: each message is a field, which becomes a channel of an item."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from functaconv.data.grids.choice import FieldChoice, Unfit, alternatives
from functaconv.data.grids.fields import Fields, Place, number_label, time_label
from functaconv.data.grids.messages import Message, messages_of, values_of
from functaconv.data.grids.origin import Origin
from functaconv.errors import InputError, imported

_LEVEL_UNITS = {"isobaricInhPa": "hPa", "isobaricInPa": "Pa", "heightAboveGround": "m", "heightAboveSea": "m",
                "depthBelowLand": "m", "depthBelowLandLayer": "m", "depthBelowSea": "m", "theta": "K"}  # fmt: skip


@contextmanager
def open_grib(path: Path, origin: Origin, choice: FieldChoice) -> Iterator[Fields]:
    eccodes = imported("eccodes", "grib", "GRIB")
    scanned = messages_of(eccodes, path, origin)
    messages = _chosen(scanned, choice, origin)
    items = _matched(messages, origin)
    grid = items[0][0].grid
    assert not isinstance(grid, Unfit)
    described = [message.described for message in items[0]]
    if len({variable.variable for variable in described}) < len(described):
        described = [replace(message.described, variable=message.name) for message in items[0]]

    def read() -> Iterator[Place]:
        with path.open("rb") as stream:
            for item, labels, attributes in zip(items, _labels(items), _attributes(items), strict=True):
                with origin.trouble(f"cannot read {item[0].name} {' '.join(labels)}"):
                    channels = np.stack([values_of(eccodes, stream, message, grid) for message in item])
                yield labels, attributes, channels

    fields = Fields(origin, described, grid.latitude, grid.longitude, len(items), lambda: _labels(items), read)
    choice.count_others({message.name: message.grid for message in scanned}, fields.ignored)
    yield fields


def _chosen(messages: Sequence[Message], choice: FieldChoice, origin: Origin) -> dict[str, list[Message]]:
    """The messages of the chosen times and levels, by variable."""
    counts = Counter(message.name for message in messages)
    listing = "; ".join(f"{name} ({count} messages)" for name, count in counts.items())
    grids = {message.name: message.grid for message in messages}
    # one message on another grid is enough
    grids |= {message.name: message.grid for message in messages if isinstance(message.grid, Unfit)}
    names = choice.names(grids, listing, origin.shown)
    messages = [message for message in messages if message.name in names]
    if len({message.grid for message in messages}) > 1:
        raise InputError(
            f"{origin.shown}: fields on different grids: {listing}",
            hint=f"choose variables of one grid: {alternatives(grids)}",
        )
    if choice.levels:
        is_chosen = choice.held_levels(np.array([message.level for message in messages]), origin.shown)
        messages = list(itertools.compress(messages, is_chosen))
    times = np.unique([message.time.isoformat() for message in messages])
    wanted = set(times[choice.held_times(times, origin.shown)][:: choice.stride].tolist())
    return {name: [it for it in messages if it.name == name and it.time.isoformat() in wanted] for name in names}


def _matched(by_variable: Mapping[str, list[Message]], origin: Origin) -> list[tuple[Message, ...]]:
    """One item for each time, level, member ... that all variables have, in the order of the file."""
    # 2 m temperature and 10 m wind can be channels of one item, and so can an analysis and a forecast for the same
    # time, if there is one of each
    axes = ["time", "member"]
    if any(len({message.level for message in messages}) > 1 for messages in by_variable.values()):
        axes.append("level")
    place = attrgetter(*axes)
    if any(len(set(map(place, messages))) < len(messages) for messages in by_variable.values()):
        place = attrgetter(*axes, "reference")
    tables = {name: {place(message): message for message in messages} for name, messages in by_variable.items()}
    first, places = next(iter(tables.items()))
    for name, messages in by_variable.items():
        for message in messages:
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


def _labels(items: Sequence[tuple[Message, ...]]) -> Iterator[list[str]]:
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


def _attributes(items: Sequence[tuple[Message, ...]]) -> Iterator[dict[str, Any]]:
    """The attributes of each item; where its channels differ, a list of one value per channel."""
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
