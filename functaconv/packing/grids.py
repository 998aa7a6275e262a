"""Files of grids: variables of the same hours and grid in several files become channels of one item."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, combinations, takewhile
from typing import Any

import numpy as np

from functaconv.data.grids import FieldChoice, Fields, open_fields
from functaconv.data.grids.choice import NoVariableError, alternatives
from functaconv.data.ignored import OTHER_VARIABLES, ignore
from functaconv.data.noise import now_reading
from functaconv.errors import InputError
from functaconv.packing.files import File

_MOST_TOLD = 8
GridItem = tuple[str, np.ndarray, dict[str, Any]]
"""key, array and attributes, as `Fields` gives them"""


@dataclass(frozen=True, slots=True)
class Grids:
    """Files whose grids are items together: each part holds other variables of the same items."""

    parts: tuple[tuple[File, ...], ...]
    """of each set of variables the files, in the order of their times"""
    choice: FieldChoice
    key: str
    """where keys of the first part's first file begin"""

    @classmethod
    def of(cls, file: File, choice: FieldChoice) -> "Grids":
        return cls(((file,),), choice, file.key)

    @property
    def files(self) -> tuple[File, ...]:
        return tuple(chain.from_iterable(self.parts))

    def items(self, ignored: Counter[str]) -> Iterator[GridItem]:
        """The items in order; `ignored` counts what the files hold besides."""
        streams = [chain.from_iterable(self._items_of(file, ignored) for file in files) for files in self.parts]
        for channels in zip(*streams, strict=True):
            yield _joined(channels, self.choice.variables) if len(channels) > 1 else channels[0]

    def _items_of(self, file: File, ignored: Counter[str]) -> Iterator[GridItem]:
        name = self.key if file == self.files[0] else file.key
        now_reading(file.shown)
        with opened(file, self.choice, name=name, readers=len(self.parts)) as fields:
            for item in fields:
                yield item
                now_reading(file.shown)
            ignored.update(fields.ignored)


def opened(file: File, choice: FieldChoice, *, name: str, readers: int = 1) -> AbstractContextManager[Fields]:
    if file.problem is not None:
        raise InputError(file.problem)
    return open_fields(file.place, choice, name=name, label=file.shown, readers=readers)


@dataclass(frozen=True, slots=True)
class _Series:
    """The files of one set of variables on one grid, one after another in time."""

    variables: tuple[str, ...]
    grid: tuple[tuple[float, ...], tuple[float, ...]]
    files: tuple[File, ...]
    labels: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, file: File, fields: Fields) -> "_Series":
        """Without its values."""
        grid = tuple(tuple(np.round(axis, 5).tolist()) for axis in (fields.latitude, fields.longitude))
        return cls(fields.variables, (grid[0], grid[1]), (file,), tuple(map(tuple, fields.labels())))

    def __str__(self) -> str:
        names = ", ".join(self.variables)
        shape = f"{len(self.grid[0])} x {len(self.grid[1])}"
        first = self.files[0].shown + (f" and {len(self.files) - 1} more" if len(self.files) > 1 else "")
        return f"{names} ({first}: {len(self.labels)} x {shape})"

    def belongs_to(self, other: "_Series") -> bool:
        """Whether both look like parts of one dataset: some hours on one grid, or all hours on another grid."""
        mine, others = set(self.labels), set(other.labels)
        if self.grid != other.grid:
            return len(mine) > 1 and mine == others
        # a field without a time, such as orography, holds for all times
        return () in mine | others or not mine.isdisjoint(others)


def joined_grids(files: Sequence[File], choice: FieldChoice, source: str, ignored: Counter[str]) -> list[Grids]:
    """The files as items, in the order of the files; InputError where different variables cannot become channels.

    Files that share grid and hours only in part, or hours on different grids, would be a dataset of which nothing can
    be learned together. Files that have nothing in common are packed as they are.
    """
    if len(files) <= 1:
        return [Grids.of(file, choice) for file in files]
    choice = replace(choice, is_shared=True)
    alone, contents = [], []
    for file in files:
        try:
            with opened(file, choice, name=file.key) as fields:
                contents.append(_Series.of(file, fields))
        except NoVariableError:
            ignore(ignored, OTHER_VARIABLES)
        except InputError:
            # reported when it is packed
            alone.append(file)
    _check_all_found(choice, contents, source)
    if len({it.variables for it in contents}) > 1:
        groups = [*_matched(contents, choice, source)]
    else:
        groups = [Grids.of(it.files[0], choice) for it in contents]
    groups += [Grids.of(file, choice) for file in alone]
    order = {file: number for number, file in enumerate(files)}
    return sorted(groups, key=lambda group: min(order[file] for file in group.files))


