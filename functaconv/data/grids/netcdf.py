"""NetCDF files and zarr stores, opened with xarray, and the groups in them: one with fields is read."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functaconv.data.buckets import zarr_store
from functaconv.data.grids.arrays import array_fields
from functaconv.data.grids.axes import horizontal
from functaconv.data.grids.choice import FieldChoice, Unfit
from functaconv.data.grids.fields import Fields
from functaconv.data.grids.origin import Origin
from functaconv.data.ignored import GROUPS, ignore
from functaconv.data.naming import scheme_of
from functaconv.errors import InputError, imported

if TYPE_CHECKING:
    import netCDF4
    import xarray as xr
    import zarr


# groups that are looked into; in a file of more, one has to be named
_MOST_GROUPS = 100


@contextmanager
def open_netcdf(path: Path, origin: Origin, choice: FieldChoice, readers: int) -> Iterator[Fields]:
    with netcdf_groups(path, origin) as groups:
        yield group_fields(groups, choice, origin, readers)


@contextmanager
def netcdf_groups(path: Path, origin: Origin) -> "Iterator[Groups]":
    """The groups of a file, with nothing decoded but packed values; the file itself is the group ""."""
    for module in ("xarray", "netCDF4"):
        imported(module, "era5", "NetCDF")
    import netCDF4

    with ExitStack() as stack:

        def opened(group: str) -> "xr.Dataset":
            with origin.trouble("cannot read"):
                return stack.enter_context(_opened(path.resolve(), engine="netcdf4", group=group or None))

        with origin.trouble("cannot read"), netCDF4.Dataset(path) as file:
            paths = tuple(group.path.strip("/") for group in _below(file))
        yield Groups(paths, cache(opened))


def _below(group: "netCDF4.Dataset") -> "Iterator[netCDF4.Group]":
    for inner in group.groups.values():
        yield inner
        yield from _below(inner)


@contextmanager
def open_zarr(location: str | Path, origin: Origin, choice: FieldChoice, readers: int) -> Iterator[Fields]:
    imported("xarray", "era5", "a zarr store")
    import zarr

    if isinstance(location, Path):
        _check_contained(location, origin)
    hint = "expected a zarr group of arrays with named axes"
    with ExitStack() as stack:
        with origin.trouble("cannot open the zarr store", hint):
            place = location if isinstance(location, Path) else zarr_store(location)
            group = zarr.open_group(place, mode="r")
            stack.callback(group.store.close)
            is_consolidated = group.metadata.consolidated_metadata is not None
            if not is_consolidated and scheme_of(str(location)) in ("http", "https"):
                raise InputError(
                    f"{origin.shown}: no consolidated metadata, and a web server does not list what a store holds",
                    hint="write it with zarr.consolidate_metadata, or copy the store to a folder",
                )
            # what is not listed in one place costs a server a request each
            is_listed = is_consolidated or not origin.is_url
            members = group.members(max_depth=None) if is_listed else ()
            groups = {"": group} | {path: member for path, member in members if isinstance(member, zarr.Group)}

        def opened(path: str) -> "xr.Dataset":
            with origin.trouble("cannot open the zarr store", hint):
                member_group = groups[path]
                arrays = dict(member_group.arrays())
                _refuse_pickles(arrays, origin)
                dataset = _opened(
                    group.store,
                    engine="zarr",
                    group=member_group.path or None,
                    # xarray would warn where metadata is not consolidated
                    consolidated=is_consolidated,
                    mask_and_scale={name: False for name, array in arrays.items() if _has_default_fill(array)},
                )
                stack.enter_context(dataset)
            # without consolidated metadata the order of variables, and so of channels, would be that of answers to
            # requests
            return dataset[sorted(dataset.data_vars, key=str)]

        yield group_fields(Groups(tuple(groups)[1:], cache(opened)), choice, origin, readers)


def _check_contained(folder: Path, origin: Origin) -> None:
    """InputError for a store that holds links out of it, devices or pipes."""
    top, folders = folder.resolve(), [folder]
    while folders:
        with origin.trouble("cannot read", hint=None), os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                shown = f"{origin.shown}: {path.relative_to(folder)}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_symlink() and not path.resolve().is_relative_to(top):
                    raise InputError(f"{shown} is a link that leads out of the store", hint="copy what it leads to")
                elif not (entry.is_file() or entry.is_dir()):
                    raise InputError(f"{shown} is neither a file nor a folder")


def _refuse_pickles(arrays: Mapping[str, "zarr.Array[Any]"], origin: Origin) -> None:
    """Zarr lets a pickle pass beside another codec of objects, and older versions of numcodecs unpickle it."""
    import numcodecs

    for name, array in arrays.items():
        codecs = (*array.filters, *array.compressors)
        if any(isinstance(codec, numcodecs.Pickle) for codec in codecs):
            raise InputError(f"{origin.shown}: {name} holds pickled objects, which are not read")


def _has_default_fill(array: "zarr.Array[Any]") -> bool:
    """Whether 0 is only zarr's default fill value: xarray would take every 0 for missing."""
    packing = {"_FillValue", "missing_value", "scale_factor", "add_offset"}
    return array.metadata.zarr_format == 2 and array.metadata.fill_value == 0 and not packing & set(array.attrs)


def _opened(location: Any, **options: Any) -> "xr.Dataset":
    import xarray

    with warnings.catch_warnings():
        # a fill value that the stored type cannot take is none; of several, each means missing
        warnings.simplefilter("ignore", xarray.SerializationWarning)
        # times are decoded one by one, later: one with odd units would cost the whole file, and a field in hours is no
        # time
        return xarray.open_dataset(
            location,
            chunks=None,
            cache=False,
            decode_times=False,
            decode_timedelta=False,
            # an index reads its axis before its length is known
            create_default_indexes=False,
            **options,
        )


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a source."""

    paths: tuple[str, ...]
    """without the one that holds all others, which is "" """
    opened: "Callable[[str], xr.Dataset]"
    """gives the content of a group, without that of the groups around it"""

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
    """The fields of the chosen group, else of the outermost one if it has some, else of the only one that has some."""
    if choice.group is not None:
        path = choice.group.strip("/")
        if path not in ("", *groups.paths):
            raise InputError(f"{origin.shown}: no group {choice.group!r}", hint=_named(groups.paths))
        return array_fields(groups.dataset(path), choice, origin, readers)
    if len(groups.paths) > _MOST_GROUPS:
        raise InputError(f"{origin.shown}: {len(groups.paths)} groups", hint=_named(groups.paths))
    datasets = {path: groups.dataset(path) for path in ("", *groups.paths)}
    usable = [
        path
        for path, dataset in datasets.items()
        if any(not isinstance(axes, Unfit) for axes in horizontal(dataset).values())
    ]
    if len(usable) > 1 and usable[0]:
        raise InputError(f"{origin.shown}: fields in {len(usable)} groups", hint=_named(usable))
    # without a usable group, the first one with variables gives the error
    path = next(iter(usable or [path for path, dataset in datasets.items() if dataset.data_vars]), "")
    fields = array_fields(datasets[path], choice, origin, readers)
    if len(usable) > 1:
        ignore(fields.ignored, GROUPS, len(usable) - 1)
    return fields


def _named(paths: "tuple[str, ...] | list[str]") -> str:
    if not paths:
        return "it has no groups"
    more = f" ... ({len(paths)} groups)" if len(paths) > 20 else ""
    return f"choose one with --group: {', '.join(paths[:20])}{more}"
