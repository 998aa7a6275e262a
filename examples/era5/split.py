"""The last time to train on and the first to test with, of a NetCDF file: `split.py FILE.nc`."""

import sys

import numpy as np
import xarray

with xarray.open_dataset(sys.argv[1]) as dataset:
    name = next(name for name in ("time", "valid_time") if name in dataset.coords)
    times = np.sort(np.unique(dataset[name].values.ravel())).astype("datetime64[s]")
first = max(1, len(times) - max(1, len(times) // 10))
print(times[first - 1], times[first])
