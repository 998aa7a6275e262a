"""From the bytes of an image file to height x width x channel, channels last: 1 for gray, 3 for colour.

What becomes of the less usual ones:

- transparency (an alpha channel, a transparent colour or palette entry) is composited over white;
- palette, CMYK, YCbCr and Lab images become RGB (CMYK without colour management, as Pillow does it);
- 16-bit gray stays uint16; 16-bit colour, and 16-bit gray with alpha, become 8-bit: Pillow reads the high
  byte only;
- TIFFs of other bands than a picture has, of floats, signed or long integers keep their values: as an image where
  they are gray or colour in 0..1, else as an array whose last axis is the bands;
- of several pages or frames the first is taken; the EXIF orientation is applied.
"""

import io
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from functaconv.data.decoders.headers import check_header, check_scans, further_pages, screen_size
from functaconv.data.decoders.tiff import read_bands
from functaconv.data.ignored import FRAMES, LOW_BITS, PAGES, ignore
from functaconv.data.limits import DEFAULT_LIMITS, check_ahead
from functaconv.data.noise import libtiff_heard
from functaconv.errors import ItemError, UsageError

# opening with the plugin's own class is Image.open(formats=[...]) without its warning about large images,
# which could only be silenced for all threads at once; the size is checked here, before pixels are decoded
_PLUGINS: Mapping[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "PNM": PpmImagePlugin.PpmImageFile,
}
# what decoding takes, in units of which a plain image takes one for each of its four bytes: the libraries of some hold
# coefficients, or several canvases, and floats are copied
_BYTES_PER_PIXEL = {"JPEG": 6, "WebP": 8, "F": 6, "I": 6}
# Pillow's pixels lie in blocks; glibc gives those of more than 32 MiB back to the system when they are freed
_BLOCK = 64 << 20
_BYTES_PER_RESIZED = 8
"""while one channel is resized: Pillow's copy and ours, as floats"""
_GRAY = (0.299, 0.587, 0.114)
"""of ITU-R 601"""
_STRIP = 1 << 22
"""pixels that are converted together"""
_ORIENTATION = 0x0112
IMAGE_SUFFIXES = {
    "tif": "TIFF", "tiff": "TIFF", "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "webp": "WebP",
    "png": "PNG", "bmp": "BMP", "dib": "BMP", "ppm": "PNM", "pgm": "PNM", "pbm": "PNM", "pnm": "PNM", "pfm": "PNM",
    "gif": "GIF",
}  # fmt: skip
"""with the format that each promises, in the order of preference when a record has several: a jpg beside a tif is a
quick look, a png beside a jpg is a mask"""

# what Pillow's plugins are known to raise on damaged bytes, and warnings where a caller made them errors; not
# MemoryError: that is about this machine, not about the item
_IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
    ImportError,
    UserWarning,
    RuntimeWarning,
)
Size = int | tuple[int, int]
"""(height, width), or one number: the short side when resizing, both sides when cropping"""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """First resize (Lanczos, antialiased), then cut out the centre."""

    resize: Size | None = None
    crop: Size | None = None


def parse_size(text: str) -> Size:
    """`64` -> 64, `64x48` -> (64, 48): height, then width."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", text.strip())
    if match is None:
        raise UsageError(f"not a size: {text!r}", hint="give one number (64) or height x width (64x48), in pixels")
    height, width = match.groups()
    return int(height) if width is None else (int(height), int(width))


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an image file holds."""

    array: np.ndarray
    """height x width x channel"""
    peak: float | None
    """the code of full intensity (255, 4095, 65535 or 1.0); None where the values are no intensities"""


def decode_image(
    content: bytes,
    name: str,
    suffix: str,
    *,
    channels: int | None,
    max_pixels: int,
    max_bytes: int,
    ignored: Counter[str],
) -> Decoded:
    """The image in a file of the format `name`; `suffix` is for messages, `ignored` counts what is lost.

    `channels` None leaves gray 1 and every colour 3; 1 or 3 converts, gray by ITU-R 601.
    """
    if name == "WebP" and not features.check("webp"):
        raise ItemError(f"{suffix}: the installed Pillow was built without WebP")

    def check_size(width: int, height: int, each: int) -> None:
        if width * height > max_pixels:
            raise ItemError(f"{width} x {height} pixels, expected at most {max_pixels} in all")
        if each * width * height > max_bytes:
            raise ItemError(f"{width} x {height} pixels need more than {max_bytes} bytes")

    try:
        check_header(content, name)
        if (size := screen_size(content, name)) is not None:
            check_size(*size, _BYTES_PER_PIXEL.get(name, 4))
        bands = read_bands(content, check_size) if name == "TIFF" else None
        if bands is not None:
            array, orientation = bands
            peak = _peak_of_values(array)
        else:
            array, peak, orientation = _decoded(content, name, check_size, ignored)
        if name == "TIFF" and (pages := further_pages(content)):
            ignore(ignored, PAGES, pages)
    except ItemError as error:
        raise ItemError(f"{suffix}: {error}") from error
    except _IMAGE_ERRORS as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ItemError(f"{suffix}: expected a complete {name} image, found damaged data ({reason})") from error
    array = np.ascontiguousarray(_ORIENTATIONS[orientation](array))
    return Decoded(array if peak is None else _with_channels(array, channels), peak)


