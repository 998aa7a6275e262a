"""What items are rendered to: one file, or small family, and one line each."""

from functaconv.rendering.formats.binvox import Binvox
from functaconv.rendering.formats.format import FORMATS, Format, format_of
from functaconv.rendering.formats.netcdf import NetCdf, Zarr
from functaconv.rendering.formats.npy import Npy, Npz
from functaconv.rendering.formats.obj import Obj
from functaconv.rendering.formats.png import Png

__all__ = ["FORMATS", "Format", "format_of"]

FORMATS |= {one.name: one for one in (Png(), Npy(), Npz(), NetCdf(), Zarr(), Binvox(), Obj())}
