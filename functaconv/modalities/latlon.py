"""Latitude-longitude grids of named variables, at a time and a level."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from functaconv.data.items import OF_GRIDS, Item
from functaconv.errors import InputError, OtherVariablesError
from functaconv.modalities.modality import Axes, ChannelAxis, Modality
from functaconv.signals.grid import GlobeGrid
from functaconv.signals.signal import Signal

LEVELS = ("level", "pressure_hPa", "pressure_level", "isobaricInhPa", "plev", "height", "depth")
"""what the level of a grid may be called in its json"""
MOST_LEVEL = 1e9
LONGEST_NAME = 100
_OF_CHANNELS: tuple[tuple[str, str | None], ...] = (("variable", None), ("units", ""))


class LatLon(Modality):
    """Arrays whose json has latitudes and longitudes. A dataset has one set of variables, in the same units."""

    name = "grid"
    plural = "grids"
    one = "a latitude-longitude grid"
    item_kinds = ("grid",)

    def axes(self, items: Sequence[Item], channel_axis: ChannelAxis, asked: str) -> Axes | None:  # noqa: ARG002 - channels come last
        first = items[0]
        if first.kind != "grid" or asked != "auto":
            return None
        channels = first.array.shape[-1]
        variables = _names(first, "variable", channels)
        expected = _described_variables(first)
        for item in items:
            if (found := _described_variables(item)) != expected:
                raise InputError(
                    f"mixed dataset: {first.key} holds {expected}, {item.key} {found}",
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
            level=level_of(attributes),
        )


def level_of(attributes: Mapping[str, Any] | None) -> str | None:
    """The level that a grid's json names, as text."""
    for name in LEVELS:
        level = (attributes or {}).get(name)
        if isinstance(level, (int, float)) and abs(level) < MOST_LEVEL:
            return f"{level:g}"
    return None


def _grid(item: Item) -> GlobeGrid:
    latitude, longitude = item.attributes["latitude"], item.attributes["longitude"]
    return GlobeGrid(tuple(map(float, latitude)), tuple(map(float, longitude)))


def _described_variables(item: Item) -> str:
    return _with_units(*(_names(item, name, item.array.shape[-1], default) for name, default in _OF_CHANNELS))


def _with_units(variables: Sequence[str], units: Sequence[str]) -> str:
    return ", ".join(f"{name} in {unit}" if unit else name for name, unit in zip(variables, units, strict=True))


def _names(item: Item, attribute: str, channels: int, default: str | None = None) -> tuple[str, ...]:
    """What a grid's json says of each channel."""
    said = item.attributes.get(attribute)
    if isinstance(said, str) and (channels == 1 or default is not None):
        return (said,) * channels
    if isinstance(said, list) and len(said) == channels:
        return tuple(map(str, said))
    return tuple(f"channel_{number}" if default is None else default for number in range(channels))
