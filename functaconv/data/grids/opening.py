"""Which reader is for a source: by its name as a guess, by its first bytes when it is opened."""

from contextlib import AbstractContextManager
from pathlib import Path

from functaconv.data.buckets import check_extra
from functaconv.data.contents import format_in_words
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

FIELD_SUFFIXES = ("nc", "nc4", "cdf", "netcdf", "grib", "grib2", "grb", "grb2")
"""of files; a zarr store is a directory or a URL"""

_CLASSIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NETCDF = (*_CLASSIC, _HDF5)
_ZARR_MARKS = (".zmetadata", ".zgroup", "zarr.json")
_OTHERS = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "gzip data", b"{": "JSON", b"<": "an HTML or XML page"}


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
    if path.is_file() and _start(path, origin := Origin.of(source)).startswith(_NETCDF):
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
    said: str | None = None,
    readers: int = 1,
) -> AbstractContextManager[Fields]:
    """The fields of a NetCDF or GRIB file, or of a zarr store (a directory, or an http, https, s3, gs or az URL).

    Keys begin with `name`, by default the file's name without its suffix; errors speak of `said`, by default the
    source. `readers` sources that are read at the same time share the memory.
    """
    origin = Origin.of(source, name, said)
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
    content = _start(path, origin)
    if content.startswith(_NETCDF):
        return open_netcdf(path, origin, choice, readers)
    # a message may follow the heading of a bulletin
    if b"GRIB" in content:
        return open_grib(path, origin, choice)
    others = (words for first, words in _OTHERS.items() if content.lstrip().startswith(first))
    raise InputError(
        f"{origin.shown}: expected NetCDF or GRIB, found {next(others, format_in_words(content))}",
        hint="unpack it if it is an archive; else the download may have failed: get the file again",
    )


def _start(path: Path, origin: Origin) -> bytes:
    """The first bytes of a file; a NetCDF file is refused where its library would read what is not in it."""
    with origin.trouble("cannot read", hint=None), opened(path) as stream:
        content = stream.read(512)
    if content.startswith(_CLASSIC):
        check_classic(path, origin)
    if content.startswith(_HDF5):
        check_contained(path, origin)
    return content
