"""Latitude-longitude fields of NetCDF files, GRIB files and zarr stores as items: one array per time, level, member ...

Values come as float32 with NaN where they are missing, latitudes and longitudes in the file's own order. A file
is recognised by its first bytes. NetCDF and zarr are opened with xarray (never with dask, and no object is unpickled),
GRIB message by message with ecCodes: a hypercube, as xarray needs it, would fill what is not in the file with NaN.
"""

from functaconv.data.grids.choice import EVERYTHING, FieldChoice
from functaconv.data.grids.fields import Fields
from functaconv.data.grids.opening import FIELD_SUFFIXES, axes_of, is_fields, open_fields

__all__ = ["EVERYTHING", "FIELD_SUFFIXES", "FieldChoice", "Fields", "axes_of", "is_fields", "open_fields"]
