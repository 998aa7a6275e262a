"""The choice of variables, times and levels of a file."""

import operator
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from functaconv.data.ignored import OTHER_GRIDS, ignore
from functaconv.errors import InputError, UsageError

REGRID = "regrid it to a regular latitude-longitude grid first (cdo remapbil, xESMF)"

_TIME = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why a variable is no field on latitude and longitude."""

    reason: str
    hint: str | None = REGRID


class NoVariableError(InputError):
    """A source has none of the variables that were asked for."""


@dataclass(frozen=True, slots=True)
class FieldChoice:
    """The variables, times and levels that are packed."""

    variables: tuple[str, ...] = ()
    """the channels of an item, in this order; none: all fields of the file, if they share their axes"""
    start: str | None = None
    """first time, as `2022`, `2022-05-01` or `2022-05-01T03:00`"""
    stop: str | None = None
    """last time; `2022-05` takes all of May"""
    stride: int = 1
    """every n-th time of these"""
    levels: tuple[float, ...] = ()
    """in the units of the file; none: all"""
    group: str | None = None
    """of a NetCDF file or zarr store with groups, such as `era5/surface`; None: the only one with fields"""
    is_shared: bool = False
    """whether a file may have only some of the variables: others have the rest"""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UsageError(f"stride of times: expected 1 or more, found {self.stride}")
        for time in (self.start, self.stop):
            if time is not None and not _TIME.fullmatch(_spelled(time)):
                raise UsageError(f"not a time: {time!r}", hint="expected YYYY, YYYY-MM-DD or YYYY-MM-DDTHH:MM")

    @property
    def range(self) -> str:
        return f"{self.start or 'the beginning'} and {self.stop or 'the end'}"

    def names(self, available: Mapping[str, object], listing: str, shown: str) -> list[str]:
        """The names asked for, or those of all fields. `available` maps each variable to its axes, or to an `Unfit`."""
        unfit = {name: axes for name, axes in available.items() if isinstance(axes, Unfit)}
        wanted = list(dict.fromkeys(self.variables))
        absent = [name for name in wanted if name not in available]
        if absent and (not self.is_shared or len(absent) == len(wanted)):
            raise NoVariableError(f"{shown}: no variable {absent[0]!r}", hint=f"variables are: {listing or 'none'}")
        wanted = [name for name in wanted if name in available]
        for name in wanted:
            if name in unfit:
                raise InputError(f"{shown}: {name}: {unfit[name].reason}", hint=unfit[name].hint)
        names = wanted or [name for name in available if name not in unfit]
        if not names:
            # files with another grid often hold bounds and the like besides: their grid is the better reason
            problems = [it for it in unfit.items() if it[1].hint == REGRID] or [*unfit.items()]
            reasons = "; ".join(f"{name}: {it.reason}" for name, it in problems[:3]) or "no variable at all"
            hint = problems[0][1].hint if problems else None
            raise InputError(f"{shown}: no field on latitude and longitude ({reasons})", hint=hint)
        return names

    def count_others(self, available: Mapping[str, object], ignored: Counter[str]) -> None:
        """Count the variables that were not taken because of their grid, where all were wanted."""
        others = sum(isinstance(axes, Unfit) and axes.hint == REGRID for axes in available.values())
        if others and not self.variables:
            ignore(ignored, OTHER_GRIDS, others)

    def held_times(self, times: np.ndarray, shown: str) -> np.ndarray:
        """Which of these ISO times lie in the range, bool; `2022-05` stands for all of May."""
        is_chosen = np.ones(times.shape, dtype=bool)
        for bound, is_within in ((self.start, operator.ge), (self.stop, operator.le)):
            if bound is not None:
                spelled = _spelled(bound)
                is_chosen &= is_within(times.astype(f"U{len(spelled)}"), spelled)
        if not is_chosen.any():
            known = np.sort(times, axis=None)
            raise InputError(f"{shown}: no time between {self.range}", hint=f"there is {known[0]} to {known[-1]}")
        return is_chosen

    def held_levels(self, levels: np.ndarray, shown: str) -> np.ndarray:
        """Which of these were asked for."""
        equal = np.isclose(levels[:, None], np.asarray(self.levels, dtype=float)[None], rtol=1e-5, atol=1e-6)
        missing = [f"{level:g}" for level, is_there in zip(self.levels, equal.any(axis=0), strict=True) if not is_there]
        if missing:
            known = ", ".join(f"{level:g}" for level in np.unique(levels))
            raise InputError(f"{shown}: no level {', '.join(missing)}", hint=f"levels are {known}")
        is_chosen: np.ndarray = equal.any(axis=1)
        return is_chosen


def alternatives(available: Mapping[str, object]) -> str:
    """The `--variable` options of each set of variables that share their axes."""
    sets: dict[object, list[str]] = {}
    for name, axes in available.items():
        if not isinstance(axes, Unfit):
            sets.setdefault(axes, []).append(f"--variable {name}")
    return ", or ".join(" ".join(names) for names in sets.values())


EVERYTHING = FieldChoice()


def _spelled(time: str) -> str:
    return time.strip().replace(" ", "T").removesuffix("Z")
