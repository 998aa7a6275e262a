"""Latitude-longitude grids of named variables, at a time and a level."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from functaconv.data.items import OF_GRIDS, Item
from functaconv.errors import InputError, ItemError, OtherVariablesError
from functaconv.modalities.latlon_grid import GlobeGrid, area_weights
from functaconv.modalities.modality import Axes, ChannelAxis, Measure, Modality
from functaconv.signals.grid import AnyGrid
from functaconv.signals.signal import Signal

if TYPE_CHECKING:
    from torch import Tensor

    from functaconv.modalities.compared import Compared
    from functaconv.signals.geometry import Geometry

# names of the level in the json of a grid
LEVELS = ("level", "pressure_hPa", "pressure_level", "isobaricInhPa", "plev", "height", "depth")
MOST_LEVEL = 1e9
LONGEST_NAME = 100
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
_OF_CHANNELS: tuple[tuple[str, str | None], ...] = (("variable", None), ("units", ""))


class LatLon(Modality):
    """Arrays whose json has latitudes and longitudes. A dataset has one set of variables, in the same units."""

    name = "grid"
    plural = "grids"
    one = "a latitude-longitude grid"
    item_kinds = ("grid",)
    dims = (2,)
    preset = "grids"
    has_coordinates = True
    own_formats = ("nc", "zarr")
    usual_format = "nc"
    in_full = "latitude-longitude grids"
    # a place on earth is not like another
    frame = "both"
    convention = "latitude and longitude in degrees, as grids/<n> lists them; the base maps them to its coordinates"
    measures = (
        Measure("rmse", "rmse", combine="rms", by_variable=True),
        Measure("max_error", "max_error", combine="max", by_variable=True),
        Measure("weighted_rmse", "weighted_rmse", combine="rms", by_variable=True),
    )

    def axes(self, items: Sequence[Item], channel_axis: ChannelAxis, asked: str) -> Axes | None:  # noqa: ARG002 - channels come last
        first = items[0]
        if first.kind != "grid" or asked != "auto":
            return None
        channels = first.array.shape[-1]
        variables = _names(first, "variable", channels)
        expected = _described_variables(first)
        for item in items:
            if (variables_of_item := _described_variables(item)) != expected:
                raise InputError(
                    f"mixed dataset: {first.key} holds {expected}, {item.key} {variables_of_item}",
                    hint="put grids of different variables, or in different units, in shards of their own",
                )
        if len(set(variables)) < channels or not all(0 < len(name) <= LONGEST_NAME for name in variables):
            raise InputError(
                f"{first.key}: the variables {', '.join(variables)!r:.200} have no names of their own",
                hint=f'each channel needs one of at most {LONGEST_NAME} characters under "variable" in the json',
            )
        units = _names(first, "units", channels, "")
        return Axes(self.name, 2, channels, "last", first.array.dtype.itemsize, variables, units)

    def to_signal(self, item: Item, axes: Axes) -> Signal:
        self.check_kind(item, axes)
        channels = item.array.shape[-1]
        names, units = (_names(item, name, channels, default) for name, default in _OF_CHANNELS)
        if (names, units) != (axes.variables, axes.units):
            expected = _with_units(axes.variables, axes.units)
            raise OtherVariablesError(f"found {_with_units(names, units)}; expected {expected}")
        attributes = {name: value for name, value in item.attributes.items() if name not in OF_GRIDS}
        return replace(
            super().to_signal(item, axes),
            attributes=attributes or None,
            own_grid=_grid(item),
            level=self.level(attributes),
        )

    def geometry(self, grids: Iterable[Any], axes: Axes, kind: str) -> "Geometry":  # noqa: ARG002 - always two
        from functaconv.modalities.sphere import Globe

        return Globe.around(grids, "planar" if kind == "planar" else "sphere")

    def level(self, attributes: Mapping[str, Any]) -> str | None:
        """The level that the json names, as text."""
        for name in LEVELS:
            level = attributes.get(name)
            if isinstance(level, (int, float)) and abs(level) < MOST_LEVEL:
                return f"{level:g}"
        return None

    def seconds(self, attributes: Mapping[str, Any]) -> int | None:
        """Of the `time` that the json gives in ISO 8601; None for none, or another calendar's.

        One that its offset carries out of the years 1 to 9999 is an ItemError.
        """
        text = attributes.get("time")
        if not isinstance(text, str) or str(attributes.get("calendar", "standard")) not in _CALENDARS:
            return None
        try:
            time = datetime.fromisoformat(text)
            return int((time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
        except ValueError:
            return None
        except OverflowError:
            raise ItemError(f"json: expected a time in the years 1 to 9999, found {text}") from None

    def meta(self, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.seconds(attributes) is None:
            return attributes
        return {name: value for name, value in attributes.items() if name != "time"}

    def stored_axes(self, grid: AnyGrid) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(grid, GlobeGrid)
        return np.array(grid.latitude), np.array(grid.longitude)

    def grid_of(self, rows: np.ndarray, columns: np.ndarray) -> GlobeGrid:
        return GlobeGrid(tuple(rows.tolist()), tuple(columns.tolist()))

    def blank(self, array: np.ndarray, grid: AnyGrid, native: AnyGrid, missing: np.ndarray) -> None:
        """The nearest point counts."""
        (latitude, longitude), (rows, columns) = self.stored_axes(grid), self.stored_axes(native)
        row = np.abs(rows[None] - latitude[:, None]).argmin(1)
        around = longitude[:, None] - columns[None]
        column = np.abs((around + 180) % 360 - 180).argmin(1)
        for here, nearest in enumerate(row):
            array[here][missing[nearest][column]] = np.nan

    def compare(self, compared: "Compared") -> "dict[str, Tensor]":
        squared = compared.difference.square()
        # the unit comes last: the square of a small one would be 0
        rmse = compared.mean(squared, (1,)).sqrt() * compared.unit
        largest = compared.largest(compared.difference.abs()) * compared.unit
        assert isinstance(compared.batch.grid, GlobeGrid)
        area = area_weights(compared.batch.grid).to(compared.features)[None, :, None]
        weighted = compared.mean(squared, (1,), area).sqrt() * compared.unit
        return {"rmse": rmse, "max_error": largest.masked_fill(rmse.isnan(), math.nan), "weighted_rmse": weighted}

    def lines(self, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name, rmse in summary.get("rmse", {}).items():
            unit, most, weighted = (summary[key][name] for key in ("units", "max_error", "weighted_rmse"))
            yield f"error of {name}", f"RMSE {rmse} {unit} ({weighted} weighted by area), at most {most} {unit}"


def _grid(item: Item) -> GlobeGrid:
    latitude, longitude = item.attributes["latitude"], item.attributes["longitude"]
    return GlobeGrid(tuple(map(float, latitude)), tuple(map(float, longitude)))


def _described_variables(item: Item) -> str:
    return _with_units(*(_names(item, name, item.array.shape[-1], default) for name, default in _OF_CHANNELS))


def _with_units(variables: Sequence[str], units: Sequence[str]) -> str:
    return ", ".join(f"{name} in {unit}" if unit else name for name, unit in zip(variables, units, strict=True))


def _names(item: Item, attribute: str, channels: int, default: str | None = None) -> tuple[str, ...]:
    """What a grid's json says of each channel."""
    names = item.attributes.get(attribute)
    if isinstance(names, str) and (channels == 1 or default is not None):
        return (names,) * channels
    if isinstance(names, list) and len(names) == channels:
        return tuple(map(str, names))
    return tuple(f"channel_{number}" if default is None else default for number in range(channels))