def _decoded(
    content: bytes, name: str, check_size: Callable[[int, int, int], None], ignored: Counter[str]
) -> tuple[np.ndarray, float | None, int]:
    """Pixels as stored, the code of full intensity, and the orientation."""
    cast(Any, Image).core.set_block_size(_BLOCK)
    with _PLUGINS[name](io.BytesIO(content)) as image:
        width, height = image.size
        each = _BYTES_PER_PIXEL.get(image.mode) or _BYTES_PER_PIXEL.get(name, 4)
        check_size(width, height, each)
        if name == "JPEG":
            check_scans(content, width * height)
        if frames := _frames(image, content):
            ignore(ignored, FRAMES, frames)
        rawmode, most = _rawmode(image)
        if image.mode[0] not in "IF" and (";16" in rawmode or most > 255):
            ignore(ignored, LOW_BITS)
        is_libtiff = bool(image.tile) and image.tile[0].codec_name == "libtiff"
        check_ahead(2 * each * width * height)
        with libtiff_heard() if is_libtiff else nullcontext():
            image.load()
            return *_pixels(image, name, rawmode), _orientation(image)


def _frames(image: ImageFile.ImageFile, content: bytes) -> int:
    """Frames after the first one, of formats that have some."""
    if isinstance(image, (PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile)):
        return int(getattr(image, "n_frames", 1)) - 1
    if not isinstance(image, GifImagePlugin.GifImageFile):
        return 0
    # it goes through the file to count them
    with GifImagePlugin.GifImageFile(io.BytesIO(content)) as again:
        try:
            return again.n_frames - 1
        except _IMAGE_ERRORS:
            # those after the first are damaged: there is one at least
            return 1


def transform_image(array: np.ndarray, peak: float, transform: ImageTransform, *, max_pixels: int) -> np.ndarray:
    """The image resized and cropped; the very same values where its size is already right."""
    if transform.resize is not None:
        array = _resized(array, peak, transform.resize, max_pixels)
    if transform.crop is not None:
        array = _cropped(array, transform.crop)
    return array


def _rawmode(image: ImageFile.ImageFile) -> tuple[str, int]:
    """How the pixels are stored and, of PNM, the highest code: after loading neither is known."""
    arguments = image.tile[0].args if image.tile else ()
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    first, second = (*arguments, None, None)[:2]
    is_pnm = isinstance(image, PpmImagePlugin.PpmImageFile) and isinstance(second, int)
    return first if isinstance(first, str) else image.mode, second if is_pnm else 0


def _pixels(image: ImageFile.ImageFile, name: str, rawmode: str) -> tuple[np.ndarray, float | None]:
    """Height x width x 1 or 3, and the code of full intensity."""
    mode, transparent = image.mode, image.info.get("transparency")
    peak: float | None
    if mode.startswith("I;16") or mode == "I":
        array, peak = np.asarray(image).astype(np.uint16), 4095 if rawmode == "I;12" else 65535
    elif mode == "F":
        array = np.asarray(image).astype(np.float32)
        peak = _peak_of_values(array[..., None])
    else:
        if mode in ("1", "L", "RGB"):
            # done below, on values: Pillow's own conversion misses 2, 4 and 16 bit images
            image.info.pop("transparency", None)
        array, peak = _flat_array(image), 255
        if rawmode.startswith("LA;16"):
            array = array[..., 0] if array.ndim == 3 else array
    array = array.reshape(*array.shape[:2], -1)
    # Pillow inverts these itself at 8 bit and below
    if (
        peak is not None
        and name == "TIFF"
        and mode[0] == "I"
        and cast(Any, image).tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    ):
        array = array.dtype.type(peak) - array
    if peak is not None and transparent is not None and mode in ("1", "L", "RGB", "I;16", "I;16B", "I"):
        scale = {"L;2": 85, "L;4": 17}.get(rawmode, 1)
        shift = 8 if rawmode.startswith("RGB;16") else 0
        colour = (np.atleast_1d(np.asarray(transparent, dtype=np.int64)) * scale) >> shift
        if (colour <= peak).all():
            array[(array == colour.astype(array.dtype)).all(axis=-1)] = peak
    return array, None if peak is None else float(peak)


