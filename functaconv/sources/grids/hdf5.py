"""Whether an HDF5 file holds its values itself: the format can name other files, whose bytes are read as its own.

The library that netCDF4 reads with is asked, so that the answer is about what will be read.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from functaconv.errors import InputError
from functaconv.sources.grids.origin import Origin, imported

_HARD_LINK, _BY_NAME, _AS_STORED = 0, 0, 2
_BASIC, _GROUP, _DATASET, _VIRTUAL = 1, 0, 1, 3
_LONGEST_NAME = 1024
"""of a variable with its groups: the library calls itself for each"""
_HINT = "make a copy that holds all values itself, with nccopy"
_DAMAGED = "its structure is damaged"
_Note = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), ctypes.c_void_p)
_ID, _NUMBER, _TEXT = ctypes.c_int64, ctypes.c_int, ctypes.c_char_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "H5Eset_auto2": (_NUMBER, _ID, ctypes.c_void_p, ctypes.c_void_p),
    "H5Fopen": (_ID, _TEXT, ctypes.c_uint, _ID),
    "H5Fclose": (_NUMBER, _ID),
    "H5Lvisit2": (_NUMBER, _ID, _NUMBER, _NUMBER, _Note, ctypes.c_void_p),
    "H5Oopen": (_ID, _ID, _TEXT, _ID),
    "H5Oclose": (_NUMBER, _ID),
    "H5Oget_info3": (_NUMBER, _ID, ctypes.c_void_p, ctypes.c_uint),
    "H5Dget_create_plist": (_ID, _ID),
    "H5Pget_external_count": (_NUMBER, _ID),
    "H5Pget_layout": (_NUMBER, _ID),
    "H5Pclose": (_NUMBER, _ID),
}
"""of each function what it returns, and its arguments"""


class _About(ctypes.Structure):
    """What the library says of a group or a variable first."""

    _fields_ = (("file", ctypes.c_ulong), ("place", ctypes.c_uint8 * 16), ("kind", ctypes.c_int), ("rest", _ID * 32))


def check_contained(path: Path, origin: Origin) -> None:
    """InputError for a file with links by name, or with variables whose values lie in other files; also for one with
    groups that lie in each other, of which there is no end."""
    hdf5 = _library(origin)
    with origin.trouble("cannot read"), _opened(hdf5["H5Fopen"], hdf5["H5Fclose"], bytes(path), 0, 0) as file:
        groups = {bytes(_about(hdf5, file).place)}
        for name, kind in _links(hdf5, file):
            shown = name.decode("utf-8", "backslashreplace")
            if kind != _HARD_LINK:
                raise InputError(f"{origin.shown}: {shown} is a link, which is not followed", hint=_HINT)
            with _opened(hdf5["H5Oopen"], hdf5["H5Oclose"], file, name, 0) as item:
                about = _about(hdf5, item)
                if about.kind == _DATASET and _lies_elsewhere(hdf5, item):
                    raise InputError(f"{origin.shown}: the values of {shown} lie in other files", hint=_HINT)
                if about.kind == _GROUP and bytes(about.place) in groups:
                    raise InputError(f"{origin.shown}: {shown} is a group that is there twice", hint=_HINT)
                groups |= {bytes(about.place)} if about.kind == _GROUP else set()


def _library(origin: Origin) -> dict[str, Any]:
    """Of the HDF5 library that netCDF4 has loaded."""
    # a library gives what those that it needs give
    library = ctypes.CDLL(imported("netCDF4._netCDF4", "era5", "NetCDF").__file__)
    try:
        found = {name: getattr(library, name) for name in _SIGNATURES}
    except AttributeError as error:
        raise InputError(
            f"{origin.shown}: cannot find out whether it reads other files ({error})",
            hint="install netCDF4 with pip, or convert the file with nccopy -k classic",
        ) from None
    for name, (result, *arguments) in _SIGNATURES.items():
        found[name].restype, found[name].argtypes = result, arguments
    # errors are ours to tell
    found["H5Eset_auto2"](0, None, None)
    return found


@contextmanager
def _opened(open_: Any, close: Any, *arguments: Any) -> Iterator[int]:
    number = open_(*arguments)
    if number < 0:
        raise ValueError(_DAMAGED)
    try:
        yield number
    finally:
        close(number)


def _about(hdf5: dict[str, Any], item: int) -> _About:
    about = _About()
    if hdf5["H5Oget_info3"](item, ctypes.byref(about), _BASIC) < 0:
        raise ValueError(_DAMAGED)
    return about


def _links(hdf5: dict[str, Any], file: int) -> list[tuple[bytes, int]]:
    """Name and kind of every link below the root."""
    found: list[tuple[bytes, int]] = []

    def note(_group: int, name: bytes, information: Any, _data: Any) -> int:
        # the kind is what the information begins with
        found.append((name, information[0]))
        return len(name) > _LONGEST_NAME

    if hdf5["H5Lvisit2"](file, _BY_NAME, _AS_STORED, _Note(note), None) != 0:
        raise ValueError(_DAMAGED)
    return found


def _lies_elsewhere(hdf5: dict[str, Any], item: int) -> bool:
    with _opened(hdf5["H5Dget_create_plist"], hdf5["H5Pclose"], item) as made:
        return bool(hdf5["H5Pget_external_count"](made) or hdf5["H5Pget_layout"](made) == _VIRTUAL)
