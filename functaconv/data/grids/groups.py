"""Groups within a file or store: those with fields are found, and one of them is read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functaconv.data.grids.arrays import array_fields
from functaconv.data.grids.axes import horizontal
from functaconv.data.grids.choice import FieldChoice, Unfit
from functaconv.data.grids.fields import Fields
from functaconv.data.grids.origin import Origin
from functaconv.data.ignored import GROUPS, ignore
from functaconv.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

_MOST_GROUPS = 100
"""that are looked into; in a file of more, one has to be named"""


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a source."""

    paths: tuple[str, ...]
    """without the one that holds all others, which is "" """
    opened: "Callable[[str], xr.Dataset]"
    """what a group holds itself"""

    def dataset(self, path: str) -> "xr.Dataset":
        """A group with the coordinates that it shares with the groups around it."""
        import xarray

        dataset = self.opened(path)
        parts = path.split("/") if path else []
        for depth in reversed(range(len(parts))):
            around = self.opened("/".join(parts[:depth]))
            shared = {
                name: variable
                for name, variable in around.coords.variables.items()
                if name not in dataset.variables and variable.sizes.items() <= dataset.sizes.items()
            }
            # without an index, which would read its axis before its length is known
            dataset = dataset.assign_coords(xarray.Coordinates(shared, indexes={}))
        return dataset


def group_fields(groups: Groups, choice: FieldChoice, origin: Origin, readers: int = 1) -> Fields:
    """The fields of the group that was chosen, or of the only one that has some; the outermost goes before others."""
    if choice.group is not None:
        path = choice.group.strip("/")
        if path not in ("", *groups.paths):
            raise InputError(f"{origin.shown}: no group {choice.group!r}", hint=_named(groups.paths))
        return array_fields(groups.dataset(path), choice, origin, readers)
    if len(groups.paths) > _MOST_GROUPS:
        raise InputError(f"{origin.shown}: {len(groups.paths)} groups", hint=_named(groups.paths))
    datasets = {path: groups.dataset(path) for path in ("", *groups.paths)}
    usable = [path for path, dataset in datasets.items() if has_fields(dataset)]
    if len(usable) > 1 and usable[0]:
        raise InputError(f"{origin.shown}: fields in {len(usable)} groups", hint=_named(usable))
    # of none that is usable, the first with variables says what is wrong
    path = next(iter(usable or [path for path, dataset in datasets.items() if dataset.data_vars]), "")
    fields = array_fields(datasets[path], choice, origin, readers)
    if len(usable) > 1:
        ignore(fields.ignored, GROUPS, len(usable) - 1)
    return fields


def has_fields(dataset: "xr.Dataset") -> bool:
    return any(not isinstance(axes, Unfit) for axes in horizontal(dataset).values())


def _named(paths: "tuple[str, ...] | list[str]") -> str:
    if not paths:
        return "it has no groups"
    more = f" ... ({len(paths)} groups)" if len(paths) > 20 else ""
    return f"choose one with --group: {', '.join(paths[:20])}{more}"