def _peak_of_values(array: np.ndarray) -> float | None:
    """1 for gray or colour as floats in 0..1; None for values that are no intensities."""
    is_picture = array.dtype.kind == "f" and array.ndim == 3 and array.shape[2] in (1, 3)
    # what is not a number is in no range
    return 1.0 if is_picture and bool(((array >= 0) & (array <= 1)).all()) else None


def _flattened(image: Image.Image) -> Image.Image:
    """As L or RGB, over white."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        flat = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        # None only when working in place
        return cast(Image.Image, flat)
    target = {"La": "LA", "RGBa": "RGBA", "P": "RGBA", "PA": "RGBA", "1": "L"}.get(image.mode, image.mode)
    if target not in ("L", "LA", "RGBA"):
        target = "RGB"
    if image.mode != target:
        image = image.convert(target)
    if target not in ("LA", "RGBA"):
        return image
    white = Image.new(target[:-1], image.size, "white")
    white.paste(image.convert(target[:-1]), mask=image.getchannel("A"))
    return white


def _flat_array(image: Image.Image) -> np.ndarray:
    """Height x width, or height x width x channel: a strip at a time, since Pillow's conversions copy several times."""
    width, height = image.size
    rows = max(1, _STRIP // width)
    if rows >= height:
        return np.array(_flattened(image))
    result: np.ndarray | None = None
    for top in range(0, height, rows):
        strip = np.asarray(_flattened(image.crop((0, top, width, min(top + rows, height)))))
        if result is None:
            result = np.empty((height, *strip.shape[1:]), strip.dtype)
        result[top : top + rows] = strip
    assert result is not None
    return result


def _orientation(image: Image.Image) -> int:
    # damaged EXIF says nothing about the pixels; Pillow only warns of it
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _IMAGE_ERRORS:
        return 1
    return value if isinstance(value, int) and value in _ORIENTATIONS else 1


def _turned(array: np.ndarray, quarters: int, mirror: bool) -> np.ndarray:
    """Mirrored left to right, then turned clockwise."""
    return np.rot90(array[:, ::-1] if mirror else array, -quarters)


# EXIF 2.32, table 6: what has to be done to the stored pixels
_ORIENTATIONS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda array: array,
    2: lambda array: _turned(array, 0, True),
    3: lambda array: _turned(array, 2, False),
    4: lambda array: _turned(array, 2, True),
    5: lambda array: _turned(array, 3, True),
    6: lambda array: _turned(array, 1, False),
    7: lambda array: _turned(array, 1, True),
    8: lambda array: _turned(array, 3, False),
}


def _with_channels(array: np.ndarray, channels: int | None) -> np.ndarray:
    if channels is None or array.shape[2] == channels:
        return array
    if channels not in (1, 3):
        raise UsageError(f"images have 1 or 3 channels, not {channels}")
    if channels == 3:
        return np.repeat(array, 3, axis=2)
    if array.dtype == np.uint8:
        return np.array(Image.fromarray(array).convert("L"))[..., None]
    return np.asarray(array @ np.array(_GRAY, array.dtype))[..., None]


def _resized(array: np.ndarray, peak: float, size: Size, max_pixels: int) -> np.ndarray:
    height, width = array.shape[:2]
    short = min(height, width)
    if isinstance(size, int):
        size = (max(1, round(height * size / short)), max(1, round(width * size / short)))
    if size == (height, width):
        return array
    # Pillow resizes along the width first
    pixels = size[1] * max(size[0], height)
    if pixels > max_pixels:
        raise ItemError(f"resizing to {size[0]} x {size[1]} pixels, expected at most {max_pixels} in all")
    needed = pixels * (array.shape[2] * array.itemsize + _BYTES_PER_RESIZED)
    if needed > DEFAULT_LIMITS.expanded:
        raise ItemError(
            f"resizing to {size[0]} x {size[1]} pixels needs {needed} bytes, expected at most {DEFAULT_LIMITS.expanded}"
        )
    resized = np.empty((*size, array.shape[2]), array.dtype)
    for channel in range(array.shape[2]):
        plane = array[..., channel]
        source = Image.fromarray(plane if plane.dtype == np.uint8 else plane.astype(np.float32))
        result = np.asarray(source.resize((size[1], size[0]), Image.Resampling.LANCZOS))
        if plane.dtype != np.uint8:
            # Lanczos overshoots at edges
            result = np.clip(result, 0, peak)
        resized[..., channel] = np.rint(result) if array.dtype.kind == "u" else result
    return resized


def _cropped(array: np.ndarray, size: Size) -> np.ndarray:
    height, width = array.shape[:2]
    rows, columns = (size, size) if isinstance(size, int) else size
    if rows > height or columns > width:
        raise ItemError(f"image of {height} x {width} (height x width) is smaller than the crop {rows} x {columns}")
    top, left = (height - rows) // 2, (width - columns) // 2
    return np.ascontiguousarray(array[top : top + rows, left : left + columns])
