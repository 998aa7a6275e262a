"""Decoded grids as CF NetCDF or zarr: latitude, longitude, time and units as the input had them."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import functaconv
from functaconv.errors import InputError, UsageError, imported
from functaconv.files import replace_bytes
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import NO_TIME, TIME
from functaconv.modalities.latlon_grid import GlobeGrid
from functaconv.rendering.decoding import Picture
from functaconv.rendering.formats.format import Format

if TYPE_CHECKING:
    import xarray

CONVENTIONS = "CF-1.8"
_FIRST, _LAST = np.datetime64("0001-01-01T00:00:00"), np.datetime64("9999-12-31T23:59:59")
_RESTORE = "restore the functaset from a copy, or render to npy"


class NetCdf(Format):
    """NetCDF-4: several items of one grid lie along `time`, or along `item`."""

    name = "nc"
    holds_many = True

    def to_bytes(self, picture: Picture, functaset: Functaset) -> bytes:
        return to_netcdf([picture], functaset)

    def write(self, pictures: Sequence[Picture], functaset: Functaset, path: Path) -> None:
        replace_bytes(path, to_netcdf(pictures, functaset))


class Zarr(Format):
    """The same as a zarr store."""

    name = "zarr"
    holds_many = True
    is_store = True

    def write(self, pictures: Sequence[Picture], functaset: Functaset, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        to_dataset(pictures, functaset).to_zarr(temporary, mode="w-", zarr_format=3, consolidated=False)
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)

    def may_replace(self, path: Path) -> bool:
        """A store that `write` made."""
        try:
            maker = json.loads((path / "zarr.json").read_bytes())["attributes"]["source"]
        except (OSError, ValueError, LookupError, TypeError):
            return False
        return isinstance(maker, str) and maker.startswith("functaconv ")


def to_netcdf(pictures: Sequence[Picture], functaset: Functaset) -> bytes:
    """The content of a NetCDF-4 file."""
    # xarray's own complaint is about engines
    imported("netCDF4", "era5", "NetCDF")
    dataset = to_dataset(pictures, functaset)
    encoding = {name: {"zlib": True, "complevel": 4} for name in dataset.data_vars}
    with tempfile.TemporaryDirectory(prefix="functaconv-") as folder:
        path = Path(folder) / "items.nc"
        dataset.to_netcdf(path, engine="netcdf4", encoding=encoding)
        return path.read_bytes()


def to_dataset(pictures: Sequence[Picture], functaset: Functaset) -> "xarray.Dataset":
    """The items of one grid; their variables are the only data variables."""
    imported("xarray", "era5", "a file of grids")
    import xarray

    grid = pictures[0].grid
    if any(picture.grid != grid for picture in pictures):
        raise UsageError("the items lie on different grids", hint="name a directory: a file for each, or give --like")
    assert isinstance(grid, GlobeGrid)
    values = np.stack([picture.array for picture in pictures])
    rows = [picture.row for picture in pictures]
    coords: dict[str, Any] = {
        "latitude": ("latitude", np.array(grid.latitude), {"standard_name": "latitude", "units": "degrees_north"}),
        "longitude": ("longitude", np.array(grid.longitude), {"standard_name": "longitude", "units": "degrees_east"}),
    }
    seconds = functaset.measure("time")[rows]
    times = _times(seconds, functaset)
    has_times = bool((seconds != NO_TIME).any())
    attributes = {"standard_name": "time"}
    dims: tuple[str, ...] = ("latitude", "longitude")
    metadata: dict[str, Any] = {}
    if len(pictures) == 1:
        values = values[0]
        if seconds[0] != NO_TIME:
            coords["time"] = ((), times[0], attributes)
        metadata = {"key": pictures[0].key, **_plain(functaset.meta(rows[0]))}
    elif len(set(seconds.tolist())) == len(seconds) and NO_TIME not in seconds:
        coords["time"] = ("time", times, attributes)
        dims = ("time", *dims)
    else:
        coords["item"] = ("item", [picture.key for picture in pictures])
        if has_times:
            coords["time"] = ("item", times, attributes)
        dims = ("item", *dims)
        coords |= _along_items([functaset.meta(row) for row in rows])
    # a variable may be called as an axis is
    taken = {*coords, *dims, "item", "time"}
    names = [f"{name}_value" if name in taken else name.replace("/", "_") for name in functaset.attributes.variables]
    variables = {
        name: (dims, values[..., channel], {"units": unit} if unit else {})
        for channel, (name, unit) in enumerate(zip(names, functaset.attributes.units, strict=True))
    }
    about = {"Conventions": CONVENTIONS, "source": f"functaconv {functaconv.__version__}, decoded from fitted latents"}
    dataset = xarray.Dataset(variables, coords, {**about, **metadata})
    for name in variables:
        dataset[name].encoding = {"dtype": "float32", "_FillValue": np.float32(np.nan)}
    for axis in ("latitude", "longitude"):
        # CF: coordinates have no missing values
        dataset[axis].encoding = {"_FillValue": None}
    if "time" in dataset.variables:
        dataset["time"].encoding = {"units": TIME["units"], "calendar": TIME["calendar"]}
        if (seconds != NO_TIME).all():
            dataset["time"].encoding["dtype"] = "int64"
    return dataset


def _times(seconds: np.ndarray, functaset: Functaset) -> np.ndarray:
    """As dates, without one where there is none."""
    times = seconds.astype("datetime64[s]")
    times[seconds == NO_TIME] = np.datetime64("NaT", "s")
    beyond = seconds[(times < _FIRST) | (times > _LAST)]
    if beyond.size:
        raise InputError(f"{functaset.path}: time: {beyond[0]} seconds lie beyond the years 1 to 9999", hint=_RESTORE)
    return times


def _along_items(metas: Sequence[Any]) -> dict[str, Any]:
    """What every item says of itself in a number or a word (level, member ...), as a coordinate along `item`."""
    dictionaries = [meta if isinstance(meta, dict) else {} for meta in metas]
    common = set(dictionaries[0]).intersection(*dictionaries[1:]) if dictionaries else set()
    columns: dict[str, Any] = {}
    for name in sorted(common - {"item", "time", "latitude", "longitude", "source"}):
        values = [one[name] for one in dictionaries]
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            columns[name] = ("item", np.array(values, float))
        elif all(isinstance(value, str) for value in values):
            columns[name] = ("item", values)
    return columns


def _plain(meta: Any) -> dict[str, Any]:
    """What the input said of an item, as far as it can be an attribute."""
    values = meta if isinstance(meta, dict) else {}
    return {
        f"item_{name}": value
        for name, value in values.items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    }
