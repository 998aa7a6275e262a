"""A temperature over Europe that moves and warms, hourly for ten days: `make_up.py OUT.nc`."""

import sys

import numpy as np
import xarray

latitude, longitude = np.arange(60, 35, -1.0), np.arange(-10, 30, 1.0)
time = np.datetime64("2019-03-01", "ns") + np.arange(240) * np.timedelta64(1, "h")
hours = np.arange(len(time))[:, None, None]
north, east = np.meshgrid(np.radians(latitude), np.radians(longitude), indexing="ij")
field = (
    288
    - 25 * (north - 0.7)
    + 4 * np.sin(2 * np.pi * hours / 24 + east)
    + 5 * np.sin(6 * east - 0.05 * hours + 4 * north) * np.cos(5 * north)
    + 2 * np.sin(15 * east + 11 * north - 0.11 * hours)
)
dataset = xarray.Dataset(
    {"t2m": (("time", "latitude", "longitude"), field.astype("f4"), {"units": "K", "long_name": "a temperature"})},
    {
        "time": time,
        "latitude": ("latitude", latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", longitude, {"units": "degrees_east"}),
    },
)
dataset.to_netcdf(sys.argv[1])
