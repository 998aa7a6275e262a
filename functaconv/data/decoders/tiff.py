"""TIFF beyond photographs, as tifffile reads it: bands, floats, signed and long integers keep their values."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from functaconv.data.limits import check_ahead
from functaconv.errors import ItemError, MissingExtraError

if TYPE_CHECKING:
    import tifffile

# samples of a pixel by the tag photometric interpretation, without those beyond its colour
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3}
_ALPHA = ([1], [2])
_UNSIGNED, _CONTIGUOUS = 1, 1
_FLOATING_POINT = 3
_DEFLATE = (8, 32946)
# those that are decoded within the bounds of their segment; the first ones without imagecodecs
_BUILT_IN, _COMPRESSIONS = (1, *_DEFLATE), (1, 5, *_DEFLATE, 32773, 34925, 50000)
_NODATA, _ORIENTATION = 42113, 274
_REDUCED_OR_MASK, _MAX_PAGES = 5, 10_000
# bytes (1), ASCII (2), signed bytes (6) and undefined (7) are kept as they are
_TEXT, _MAX_NUMBERS = (1, 2, 6, 7), 1 << 20
# other kinds of file, which tifffile would look for and read in ways of their own
_NO_DIALECTS: dict[str, Any] = {f"is_{name}": False for name in ("ome", "lsm", "scanimage", "ndpi", "mdgel", "stk")}


def read_tiff(content: bytes, check_size: Callable[[int, int, int], None]) -> tuple[tuple[np.ndarray, int] | None, int]:
    """Row x column x band of the first page and its orientation, and how many pages come after it.

    The first is None for a photograph, which is Pillow's to read. `check_size` is given width, height and bytes of a
    pixel before any is decoded. Values that GDAL's tag says are no data become NaN.
    """
    import tifffile

    _check_tags(content)
    with tifffile.TiffFile(io.BytesIO(content), **_NO_DIALECTS) as file:
        page = file.pages.first
        sides = (page.imagewidth, page.imagelength, page.imagedepth, page.tilewidth, page.tilelength)
        if not all(isinstance(side, int) for side in (*sides, page.samplesperpixel, page.rowsperstrip)):
            raise ItemError("a width, a height or another number that is a list of numbers")
        if page.is_tiled:
            check_size(page.tilewidth, page.tilelength, 1)
        if _is_photograph(page):
            return None, _further_pages(file)
        dtype = page.dtype
        if dtype is None or dtype.kind not in "uif":
            raise ItemError(
                f"values of {page.bitspersample} bits in sample format {page.sampleformat}: no array has such"
            )
        each = dtype.itemsize * page.samplesperpixel * page.imagedepth
        check_size(page.imagewidth, page.imagelength, each)
        check_ahead(2 * page.imagewidth * page.imagelength * each)
        _check_codec(page, dtype.itemsize)
        values = page.asarray(maxworkers=1)
        pages = _further_pages(file)
    values = np.moveaxis(values, page.axes.index("S"), -1) if "S" in page.axes else values[..., None]
    orientation = page.tags.valueof(_ORIENTATION, 1)
    values = _without_nodata(values, page.tags.valueof(_NODATA))
    return (values, orientation if orientation in range(1, 9) else 1), pages


def _check_tags(content: bytes) -> None:
    """ItemError for a tag of so many numbers that, as Python's, they would fill the memory: strips have one each."""
    order, is_big = "<" if content[:2] == b"II" else ">", content[2:4] in (b"\x2b\0", b"\0\x2b")
    head, entry, step = ("Q", "HHQ", 20) if is_big else ("H", "HHL", 12)
    try:
        (start,) = struct.unpack_from(order + ("Q" if is_big else "L"), content, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + head, content, start)
        start += struct.calcsize(order + head)
        for number in range(min(entries, 65535)):
            tag, kind, count = struct.unpack_from(order + entry, content, start + number * step)
            if kind not in _TEXT and count > _MAX_NUMBERS:
                raise ItemError(f"{count} numbers in tag {tag}, expected at most {_MAX_NUMBERS}")
    except struct.error:
        # cut off: the reader reports it
        return


def _further_pages(file: "tifffile.TiffFile") -> int:
    """Pages after the first one, without copies of it in smaller sizes and masks."""
    pages, offsets = 0, {file.pages.first.offset}
    try:
        for page in itertools.islice(file.pages, 1, _MAX_PAGES):
            if page.offset in offsets:
                break
            offsets.add(page.offset)
            pages += not (cast("tifffile.TiffPage", page).subfiletype & _REDUCED_OR_MASK)
    # a damaged chain of pages: the first page is read all the same
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, struct.error):
        pass
    return pages


def _is_photograph(page: "tifffile.TiffPage") -> bool:
    """Unsigned codes of at most 16 bits in the colours that pictures have, with alpha perhaps."""
    colours = _COLOURS.get(int(page.photometric), 0)
    extra = page.samplesperpixel - colours
    bits = np.max(page.bitspersample)
    has_alpha = extra == 1 and [int(kind) for kind in page.extrasamples][:1] in _ALPHA
    # gray of 16 bits with alpha Pillow does not know, and samples of 16 bits in planes it takes for others
    is_known = bits <= 8 or (bits <= 16 and page.planarconfig == _CONTIGUOUS and (colours > 1 or not extra))
    is_unsigned = page.sampleformat == _UNSIGNED and page.imagedepth == 1
    return colours > 0 and (extra == 0 or has_alpha) and bool(is_known) and is_unsigned


def _check_codec(page: "tifffile.TiffPage", itemsize: int) -> None:
    """An error for what cannot be decoded here, or would take more room than the image has."""
    name = page.compression.name if hasattr(page.compression, "name") else str(page.compression)
    if page.compression not in _COMPRESSIONS:
        raise ItemError(f"values compressed as {name}; expected none, LZW, deflate, packbits, LZMA or zstd")
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        if page.compression not in _BUILT_IN or page.predictor == _FLOATING_POINT:
            raise MissingExtraError(
                f"a TIFF of {page.samplesperpixel} bands compressed as {name} needs imagecodecs",
                hint="pip install 'functaconv[tiff]'",
            ) from None
    if page.compression in _DEFLATE:
        _check_deflated(page, itemsize)


def _check_deflated(page: "tifffile.TiffPage", itemsize: int) -> None:
    """zlib is not told how much to make of a segment."""
    rows, columns = min(page.rowsperstrip, page.imagelength), page.imagewidth
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    samples = page.samplesperpixel if page.planarconfig == _CONTIGUOUS else 1
    most = rows * columns * samples * itemsize
    file = page.parent.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        if len(zlib.decompressobj().decompress(file.read(count), most + 1)) > most:
            raise ItemError(f"a strip or tile that expands to more than its {most} bytes")


def _without_nodata(values: np.ndarray, nodata: object) -> np.ndarray:
    try:
        missing = float(str(nodata))
    except ValueError:
        return values
    is_missing = values == missing
    # float32 does not hold every integer of four bytes
    if (values.dtype.itemsize > 2 and values.dtype.kind != "f") or not is_missing.any():
        return values
    return np.where(is_missing, np.float32(np.nan), values.astype(np.float32))
