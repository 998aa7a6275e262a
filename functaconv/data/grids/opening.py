"""Opening a source of fields with the reader for its format."""

from contextlib import AbstractContextManager
from pathlib import Path

from functaconv.data.buckets import check_extra
from functaconv.data.contents import HEAD, format_in_words, format_of
from functaconv.data.folder import opened
from functaconv.data.grids.arrays import lone_axes
from functaconv.data.grids.choice import EVERYTHING, FieldChoice
from functaconv.data.grids.classic import check_classic
from functaconv.data.grids.fields import Fields
from functaconv.data.grids.grib import open_grib
from functaconv.data.grids.hdf5 import check_contained
from functaconv.data.grids.netcdf import netcdf_groups, open_netcdf, open_zarr
from functaconv.data.grids.origin import Origin
from functaconv.data.naming import scheme_of
from functaconv.errors import InputError

# suffixes of files; a zarr store is a directory or a URL
FIELD_SUFFIXES = ("nc", "nc4", "cdf", "netcdf", "grib", "grib2", "grb", "grb2")

_ZARR_MARKS = (".zmetadata", ".zgroup", "zarr.json")


def is_fields(source: str | Path) -> bool:
    """Whether the name says NetCDF or GRIB, or it is a zarr store."""
    origin = Origin.of(source)
    if origin.is_url:
        return origin.suffix.startswith("zarr") or origin.suffix in FIELD_SUFFIXES
    path = Path(source)
    if path.is_dir():
        return origin.suffix.startswith("zarr") or any((path / mark).is_file() for mark in _ZARR_MARKS)
    return origin.suffix in FIELD_SUFFIXES


def axes_of(source: str | Path) -> tuple[list[float], list[float]]:
    """The latitudes and longitudes, in degrees, of a file of fields; of a NetCDF file that has none, those it lists."""
    path = Path(source)
    if path.is_file() and format_of(_head(path, origin := Origin.of(source))) in ("NetCDF", "HDF5"):
        with netcdf_groups(path, origin) as groups:
            axes = lone_axes(groups.dataset(""), origin)
        if axes is not None:
            return axes
    with open_fields(source) as fields:
        return fields.latitude, fields.longitude


def open_fields(
    source: str | Path,
    choice: FieldChoice = EVERYTHING,
    *,
    name: str | None = None,
    label: str | None = None,
    readers: int = 1,
) -> AbstractContextManager[Fields]:
    """The fields of a NetCDF or GRIB file, or of a zarr store (a directory, or an http, https, s3, gs or az URL).

    Keys begin with `name`, by default the file's name without its suffix; errors speak of `label`, by default the
    source. `readers` sources that are read at the same time share the memory.
    """
    origin = Origin.of(source, name, label)
    if origin.is_url:
        if scheme_of(str(source)) in ("file", "local"):
            raise InputError(
                f"{origin.shown}: a folder of this machine is known by its path", hint="give the path alone"
            )
        if origin.suffix in FIELD_SUFFIXES:
            raise InputError(f"{origin.shown}: only zarr stores are read from a URL", hint="download the file first")
        check_extra(str(source))
        return open_zarr(str(source), origin, choice, readers)
    path = Path(source)
    if path.is_dir():
        return open_zarr(path, origin, choice, readers)
    head = _head(path, origin)
    if format_of(head) in ("NetCDF", "HDF5"):
        return open_netcdf(path, origin, choice, readers)
    if format_of(head) == "GRIB":
        return open_grib(path, origin, choice)
    raise InputError(
        f"{origin.shown}: expected NetCDF or GRIB, found {format_in_words(head)}",
        hint="unpack it if it is an archive; else the download may have failed: get the file again",
    )


def _head(path: Path, origin: Origin) -> bytes:
    """The first bytes of a file; InputError for a NetCDF file that is cut short or refers to other files."""
    with origin.trouble("cannot read", hint=None), opened(path) as stream:
        head = stream.read(HEAD)
    if format_of(head) == "NetCDF":
        check_classic(path, origin)
    if format_of(head) == "HDF5":
        check_contained(path, origin)
    return head
