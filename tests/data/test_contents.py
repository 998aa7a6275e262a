"""What bytes are is told by how they begin, whatever a file is called."""

import io
import zipfile

import numpy as np
from PIL import Image

from functaconv.data.contents import FIELDS, HEAD, IMAGES, format_in_words, format_of
from tests.conftest import npy


def image(name: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (5, 4)).save(buffer, name)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.nc", b"1")
    return buffer.getvalue()


FILES = {
    "PNG": [image("PNG")],
    "JPEG": [image("JPEG")],
    "WebP": [image("WEBP")],
    "BMP": [image("BMP")],
    "PNM": [image("PPM"), image("PPM", "L"), image("PPM", "1"), b"P2\n# plain\n2 2\n255\n", b"Pf\n2 2\n-1\n"],
    "GIF": [image("GIF")],
    "TIFF": [image("TIFF"), b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"],
    "npy": [npy(np.zeros(3))],
    "zip": [zipped()],
    "binvox": [b"#binvox 1\ndim 2 2 2\n"],
    "HDF5": [b"\x89HDF\r\n\x1a\n"],
    "NetCDF": [b"CDF\x01\0", b"CDF\x02\0", b"CDF\x05\0"],
    "GRIB": [b"GRIB\0\0\x80\x01", b"GRIB\0\0\0\x02", b"SNVD11 ECMF 300000\r\r\nGRIB\0\n\r\x01"],
    "OFF": [b"OFF\n3 1 0\n", b"off\n3 1 0\n", b"OFF490 518 0\n", b"\xef\xbb\xbfOFF\n", b"# made\n\nCOFF\n"],
    "OBJ": [b"v 0 0 1\nv 1 0 0\n", b"\xef\xbb\xbf# made\nmtllib a.mtl\n", b"#\r\n\r\nv\t0\t0\t1\r\n", b"o cube\n"],
    "STL": [b"solid a\n facet normal 0 0 1\n", b"solid".ljust(80) + b"\x01\0\0\0"],
    "PLY": [b"ply\nformat ascii 1.0\n", b"ply\r\n"],
    "HTML, SVG or XML": [b"<!DOCTYPE html>", b"\n  <html>"],
    "JSON": [b'{"error": "quota"}'],
    "AppleDouble": [b"\0\x05\x16\x07\0\x02"],
    "HEIF or MPEG-4": [b"\0\0\0\x18ftypheic"],
    "AVIF": [image("AVIF")],
    "pickle": [b"\x80\x04\x95\x10"],
}


def test_formats_are_known_by_their_first_bytes() -> None:
    for name, content in [(name, content) for name, several in FILES.items() for content in several]:
        assert format_of(content) == name
        assert format_of(content[:HEAD]) == name
        assert format_in_words(content) == name


def test_all_that_is_read_is_tried_here() -> None:
    assert set(FILES) >= IMAGES | FIELDS | {"npy", "zip", "binvox", "OFF", "OBJ", "STL", "PLY"}


def test_what_is_not_known_is_not_guessed() -> None:
    for content in [
        b"",
        b"\0" * 600,
        b"BMW 320d, 1998",
        b"PNG",
        b"a GRIB file is described here",
        b"Offered: a car",
        b"of\n",
        b"solid as a rock",
    ]:
        assert format_of(content) is None


def test_what_is_not_known_is_told_by_its_bytes() -> None:
    assert format_in_words(b"") == "nothing (an empty file)"
    assert format_in_words(b"\1\2ab") == "unknown data (it starts with 01 02 61 62)"
