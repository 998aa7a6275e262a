"""Fields to be written and read back."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.data.grids import FieldChoice, open_fields

Items = dict[str, tuple[np.ndarray, dict[str, Any]]]

netcdf = pytest.mark.skipif(
    not all(map(find_spec, ("xarray", "netCDF4", "h5py"))), reason="needs the extra era5 (xarray, netCDF4, h5py)"
)
grib = pytest.mark.skipif(not find_spec("eccodes"), reason="needs the extra grib (eccodes)")

CLASSIC = ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"]


def read(source: str | Path, choice: FieldChoice | None = None, **options: Any) -> Items:
    """All items by key, after checks that hold for every source."""
    with open_fields(source, choice or FieldChoice(), **options) as fields:
        items: Items = {}
        for key, array, attributes in fields:
            assert key not in items
            assert not set(key) & set("./\\: \0")
            assert array.dtype == np.float32
            assert array.shape == fields.shape == tuple(attributes["shape"])
            assert array.shape[:2] == (len(attributes["latitude"]), len(attributes["longitude"]))
            assert attributes["n_missing"] == np.isnan(array).sum()
            assert len(attributes["dims"]) == array.ndim
            assert attributes["source"] == Path(str(source)).name
            assert json.loads(json.dumps(attributes, allow_nan=False)) == attributes
            items[key] = array, attributes
        assert fields.count == len(items)
        assert fields.bytes == sum(array.nbytes for array, _ in items.values())
    return items


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(280, 10, shape)


def hours(count: int, step: int = 1) -> np.ndarray:
    return np.datetime64("2022-05-01", "ns") + np.arange(count) * np.timedelta64(step, "h")


def era5(times: int = 3, rows: int = 4, columns: int = 5, **more: Any) -> Any:
    """A dataset as ERA5 comes: t2m, latitudes from north to south."""
    import xarray

    field = (("time", "latitude", "longitude"), values(0, times, rows, columns).astype(np.float32))
    coordinates = {
        "time": hours(times),
        "latitude": ("latitude", np.linspace(60, 57, rows, dtype=np.float32), {"units": "degrees_north"}),
        "longitude": ("longitude", np.linspace(10, 14, columns, dtype=np.float32), {"units": "degrees_east"}),
    }
    dataset = xarray.Dataset({"t2m": (*field, {"units": "K", "long_name": "2 metre temperature"})}, coordinates)
    return dataset.assign(more)


def stored(dataset: Any, path: Path, *, encoding: Mapping[str, Any] | None = None, form: str = "NETCDF4") -> Path:
    dataset.to_netcdf(path, engine="netcdf4", format=form, encoding=encoding)
    return path


def arco(times: int = 7, levels: int = 3) -> Any:
    """Dimensions as in ARCO-ERA5."""
    import xarray

    base = era5(times)
    raw = values(4, times, levels, 4, 5).astype(np.float32)
    fields = {
        "temperature": (("time", "level", "latitude", "longitude"), raw, {"units": "K"}),
        "wind": (("time", "level", "latitude", "longitude"), raw + 1, {"units": "m s-1"}),
    }
    level = ("level", 100 * np.arange(1, levels + 1), {"units": "hPa"})
    return xarray.Dataset(fields, {**base.coords, "level": level})
