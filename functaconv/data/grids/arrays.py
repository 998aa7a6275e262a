"""The chosen items of an xarray dataset, read block by block, with their labels and attributes."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from functaconv.data import limits
from functaconv.data.grids.axes import horizontal, role_of
from functaconv.data.grids.choice import FieldChoice, Unfit, alternatives
from functaconv.data.grids.chunks import blocks
from functaconv.data.grids.coordinates import TIME_NAMES, Coordinate, coordinates
from functaconv.data.grids.fields import Fields, Place, Variable, check_size, number_label, time_label
from functaconv.data.grids.origin import Origin
from functaconv.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

# the fill value of NetCDF libraries where nothing was written, even when the variable does not name it
_NEVER_WRITTEN = np.float32(9.969209968386869e36)


@dataclass(frozen=True, slots=True)
class _Axis:
    name: str
    positions: np.ndarray
    """in the file, of what was chosen"""
    labels: list[str]
    chunk: int


def array_fields(dataset: "xr.Dataset", choice: FieldChoice, origin: Origin, readers: int = 1) -> Fields:
    """The fields of a dataset that were chosen."""
    names, degrees = _chosen(dataset, choice, origin)
    variables = {name: dataset.variables[name] for name in names}
    first = variables[names[0]]
    if not first.size:
        raise InputError(f"{origin.shown}: an axis is empty: {_signature(dataset, names[0])}")
    _check_chunks(dataset, [*names, *map(str, dataset.coords)], origin)
    horizontal_dims = [str(dataset.variables[name].dims[0]) for name in degrees]
    rows, columns = (first.sizes[dim] for dim in horizontal_dims)
    check_size(origin, rows, columns, each=len(names) * first.sizes.get("expver", 1))
    latitude, longitude = (_degrees(dataset, name, origin) for name in degrees)
    dims = [str(dim) for dim in first.dims if dim not in (*horizontal_dims, "expver")]
    along = coordinates(dataset, dims, origin)
    chosen = _positions(first, dims, along, choice, origin)
    along = [replace(c, values=np.asarray(c.values[np.ix_(*(chosen[dim] for dim in c.dims))])) for c in along]
    axes = [
        _Axis(dim, positions, _labels(dim, positions, along, number == 0), _chunk(variables.values(), dim))
        for number, (dim, positions) in enumerate(chosen.items())
    ]
    item_bytes = rows * columns * len(names) * 4 * first.sizes.get("expver", 1)
    pieces = blocks([axis.positions for axis in axes], [axis.chunk for axis in axes], item_bytes, readers)
    cut = _Cut(dataset, names, axes, horizontal_dims, along, origin)
    fields = Fields(
        origin,
        [_described(name, variable) for name, variable in variables.items()],
        latitude,
        longitude,
        math.prod(len(axis.positions) for axis in axes),
        labels=lambda: (cut.labels(index) for block in itertools.product(*pieces) for _, index in cut.places(block)),
        read=lambda: cut.items(itertools.product(*pieces)),
    )
    choice.count_others(horizontal(dataset), fields.ignored)
    return fields


def lone_axes(dataset: "xr.Dataset", origin: Origin) -> tuple[list[float], list[float]] | None:
    """The latitudes and longitudes of a dataset with one list of each, also without fields; else None."""
    by_role = {
        role: [str(name) for name, variable in dataset.variables.items()
               if variable.ndim == 1 and role_of(str(name), variable.attrs) == role]
        for role in ("latitude", "longitude")
    }  # fmt: skip
    if any(len(names) != 1 for names in by_role.values()):
        return None
    _check_chunks(dataset, [*itertools.chain(*by_role.values())], origin)
    check_size(origin, *(dataset.variables[names[0]].size for names in by_role.values()))
    latitude, longitude = (_degrees(dataset, names[0], origin) for names in by_role.values())
    return (latitude, longitude) if latitude and longitude else None


@dataclass(frozen=True, slots=True)
class _Cut:
    dataset: "xr.Dataset"
    names: Sequence[str]
    axes: Sequence[_Axis]
    """of items, time first"""
    horizontal: Sequence[str]
    along: Sequence[Coordinate]
    origin: Origin

    def items(self, blocks: Iterable[tuple[np.ndarray, ...]]) -> Iterator[Place]:
        for block in blocks:
            arrays = [self._read(name, block) for name in self.names]
            for place, index in self.places(block):
                # a copy, so that an item that is kept does not keep its block
                channels = np.stack([array[place] for array in arrays])
                yield self.labels(index), self._attributes(index), channels

    def places(self, block: tuple[np.ndarray, ...]) -> Iterator[tuple[tuple[int, ...], dict[str, int]]]:
        """The items of a block: index within the block, and index along each axis by name."""
        for place in np.ndindex(*map(len, block)):
            yield place, {axis.name: int(chosen[at]) for axis, chosen, at in zip(self.axes, block, place, strict=True)}

    def labels(self, index: dict[str, int]) -> list[str]:
        """The parts of an item's key."""
        return [*self._scalar_labels, *(axis.labels[index[axis.name]] for axis in self.axes)]

    @property
    def _scalar_labels(self) -> list[str]:
        """The time of a file that has one."""
        return [time_label(str(c.values)) for c in self.along if c.column == "time" and c.is_time and not c.dims]

    def _read(self, name: str, block: tuple[np.ndarray, ...]) -> np.ndarray:
        """`[*axis, latitude, longitude]` as float32."""
        variable = self.dataset.variables[name]
        wanted: dict[Any, slice | np.ndarray] = {}
        inner = []
        for axis, chosen in zip(self.axes, block, strict=True):
            positions = axis.positions[chosen]
            first, last = int(positions[0]), int(positions[-1])
            # a step or a list makes some libraries decode a chunk for every position: what lies in between is read
            # along, unless it lies in chunks that are not needed
            if len(np.unique(positions // axis.chunk)) == last // axis.chunk - first // axis.chunk + 1:
                wanted[axis.name] = slice(first, last + 1)
                inner.append(positions - first)
            else:
                wanted[axis.name] = positions
                inner.append(np.arange(len(positions)))
        # ERA5 as it was until 2024: final and preliminary values side by side, each missing where the other is not
        versions = [dim for dim in variable.dims if dim == "expver"]
        order = [*(axis.name for axis in self.axes), *versions, *self.horizontal]
        labels = [axis.labels[chosen[0]] for axis, chosen in zip(self.axes, block, strict=True)]
        what = " ".join([name, *labels])
        with self.origin.trouble(f"cannot read {what}"):
            values = variable.isel(wanted).transpose(*order).to_numpy()[np.ix_(*inner)]
            if versions:
                preferred = np.argsort(self.dataset.variables["expver"].to_numpy().astype(str), kind="stable")
                values = values.take(preferred, axis=-3)
        with np.errstate(over="ignore", invalid="ignore"):
            result: np.ndarray = values.astype(np.float32)
        if (np.isinf(result) & np.isfinite(values)).any():
            raise InputError(f"{self.origin.shown}: {what} has values beyond float32 (more than 3.4e38)")
        for missing in (_NEVER_WRITTEN, *_meant_as_missing(variable)):
            result[result == missing] = np.nan
        if versions:
            first_valid = np.isnan(result).argmin(axis=-3, keepdims=True)
            result = np.take_along_axis(result, first_valid, axis=-3).squeeze(-3)
        return result

    def _attributes(self, index: dict[str, int]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for coordinate in self.along:
            value = coordinate.values[tuple(index[dim] for dim in coordinate.dims)].item()
            # JSON has no NaN
            result[coordinate.column] = None if value != value else value
            result |= coordinate.constant
        if result.get("reference_time") == result.get("time"):
            result.pop("reference_time", None)
        return result


def _chosen(dataset: "xr.Dataset", choice: FieldChoice, origin: Origin) -> tuple[list[str], tuple[str, str]]:
    """The variables, and the names of their latitude and longitude."""
    axes_of = horizontal(dataset)
    names = choice.names(axes_of, "; ".join(_signature(dataset, name) for name in axes_of), origin.shown)
    axes = {name: (axes_of[name], frozenset(dataset.variables[name].dims)) for name in names}
    if len(set(axes.values())) > 1:
        fields = "; ".join(_signature(dataset, name) for name in names)
        raise InputError(
            f"{origin.shown}: fields on different axes cannot be channels of one item: {fields}",
            hint=f"choose variables that share their axes: {alternatives(axes)}",
        )
    degrees = axes_of[names[0]]
    assert not isinstance(degrees, Unfit)
    return names, degrees


def _positions(
    variable: "xr.Variable", dims: Sequence[str], along: Sequence[Coordinate], choice: FieldChoice, origin: Origin
) -> dict[str, np.ndarray]:
    """What was chosen of each axis, time first."""
    # with two axes (reference time and step) the range is one of reference times
    times = [coordinate for coordinate in along if coordinate.is_time and len(coordinate.dims) < 2]
    time = min(times, key=lambda coordinate: (not coordinate.dims, coordinate.column != "time"), default=None)
    # a time that could not be decoded is a number
    time_axes = [*time.dims] if time else []
    time_axes += [dim for dim in dims if dim.lower() in TIME_NAMES]
    chosen = {dim: np.arange(variable.sizes[dim]) for dim in dict.fromkeys([*time_axes[:1], *dims])}
    if choice.start is not None or choice.stop is not None:
        if time is None:
            raise InputError(f"{origin.shown}: no times to choose between {choice.range} from")
        is_chosen = choice.held_times(time.values, origin.shown)
        chosen |= {dim: np.flatnonzero(is_chosen) for dim in time.dims}
    if choice.stride > 1:
        if not time_axes:
            raise InputError(f"{origin.shown}: no axis of time to take every {choice.stride}th from")
        chosen[time_axes[0]] = chosen[time_axes[0]][:: choice.stride]
    if choice.levels:
        level = next((coordinate for coordinate in along if coordinate.column == "level"), None)
        if level is None or len(level.dims) > 1 or level.values.dtype.kind not in "iuf":
            raise InputError(f"{origin.shown}: no levels to choose from")
        is_chosen = choice.held_levels(np.atleast_1d(level.values), origin.shown)
        chosen |= {dim: np.flatnonzero(is_chosen) for dim in level.dims}
    return chosen


def _labels(dim: str, positions: np.ndarray, along: Sequence[Coordinate], is_first: bool) -> list[str]:
    """A part of the key for each position, from a time, else the coordinate named like the axis, else another."""
    candidates = [coordinate for coordinate in along if coordinate.dims == (dim,)]
    if not candidates:
        return [f"{dim}{position}" for position in positions]
    coordinate = min(candidates, key=lambda coordinate: (coordinate.column != "time", coordinate.name != dim))
    if coordinate.is_time:
        start = "" if is_first else dim
        labels = [start + time_label(value) for value in coordinate.values.tolist()]
    else:
        start = {"level": "", "member": "m"}.get(coordinate.column, dim)
        labels = [start + number_label(value) for value in coordinate.values.tolist()]
    # keys are unique
    counts: Counter[str] = Counter()
    for number, label in enumerate(labels):
        counts[label] += 1
        if counts[label] > 1:
            labels[number] = f"{label}-{counts[label]}"
    return labels


def _meant_as_missing(variable: "xr.Variable") -> Iterator[np.float32]:
    """Values for missing that were written in another type than the data, such as -999.9 in double precision; those of
    the data's type are NaN already.
    """
    packing = {"scale_factor", "add_offset"}
    encoding = variable.encoding if np.dtype(variable.encoding.get("dtype", "f4")).kind == "f" else {}
    for name in ("_FillValue", "missing_value"):
        values = np.ravel(encoding.get(name, ()))
        if values.dtype.kind in "iuf" and not packing & encoding.keys():
            with np.errstate(over="ignore"):
                yield from values.astype(np.float32)


def _chunk(variables: Iterable["xr.Variable"], dim: str) -> int:
    """Length of a chunk that no variable divides."""
    chunks = [variable.encoding.get("preferred_chunks", {}).get(dim, 1) for variable in variables]
    return min(math.lcm(*chunks), next(iter(variables)).sizes[dim])


def _check_chunks(dataset: "xr.Dataset", names: Iterable[str], origin: Origin) -> None:
    """InputError for a chunk that is too large: it is decoded as a whole."""
    for name in names:
        variable = dataset.variables[name]
        chunk = variable.encoding.get("preferred_chunks", {}).values()
        needed = math.prod(chunk) * np.dtype(variable.encoding.get("dtype", variable.dtype)).itemsize
        if needed > limits.EXPANDED:
            raise InputError(
                f"{origin.shown}: a chunk of {name} has {needed} bytes, expected at most {limits.EXPANDED}",
                hint="copy it with smaller chunks (nccopy -c, or rechunker)",
            )


def _degrees(dataset: "xr.Dataset", name: str, origin: Origin) -> list[float]:
    with origin.trouble(f"cannot read {name}"):
        # exactly as they are: what is rendered again lies where the file says, to the last bit
        values = dataset.variables[name].to_numpy()
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise InputError(f"{origin.shown}: {name} is not a list of degrees: a value is missing, or all are")
    degrees: list[float] = values.astype(np.float64).tolist()
    return degrees


def _described(name: str, variable: "xr.Variable") -> Variable:
    attributes = variable.attrs
    long_name = attributes.get("long_name") or attributes.get("standard_name") or name
    return Variable(name, str(attributes.get("units", "")), str(long_name))


def _signature(dataset: "xr.Dataset", name: str) -> str:
    return f"{name}({', '.join(f'{dim}={size}' for dim, size in dataset.variables[name].sizes.items())})"
