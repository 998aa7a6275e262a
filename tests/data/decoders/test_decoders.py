"""What becomes of the bytes of images and arrays, and the reasons given when nothing does."""

import contextlib
import io
import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from functaconv.data import limits
from functaconv.data.contents import format_of
from functaconv.data.decoders import SUFFIXES, decode, parse_field, usable_field
from functaconv.data.decoders.transform import ImageTransform, parse_size
from functaconv.data.ignored import CUT_JSON, CUT_TEXT, FRAMES, LARGE_JSON, LOW_BITS, NO_LABELS, named_otherwise
from functaconv.data.items import Record
from functaconv.errors import ItemError, UsageError
from tests.conftest import npy, npz

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
GRAY16 = RNG.integers(0, 65536, (6, 5), dtype=np.uint16)


def record(**fields: bytes) -> Record:
    return Record(0, 0, "key", fields)


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(GRAY if mode == "LA" else RGB)
    image.putalpha(Image.fromarray(ALPHA))
    assert image.mode == mode
    return image


def palette_image(**_: Any) -> Image.Image:
    image = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5) % 3).convert("L")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert image.mode == "P"
    return image


@pytest.mark.parametrize(
    ("suffix", "name", "pixels"),
    [("png", "PNG", GRAY), ("tif", "TIFF", RGB), ("tiff", "TIFF", GRAY), ("bmp", "BMP", RGB)],
)
def test_lossless_images_decode_to_the_pixels_saved(suffix: str, name: str, pixels: np.ndarray) -> None:
    item = decode(record(**{suffix: saved(Image.fromarray(pixels), name)}))
    assert item.kind == "image"
    assert item.peak == 255
    assert item.array.dtype == np.uint8
    assert item.array.flags.c_contiguous
    assert item.array.flags.writeable
    np.testing.assert_array_equal(item.array, pixels.reshape(6, 5, -1))


