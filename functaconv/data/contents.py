"""The format of a file by its first bytes. Its suffix only says whether the file is looked at."""

import re

from functaconv.data.compression import compression_of

# bytes that are looked at
HEAD = 512

IMAGES = frozenset({"PNG", "JPEG", "WebP", "BMP", "PNM", "GIF", "TIFF"})
# NetCDF is the classic format; NetCDF4 files are HDF5
FIELDS = frozenset({"NetCDF", "HDF5", "GRIB"})

_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\x93NUMPY", "npy"),
    # an npz is a zip; so are downloads of several NetCDF files, and zarr stores in one file
    (b"PK\x03\x04", "zip"),
    (b"PK\x01\x02", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"#binvox", "binvox"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"CDF\x01", "NetCDF"),
    (b"CDF\x02", "NetCDF"),
    (b"CDF\x05", "NetCDF"),
    (b"ply\n", "PLY"),
    (b"ply\r", "PLY"),
    # known by name only
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\0\x05\x16\x07", "AppleDouble"),
    (b"\x80\x02", "pickle"),
    (b"\x80\x03", "pickle"),
    (b"\x80\x04\x95", "pickle"),
    (b"\x80\x05\x95", "pickle"),
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_PNM = re.compile(rb"P(?:[1-6]|[fF])[ \t\r\n]")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OFF = re.compile(rb"(?:ST)?C?N?4?OFF(?![A-Z])", re.IGNORECASE)
_OBJ = re.compile(rb"(?:v|vn|vt|vp|f|o|g|s|mtllib|usemtl)[ \t]")
# a message may follow the heading of a bulletin; after three bytes of length comes the edition
_GRIB = re.compile(rb"GRIB[\0-\xff]{3}[\x01\x02]")
_AVIF = (b"avif", b"avis")


def format_of(content: bytes) -> str | None:
    """The name of the format, one of those above or another that is known by name; None where it is not known.

    The first `HEAD` bytes are enough.
    """
    head = content[:HEAD]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:12] in _AVIF else "HEIF or MPEG-4"
    if head[128:132] == b"DICM":
        return "DICOM"
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if compression := compression_of(head):
        return compression
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if _PNM.match(head):
        return "PNM"
    return "GRIB" if _GRIB.search(head) else _text_format(head)


def format_in_words(content: bytes) -> str:
    """The format's name, or how the bytes begin, for error messages."""
    if not content:
        return "nothing (an empty file)"
    return format_of(content) or f"unknown data (it starts with {content[:8].hex(' ')})"


def _text_format(head: bytes) -> str | None:
    # a binary STL without text begins with any bytes: there the suffix has to do
    if head.startswith(b"solid") and (b"facet" in head or b"\0" in head):
        return "STL"
    if b"\0" in head:
        return None
    lines = [line.strip() for line in head.removeprefix(BYTE_ORDER_MARK).splitlines()]
    lines = [line for line in lines if line and not line.startswith(b"#")]
    if not lines:
        return None
    if _OFF.match(lines[0]):
        return "OFF"
    if lines[0].startswith(b"<"):
        return "HTML, SVG or XML"
    if lines[0].startswith((b"{", b"[")):
        return "JSON"
    return "OBJ" if _OBJ.match(lines[0]) else None