def _check_all_found(choice: FieldChoice, contents: Sequence[_Series], source: str) -> None:
    available = {name for it in contents for name in it.variables}
    absent = [name for name in choice.variables if name not in available]
    if absent and available:
        raise InputError(
            f"{source}: no variable {absent[0]!r}", hint=f"the others are there: {', '.join(sorted(available))}"
        )


def _matched(contents: Sequence[_Series], choice: FieldChoice, source: str) -> Iterator[Grids]:
    """Series of the same items together, all others file by file."""
    by_set: dict[tuple[Any, ...], list[_Series]] = {}
    for it in contents:
        by_set.setdefault((it.grid, it.variables), []).append(it)
    series = [_in_time(same_kind) for same_kind in by_set.values()]
    groups: list[list[_Series]] = []
    for one in series:
        home = next((group for group in groups if all(_belong_together(other, one) for other in group)), None)
        if home is None:
            groups.append([one])
        else:
            home.append(one)
    for group, others in combinations(groups, 2):
        if any(one.variables != other.variables and one.belongs_to(other) for one in group for other in others):
            number_of = {name: number for number, group in enumerate(groups) for one in group for name in one.variables}
            raise InputError(
                f"{source}: variables of different hours or grids cannot be channels of one item: "
                + "; ".join(map(str, series[:_MOST_TOLD])),
                hint=f"choose variables that share them: {alternatives(number_of)}",
            )
    taken = {it.files[0].key for it in contents}
    for group in groups:
        if len(group) == 1:
            yield from (Grids.of(file, choice) for file in group[0].files)
            continue
        parts = tuple(one.files for one in group)
        key = _common_start([files[0].key for files in parts])
        if not key or key in taken or any(len(files) > 1 for files in parts):
            key = parts[0][0].key
        taken.add(key)
        yield Grids(parts, choice, key)


def _common_start(names: Sequence[str]) -> str:
    """The common beginning: data_stream-oper for data_stream-oper_accum and data_stream-oper_instant."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).rstrip("_-/ ")


def _in_time(contents: Sequence[_Series]) -> _Series:
    ordered = sorted(contents, key=lambda it: it.labels[:1])
    files = tuple(chain.from_iterable(it.files for it in ordered))
    labels = tuple(chain.from_iterable(it.labels for it in ordered))
    return replace(ordered[0], files=files, labels=labels)


def _belong_together(one: _Series, other: _Series) -> bool:
    """Whether they are channels of the same items."""
    return one.grid == other.grid and one.labels == other.labels and set(one.variables).isdisjoint(other.variables)


def _joined(parts: Iterable[GridItem], wanted: Sequence[str]) -> GridItem:
    """Items of the same hour and grid as one; what they do not have in common is a list of one value per channel."""
    parts = list(parts)
    arrays, described = [], []
    for _, array, attributes in parts:
        channels = array.shape[2] if array.ndim == 3 else 1
        arrays.append(array.reshape(*array.shape[:2], channels))
        described += [_of_channel(attributes, channel, channels) for channel in range(channels)]
    order = list(range(len(described)))
    if wanted:
        order.sort(key=lambda channel: wanted.index(described[channel]["variable"]))
    array = np.ascontiguousarray(np.concatenate(arrays, axis=2)[..., order])
    described = [described[channel] for channel in order]
    names = dict.fromkeys(name for each in described for name in each)
    common: dict[str, Any] = {name: [each.get(name) for each in described] for name in names}
    for name, values in common.items():
        if name not in _PER_CHANNEL and all(value == values[0] for value in values):
            common[name] = values[0]
    first = parts[0][2]
    common |= {
        "latitude": first["latitude"],
        "longitude": first["longitude"],
        "dims": ["latitude", "longitude", "channel"],
        "shape": list(array.shape),
        "dtype": first["dtype"],
        "n_missing": sum(attributes["n_missing"] for _, _, attributes in parts),
        "source": ", ".join(dict.fromkeys(attributes["source"] for _, _, attributes in parts)),
    }
    return parts[0][0], array, common


_PER_CHANNEL = ("variable", "units", "long_name")
_OF_ALL = ("latitude", "longitude", "dims", "shape", "dtype", "n_missing", "source")


def _of_channel(attributes: dict[str, Any], channel: int, channels: int) -> dict[str, Any]:
    """The attributes of one channel of several: a list of as many values has one for each."""
    return {
        name: value[channel] if isinstance(value, list) and channels > 1 and len(value) == channels else value
        for name, value in attributes.items()
        if name not in _OF_ALL
    }
