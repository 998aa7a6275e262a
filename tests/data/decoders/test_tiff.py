"""TIFFs as science has them: bands are channels, and values are kept, against what tifffile was given to write."""

import io
import struct
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tifffile

from functaconv.data import limits
from functaconv.data.decoders import decode
from functaconv.data.ignored import LOW_BITS, PAGES
from functaconv.data.items import Item, Record
from functaconv.errors import ItemError, MissingExtraError
from functaconv.modalities import Axes

RNG = np.random.default_rng(0)


def written(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"metadata": None, **options})
    return buffer.getvalue()


def read(content: bytes, ignored: Counter[str] | None = None, **options: Any) -> Item:
    return decode(Record(0, 0, "key", {"tif": content}), ignored=ignored, **options)


def integers(dtype: str, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


BANDS = integers("uint16", 9, 7, 13)
RGBN = integers("uint8", 9, 7, 4)
VALUES = {
    "13 bands": (written(BANDS, photometric="minisblack", planarconfig="contig"), BANDS),
    "13 bands, one after another": (
        written(np.moveaxis(BANDS, -1, 0).copy(), photometric="minisblack", planarconfig="separate"),
        BANDS,
    ),
    "13 bands in tiles, big endian": (
        written(BANDS, photometric="minisblack", planarconfig="contig", tile=(16, 16), byteorder=">"),
        BANDS,
    ),
    "13 bands of a BigTIFF": (written(BANDS, photometric="minisblack", planarconfig="contig", bigtiff=True), BANDS),
    "13 bands, deflate": (
        written(BANDS, photometric="minisblack", planarconfig="contig", compression="zlib", predictor=True),
        BANDS,
    ),
    "colour and infrared": (written(RGBN, photometric="rgb", extrasamples=[0]), RGBN),
    "four bands": (written(RGBN, photometric="minisblack", planarconfig="contig"), RGBN),
    "two bands": (written(RGBN[..., :2].copy(), photometric="minisblack", planarconfig="contig"), RGBN[..., :2]),
    "signed": (written(integers("int16", 9, 7)), None),
    "signed bytes": (written(integers("int8", 9, 7)), None),
    "long": (written(integers("uint32", 9, 7)), None),
    "heights": (written((RNG.normal(size=(9, 7)) * 900).astype(np.float32)), None),
    "heights, double": (written(RNG.normal(size=(9, 7)) * 900), None),
    "heights, half": (written((RNG.normal(size=(9, 7)) * 900).astype(np.float16)), None),
    "colour of high range": (written((RNG.random((9, 7, 3)) * 4).astype(np.float32), photometric="rgb"), None),
}


def test_bands_and_values_are_kept() -> None:
    for name in VALUES:
        content, given = VALUES[name]
        expected = tifffile.imread(io.BytesIO(content)) if given is None else given
        item = read(content)
        assert (item.kind, item.peak, item.has_bands) == ("array", None, True)
        expected = expected.reshape(9, 7, -1)
        assert item.array.shape == expected.shape
        # floats are of four bytes in all that follows
        assert item.array.dtype == (np.float32 if expected.dtype.kind == "f" else expected.dtype)
        np.testing.assert_array_equal(item.array, expected.astype(item.array.dtype))
        axes = Axes.of([item, item])
        assert (axes.kind, axes.dims, axes.channels, axes.channel_axis) == ("array", 2, expected.shape[-1], "last")
        np.testing.assert_array_equal(axes.signal(item).values, item.array)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_colour_in_the_unit_range_are_images(dtype: str, channels: int) -> None:
    values = RNG.random((9, 7, channels)).astype(dtype)
    item = read(written(values.squeeze(), photometric="rgb" if channels == 3 else "minisblack"))
    assert (item.kind, item.peak, item.array.dtype) == ("image", 1.0, np.float32)
    np.testing.assert_array_equal(item.array, values.astype(np.float32))
    gray = read(written(values.squeeze(), photometric="rgb" if channels == 3 else "minisblack"), channels=1)
    assert gray.array.shape == (9, 7, 1)
    np.testing.assert_allclose(
        gray.array[..., 0], values @ ([0.299, 0.587, 0.114] if channels == 3 else [1]), atol=1e-6
    )


def test_images_of_floats_are_arrays_beside_others_that_hold_more() -> None:
    flat = read(written(RNG.random((9, 7)).astype(np.float32)))
    high = read(written((900 * RNG.random((9, 7))).astype(np.float32)))
    for items in ([flat, high], [high, flat]):
        axes = Axes.of(items)
        assert (axes.kind, axes.channels) == ("array", 1)
        for item in items:
            signal = axes.signal(item)
            assert signal.peak is None
            np.testing.assert_array_equal(signal.values, item.array)
    assert Axes.of([flat]).kind == "image"
    assert Axes.of([flat], modality="array").kind == "array"
    with pytest.raises(ItemError, match=r"this is an array, the base was made for images"):
        Axes.of([flat]).signal(high)


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint8"])
def test_what_gdal_calls_no_data_is_missing(dtype: str) -> None:
    values = np.arange(63).reshape(9, 7).astype(dtype)
    values[2, 3] = 99
    tags = [(42113, "s", 0, "99", True)]
    bands = np.stack([values, values], axis=-1)
    item = read(written(bands, photometric="minisblack", planarconfig="contig", extratags=tags))
    assert item.array.dtype == np.float32
    assert np.isnan(item.array[2, 3]).all()
    assert np.isnan(item.array).sum() == 2
    np.testing.assert_array_equal(item.array[3], bands[3])
    # a tag that speaks of no value of these changes nothing
    assert read(written(bands, photometric="minisblack", planarconfig="contig")).array.dtype == dtype


def test_pages_after_the_first_are_counted_but_not_smaller_copies() -> None:
    pages = integers("uint16", 5, 9, 7)
    ignored = Counter[str]()
    np.testing.assert_array_equal(read(written(pages, photometric="minisblack"), ignored).array[..., 0], pages[0])
    assert ignored == {PAGES: 4}
    for byteorder, bigtiff in (("<", True), (">", False)):
        ignored.clear()
        read(written(pages, photometric="minisblack", byteorder=byteorder, bigtiff=bigtiff), ignored)
        assert ignored == {PAGES: 4}
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for subfile in (0, 1, 1, 0):
            writer.write(BANDS, photometric="minisblack", planarconfig="contig", subfiletype=subfile, metadata=None)
    ignored.clear()
    np.testing.assert_array_equal(read(buffer.getvalue(), ignored).array, BANDS)
    assert ignored == {PAGES: 1}


def test_a_width_that_is_a_list_of_numbers_is_refused() -> None:
    content = bytearray(written(integers("uint16", 40, 40, 5), photometric="minisblack"))
    (first,) = struct.unpack_from("<L", content, 4)
    tag, kind, _ = struct.unpack_from("<HHL", content, first + 2)
    assert tag == 256
    struct.pack_into("<HHLL", content, first + 2, tag, kind, 200, len(content) // 2)
    with pytest.raises(ItemError, match="list of numbers"):
        read(bytes(content))


def test_sixteen_bits_of_colour_become_eight_which_is_counted() -> None:
    colour = integers("uint16", 9, 7, 3)
    ignored = Counter[str]()
    item = read(written(colour, photometric="rgb"), ignored)
    assert (item.kind, item.peak) == ("image", 255)
    np.testing.assert_array_equal(item.array, colour >> 8)
    assert ignored == {LOW_BITS: 1}
    # Pillow takes the samples of planes for others
    item = read(written(np.moveaxis(colour, -1, 0).copy(), photometric="rgb", planarconfig="separate"))
    assert item.kind == "array"
    np.testing.assert_array_equal(item.array, colour)


def test_photographs_lose_nothing() -> None:
    for array in (RGBN[..., :3].copy(), RGBN[..., 0].copy(), integers("uint16", 9, 7)):
        ignored = Counter[str]()
        item = read(written(array, photometric="rgb" if array.ndim == 3 else "minisblack"), ignored)
        assert item.kind == "image"
        np.testing.assert_array_equal(item.array.squeeze(), array)
        assert not ignored


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zstd", "lzma"])
def test_what_imagecodecs_decodes_is_read_with_it(compression: str) -> None:
    pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")
    content = written(BANDS, photometric="minisblack", planarconfig="contig", compression=compression)
    np.testing.assert_array_equal(read(content).array, BANDS)
    heights = (RNG.normal(size=(9, 7)) * 900).astype(np.float32)
    content = written(heights, compression=compression, predictor=3)
    np.testing.assert_array_equal(read(content).array[..., 0], heights)


def test_without_imagecodecs_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")
    lzw = written(BANDS, photometric="minisblack", planarconfig="contig", compression="lzw")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtraError, match="13 bands compressed as LZW needs imagecodecs"):
        read(lzw)


def test_compressions_that_may_take_any_room_are_refused() -> None:
    pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")
    content = written(RGBN, photometric="minisblack", planarconfig="contig", compression="jpegxl")
    with pytest.raises(ItemError, match="tif: values compressed as JPEGXL; expected none, LZW"):
        read(content)


@pytest.mark.parametrize("name", ["13 bands", "13 bands, deflate", "colour and infrared", "heights"])
def test_cut_and_flipped_bytes_raise_nothing_but_item_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, _ = VALUES[name]
    whole = read(content).array
    refused = 0
    for length in range(0, len(content), 37):
        try:
            array = read(content[:length]).array
        except ItemError:
            refused += 1
        else:
            np.testing.assert_array_equal(array, whole)
    assert refused > 5
    monkeypatch.setattr(limits, "EXPANDED", 1 << 20)
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(min(len(content), 400), size=3):
            damaged[place] = rng.integers(256)
        try:
            read(bytes(damaged))
        except ItemError:
            refused += 1
    assert refused > 20
