"""Decoding: items of a functaset at any size or place, as files, a tar, or arrays."""

from functaconv.rendering.between import ends_of
from functaconv.rendering.decoding import Picture, arrays, pictures
from functaconv.rendering.formats import FORMATS
from functaconv.rendering.latents import decode, interpolate
from functaconv.rendering.options import RenderOptions
from functaconv.rendering.view import grid_of_file, region_of, selection_of, size_of
from functaconv.rendering.workflow import Rendered, render
from functaconv.signals.grid import View

__all__ = [
    "FORMATS",
    "Picture",
    "RenderOptions",
    "Rendered",
    "View",
    "arrays",
    "decode",
    "ends_of",
    "grid_of_file",
    "interpolate",
    "pictures",
    "region_of",
    "render",
    "selection_of",
    "size_of",
]