@pytest.mark.parametrize(("suffix", "name"), [("jpg", "JPEG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_lossy_images_decode_near_the_pixels_saved(suffix: str, name: str) -> None:
    ramp = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[:, None], 32, axis=1)
    item = decode(record(**{suffix: saved(Image.fromarray(ramp).convert("RGB"), name, quality=95)}))
    assert item.array.shape == (32, 32, 3)
    assert np.abs(item.array[..., 0].astype(int) - ramp).mean() < 4


def test_unusual_modes_become_gray_or_colour() -> None:
    for content, expected, tolerance in [
        (saved(with_alpha("LA"), "PNG"), over_white(GRAY[..., None], ALPHA), 1),
        (saved(with_alpha("RGBA"), "PNG"), over_white(RGB, ALPHA), 1),
        (saved(palette_image(), "PNG"), np.array(palette_image().convert("RGB")), 0),
        (
            saved(Image.fromarray(GRAY).convert("1"), "PNG"),
            np.array(Image.fromarray(GRAY).convert("1"))[..., None] * 255,
            0,
        ),
        (saved(Image.fromarray(GRAY16), "PNG"), GRAY16[..., None], 0),
    ]:
        item = decode(record(png=content))
        assert item.array.shape == expected.shape
        assert np.abs(item.array.astype(float) - expected).max() <= tolerance
        assert item.peak == (65535 if item.array.dtype == np.uint16 else 255)


def test_a_transparent_palette_entry_is_white() -> None:
    item = decode(record(png=saved(palette_image(), "PNG", transparency=1)))
    index = np.array(palette_image())
    assert (item.array[index == 1] == 255).all()
    assert (item.array[index == 0] == [255, 0, 0]).all()


def test_palette_entries_with_alpha_are_composited_over_white() -> None:
    item = decode(record(png=saved(palette_image(), "PNG", transparency=bytes([0, 128, 255]))))
    index = np.array(palette_image())
    assert (item.array[index == 0] == 255).all()
    assert np.abs(item.array[index == 1].astype(int) - [127, 255, 127]).max() <= 1
    assert (item.array[index == 2] == [0, 0, 255]).all()


@pytest.mark.parametrize("pixels", [GRAY, GRAY16, RGB], ids=["8 bit", "16 bit", "colour"])
def test_a_transparent_colour_is_white(pixels: np.ndarray) -> None:
    colour = tuple(int(value) for value in pixels[2, 3]) if pixels.ndim == 3 else int(pixels[2, 3])
    item = decode(record(png=saved(Image.fromarray(pixels), "PNG", transparency=colour)))
    assert (item.array[2, 3] == item.peak).all()
    np.testing.assert_array_equal(item.array[0, 0], pixels.reshape(6, 5, -1)[0, 0])


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.merge("CMYK", [Image.new("L", (4, 4), value) for value in (255, 0, 0, 0)])
    item = decode(record(tif=saved(cmyk, "TIFF")))
    np.testing.assert_array_equal(item.array, np.broadcast_to([0, 255, 255], (4, 4, 3)))
    assert decode(record(jpg=saved(cmyk, "JPEG"))).array.shape == (4, 4, 3)


def test_sixteen_bit_big_endian_and_white_is_zero_tiffs_keep_their_meaning() -> None:
    content = saved(Image.fromarray(GRAY16), "TIFF")
    np.testing.assert_array_equal(decode(record(tif=content)).array[..., 0], GRAY16)
    # entry 262 (photometric), of type short, count 1: black is zero -> white is zero
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert entry in content
    inverted = content.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    np.testing.assert_array_equal(decode(record(tif=inverted)).array[..., 0], 65535 - GRAY16)


def test_exif_orientation_is_applied_as_pillow_does() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        expected = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }
        image = Image.fromarray(RGB)
        turned = image if orientation == 1 else image.transpose(expected[orientation])
        for suffix, name in (("png", "PNG"), ("tif", "TIFF")):
            item = decode(record(**{suffix: saved(image, name, exif=exif)}))
            np.testing.assert_array_equal(item.array, np.array(turned))


def test_content_that_is_no_image_or_array_is_refused() -> None:
    for suffix, content, found in [
        ("jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "PostScript"),
        ("png", b"<!DOCTYPE html>", "HTML"),
        ("png", b"", "empty file"),
        ("webp", b"RIFFabcdWAVE", "unknown data"),
        ("npy", b"\x80\x04\x95", "pickle"),
        ("npz", b"\x1f\x8b", "gzip"),
    ]:
        with pytest.raises(ItemError, match=f"{suffix}: expected an image or an array, found .*{found}"):
            decode(record(**{suffix: content}))


FILES: dict[str, bytes] = {
    "png": saved(Image.fromarray(RGB), "PNG"),
    "tif": saved(Image.fromarray(RGB), "TIFF"),
    "bmp": saved(Image.fromarray(RGB), "BMP"),
    "jpg": saved(Image.fromarray(RGB), "JPEG"),
    "webp": saved(Image.fromarray(RGB), "WEBP"),
    "gif": saved(Image.fromarray(RGB).quantize(), "GIF"),
    "ppm": saved(Image.fromarray(RGB), "PPM"),
    "npy": npy(RGB),
    "npz": npz(a=RGB),
}


def test_content_decides_what_a_member_is() -> None:
    for suffix in FILES:
        for name in ("jpg", "png", "npy", "tif"):
            assert_content_decides(suffix, name)


def assert_content_decides(suffix: str, name: str) -> None:
    ignored = Counter[str]()
    item = decode(record(**{name: FILES[suffix]}), ignored=ignored)
    expected = decode(record(**{suffix: FILES[suffix]}))
    assert (item.kind, item.peak) == (expected.kind, expected.peak)
    np.testing.assert_array_equal(item.array, expected.array)
    is_promised = name == suffix
    assert ignored == ({} if is_promised else {named_otherwise(name, str(format_of(FILES[suffix]))): 1})


def test_portable_anymaps_of_sixteen_bits_and_of_floats() -> None:
    ignored = Counter[str]()
    item = decode(record(pgm=b"P5 5 6 65535\n" + GRAY16.astype(">u2").tobytes()), ignored=ignored)
    assert item.peak == 65535
    np.testing.assert_array_equal(item.array[..., 0], GRAY16)
    assert not ignored
    colour = RNG.integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    item = decode(record(ppm=b"P6 5 6 65535\n" + colour.astype(">u2").tobytes()), ignored=ignored)
    assert np.abs(item.array.astype(float) - colour / 257).max() < 1
    assert ignored == {LOW_BITS: 1}
    # rows from the bottom; a negative scale is little endian
    values = RNG.random((6, 5)).astype(np.float32)
    item = decode(record(pfm=b"Pf\n5 6\n-1.0\n" + values[::-1].astype("<f4").tobytes()))
    assert (item.kind, item.peak) == ("image", 1.0)
    np.testing.assert_array_equal(item.array[..., 0], values)
    item = decode(record(pfm=b"Pf\n5 6\n-1.0\n" + (50 * values)[::-1].astype("<f4").tobytes()))
    assert item.kind == "array"
    np.testing.assert_array_equal(item.array[..., 0], 50 * values)


@pytest.mark.parametrize(("suffix", "name"), [("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP")])
def test_of_an_animation_the_first_frame_is_taken_and_the_others_are_counted(suffix: str, name: str) -> None:
    frames = [Image.new("RGB", (5, 6), colour) for colour in ("red", "blue", "lime")]
    ignored = Counter[str]()
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    item = decode(record(**{suffix: saved(frames[0], name, **options)}), ignored=ignored)
    assert np.abs(item.array.astype(int) - [255, 0, 0]).max() <= 2
    assert ignored == {FRAMES: 2}


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_sixteen_bits_of_colour_become_eight_which_is_counted(mode: str) -> None:
    header = struct.pack(">IIBBBBB", 5, 6, 16, 2 if mode == "RGB" else 6, 0, 0, 0)
    colour = RNG.integers(0, 65536, (6, 5, len(mode)), dtype=np.uint16)
    colour[..., 3:] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    ignored = Counter[str]()
    item = decode(record(png=content), ignored=ignored)
    np.testing.assert_array_equal(item.array, colour[..., :3] >> 8)
    assert ignored == {LOW_BITS: 1}


def test_members_that_were_not_taken_are_counted() -> None:
    ignored = Counter[str]()
    fields = {"jpg": FILES["jpg"], "png": FILES["png"], "depth.png": FILES["png"], "npy": FILES["npy"], "cls": b"1"}
    item = decode(Record(0, 0, "key", fields), ignored=ignored)
    assert item.label == 1
    np.testing.assert_array_equal(item.array, decode(record(jpg=FILES["jpg"])).array)
    assert ignored == {"png beside jpg": 1, "depth.png beside jpg": 1, "npy beside jpg": 1}
    ignored.clear()
    decode(Record(0, 0, "key", fields), field="depth.png", ignored=ignored)
    assert ignored == {"jpg beside depth.png": 1, "png beside depth.png": 1, "npy beside depth.png": 1}


def test_cut_and_flipped_bytes_are_item_errors_or_the_array() -> None:
    for suffix in FILES:
        whole = decode(record(**{suffix: FILES[suffix]})).array
        refused = 0
        for length in range(0, len(FILES[suffix]), 3):
            try:
                array = decode(record(**{suffix: FILES[suffix][:length]})).array
            except ItemError:
                refused += 1
            else:
                # the cut took only what follows the pixels
                np.testing.assert_array_equal(array, whole)
        assert refused > 20
        rng = np.random.default_rng(1)
        for _ in range(60):
            damaged = bytearray(FILES[suffix])
            for _ in range(3):
                damaged[rng.integers(len(damaged))] = rng.integers(256)
            with contextlib.suppress(ItemError):
                decode(record(**{suffix: bytes(damaged)}))


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(Image.new("1", (2000, 1000)), "PNG")
    monkeypatch.setattr(limits, "EXPANDED", 1000)
    with pytest.raises(ItemError, match="need more than 1000 bytes"):
        decode(record(png=content))
    monkeypatch.setattr(limits, "PIXELS", 1_000_000)
    with pytest.raises(ItemError, match="2000 x 1000 pixels, expected at most 1000000"):
        decode(record(png=content))


@pytest.mark.parametrize(
    ("pixels", "channels", "expected"),
    [
        (GRAY, 3, lambda: np.repeat(GRAY[..., None], 3, axis=2)),
        (GRAY16, 3, lambda: np.repeat(GRAY16[..., None], 3, axis=2)),
        (RGB, 1, lambda: np.array(Image.fromarray(RGB).convert("L"))[..., None]),
        (RGB, 3, lambda: RGB),
    ],
)
def test_channels_are_converted(pixels: np.ndarray, channels: int, expected: Callable[[], np.ndarray]) -> None:
    item = decode(record(png=saved(Image.fromarray(pixels), "PNG")), channels=channels)
    assert item.array.dtype == pixels.dtype
    np.testing.assert_array_equal(item.array, expected())


def test_resize_comes_before_crop_and_keeps_type_and_range() -> None:
    for transform, shape in [
        (ImageTransform(resize=4), (4, 8)),
        (ImageTransform(resize=(5, 7)), (5, 7)),
        (ImageTransform(crop=10), (10, 10)),
        (ImageTransform(crop=(12, 6)), (12, 6)),
        (ImageTransform(resize=6, crop=(4, 12)), (4, 12)),
        (ImageTransform(), (16, 32)),
    ]:
        for dtype in ("uint8", "uint16", "float32"):
            assert_resized(transform, shape, dtype)


def assert_resized(transform: ImageTransform, shape: tuple[int, int], dtype: str) -> None:
    peak = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    pixels = (np.indices((16, 32)).sum(axis=0) % 2 * peak).astype(dtype)
    suffix, name = ("tif", "TIFF") if dtype == "float32" else ("png", "PNG")
    item = decode(record(**{suffix: saved(Image.fromarray(pixels), name)}), transform=transform)
    assert item.array.shape == (*shape, 1)
    assert item.array.dtype == dtype
    assert item.array.min() >= 0
    assert item.array.max() <= peak
    if transform.resize is None:
        top, left = (16 - shape[0]) // 2, (32 - shape[1]) // 2
        np.testing.assert_array_equal(item.array[..., 0], pixels[top : top + shape[0], left : left + shape[1]])
    elif shape == (4, 8):
        # antialiased: a fine chequerboard becomes gray
        assert abs(float(item.array[1:-1, 1:-1].mean()) / peak - 0.5) < 0.02


def test_an_image_is_not_resized_to_more_than_fits_into_memory() -> None:
    thin = record(png=saved(Image.new("RGB", (20_000, 1)), "PNG"))
    with pytest.raises(ItemError, match=r"resizing to 64 x 1280000 pixels needs [0-9]+ bytes, expected at most"):
        decode(thin, transform=ImageTransform(resize=64, crop=32))


def test_text_that_travels_with_an_item_is_short() -> None:
    long = {"txt": b"a" * 70_000 + b"\n", "json": b'{"a": 1}'}
    with pytest.raises(ItemError, match="json and txt: 70022 characters to be stored, expected at most 65536"):
        decode(record(npy=FILES["npy"], **long))
    # an image is one without it
    ignored = Counter[str]()
    assert decode(record(png=FILES["png"], **long), ignored=ignored).attributes == {"a": 1}
    assert ignored == {LARGE_JSON: 1}
    ignored.clear()
    huge = json.dumps({"a": "b" * (1 << 20)}).encode()
    assert decode(record(png=FILES["png"], json=huge, txt=b"c"), ignored=ignored).attributes == {"text": "c"}
    assert ignored == {LARGE_JSON: 1}
    axes = {"latitude": [round(90 - number * 1e-6, 6) for number in range(8000)], "longitude": [1.0]}
    grid = record(npy=npy(np.zeros((8000, 1), np.float32)), json=json.dumps(axes).encode())
    assert decode(grid).kind == "grid"


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ItemError, match=r"6 x 5 \(height x width\) is smaller than the crop 8 x 8"):
        decode(record(png=FILES["png"]), transform=ImageTransform(crop=8))


def test_sizes_are_read_as_height_by_width() -> None:
    assert parse_size("64") == 64
    assert parse_size("64x48") == (64, 48)


def test_other_sizes_are_usage_errors() -> None:
    for text in ["", "0", "-3", "64x", "64X48", "4x4x4", "1.5", "a", "0x4", "9999999"]:
        with pytest.raises(UsageError, match="not a size"):
            parse_size(text)


def test_arrays_keep_shape_and_values_and_become_native() -> None:
    for dtype, expected in [
        ("float64", "float32"),
        ("float16", "float32"),
        (">f8", "float32"),
        ("bool", "uint8"),
        ("int8", "int8"),
        (">i4", "int32"),
        ("uint64", "uint64"),
    ]:
        array = (np.arange(24) % 2).reshape(2, 3, 4).astype(dtype)
        for fields in ({"npy": npy(array)}, {"npy": npy(np.asfortranarray(array))}, {"npz": npz(anything=array)}):
            item = decode(record(**fields))
            assert (item.kind, item.peak) == ("array", None)
            assert item.array.dtype == np.dtype(expected)
            assert item.array.dtype.isnative
            assert item.array.flags.c_contiguous
            assert item.array.flags.writeable
            np.testing.assert_array_equal(item.array, array)


def test_arrays_without_usable_numbers_are_refused() -> None:
    for array, reason in [
        (np.array([{"a": 1}, None], dtype=object), "type object, expected"),
        (np.zeros(3, dtype=[("a", "f4"), ("b", "i4")]), "expected integers"),
        (np.zeros(3, dtype=complex), "complex128, expected"),
        (np.array(["a", "b"]), "expected integers"),
        (np.zeros((0, 3)), r"shape \(0, 3\), expected"),
        (np.float32(1), r"shape \(\), expected"),
        (np.full((2, 2), np.nan), "no finite value among 4"),
        (np.array([1e300, 0.0]), "beyond float32"),
    ]:
        with pytest.raises(ItemError, match=f"npy: .*{reason}"):
            decode(record(npy=npy(array, allow_pickle=True)))


def test_missing_values_stay_in_the_array() -> None:
    array = np.array([[1, np.nan], [np.inf, 2]], dtype=np.float32)
    np.testing.assert_array_equal(decode(record(npy=npy(array))).array, array)


def npy_header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def test_a_npy_header_is_checked_before_it_is_believed() -> None:
    for content, reason in [
        (npy_header("(1000000, 1000000)") + bytes(8), "needs 4000000000000 bytes, expected at most"),
        (npy_header("(100, 100)") + bytes(8), "needs 40000 bytes, found 8"),
        (npy_header("(2,)") + bytes(12), "needs 8 bytes, found 12"),
        (npy_header("(-2,)") + bytes(8), "each of length one or more"),
        (npy_header("__import__('os').system('true')"), "found damaged npy data"),
        (npy_header("(2,)", "|O") + bytes(16), "type object"),
    ]:
        with pytest.raises(ItemError, match=reason):
            decode(record(npy=content))


def test_an_npz_with_several_arrays_needs_a_name() -> None:
    content = record(npz=npz(first=GRAY, second=RGB))
    with pytest.raises(ItemError, match=r"2 arrays \(first, second\), expected one; .*npz:NAME"):
        decode(content)
    np.testing.assert_array_equal(decode(content, field="npz:second").array, RGB)
    with pytest.raises(ItemError, match="no array 'third', found first, second"):
        decode(content, field="npz:third")


def test_the_field_is_the_first_in_order_of_preference() -> None:
    assert usable_field(record(npy=b"", jpg=b"", png=b"", cls=b""), None) == "jpg"
    assert usable_field(record(npy=b"", jpg=b"", png=b"", cls=b""), "PNG") == "png"
    assert usable_field(record(jpg=b"", tif=b""), None) == "tif"
    assert usable_field(record(npy=b""), "png") is None
    assert usable_field(record(cls=b"", txt=b""), None) is None
    assert usable_field(Record(0, 0, "key", {"mask.png": b""}), None) == "mask.png"
    assert usable_field(record(npz=b""), "npz:a") == "npz"


def test_fields_that_hold_no_array_are_usage_errors() -> None:
    for field in ["pkl", "", "npy:name", "npz:", "cls", "png:0"]:
        with pytest.raises(UsageError, match="not a field"):
            parse_field(field)


def test_nothing_that_runs_code_is_on_the_allow_list() -> None:
    assert not SUFFIXES & {"pkl", "pickle", "pyd", "pth", "pt", "gz", "ten", "tb", "mp", "msgpack", "cbor"}


def test_records_without_an_array_and_with_too_many_say_so() -> None:
    with pytest.raises(ItemError, match="no array: found members cls; expected one of tif"):
        decode(record(cls=b"1"))
    merged = Record(0, 0, "img", {"0001.png": FILES["png"], "0002.png": FILES["png"]})
    with pytest.raises(ItemError, match=r"2 arrays in one record \(img.0001.png, img.0002.png\).*first dot"):
        decode(merged)
    np.testing.assert_array_equal(decode(merged, field="0002.png").array, RGB)
    with pytest.raises(ItemError, match="too large"):
        decode(Record(0, 0, "key", {}, problem="too large"))


def test_label_and_attributes_travel_with_the_item() -> None:
    fields = {"png": FILES["png"], "cls": b" 7\n", "json": json.dumps({"units": "K"}).encode(), "txt": "é".encode()}
    item = decode(Record(3, 14, "a/b", fields))
    assert (item.key, item.label) == ("a/b", 7)
    assert item.attributes == {"units": "K", "text": "é"}
    assert decode(record(png=FILES["png"])).label == -1
    assert decode(record(png=FILES["png"], json=b"[1]")).attributes == {"json": [1]}


def test_an_image_loses_labels_and_captions_that_make_no_sense() -> None:
    for suffix, content, kind in [
        ("cls", b"cat", NO_LABELS),
        ("cls", b"-7", NO_LABELS),
        ("json", b'{"text": "cut', CUT_JSON),
        ("json", b"\xff", CUT_JSON),
        ("json", b'{"variable": "\\ud800"}', CUT_JSON),
        ("txt", b"\xff\xfe", CUT_TEXT),
    ]:
        ignored = Counter[str]()
        item = decode(record(**{"png": FILES["png"], suffix: content}), ignored=ignored)
        assert (item.label, item.attributes) == (-1, {})
        np.testing.assert_array_equal(item.array, RGB)
        assert ignored == {kind: 1}


@pytest.mark.parametrize(("suffix", "content"), [("json", b"{"), ("json", b"\xff"), ("txt", b"\xff\xfe")])
def test_of_an_array_json_and_txt_must_make_sense(suffix: str, content: bytes) -> None:
    # they may say what it is
    with pytest.raises(ItemError, match=f"{suffix}: expected"):
        decode(record(**{"npy": FILES["npy"], suffix: content}))


def test_labels_may_have_white_space_and_a_byte_order_mark() -> None:
    for label in [b"7", b" 7\n", b"7\r\n", b"\xef\xbb\xbf7", b"+7", b"007"]:
        assert decode(record(png=FILES["png"], cls=label)).label == 7


def test_json_may_have_a_byte_order_mark() -> None:
    assert decode(record(png=FILES["png"], json=b'\xef\xbb\xbf{"a": 1}')).attributes == {"a": 1}
