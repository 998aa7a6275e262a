"""From the bytes of an image file to height x width x channel, channels last: 1 for gray, 3 for colour.

Less usual images:

- transparency (an alpha channel, a transparent colour or palette entry) is composited over white;
- palette, CMYK, YCbCr and Lab images become RGB (CMYK without colour management, as Pillow does it);
- 16-bit gray stays uint16; 16-bit colour, and 16-bit gray with alpha, become 8-bit: Pillow reads the high
  byte only;
- TIFFs of other bands than a picture has, of floats, signed or long integers keep their values: as an image where
  they are gray or colour in 0..1, else as an array whose last axis is the bands;
- of several pages or frames the first is taken; the EXIF orientation is applied.
"""

import io
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
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

from functaconv.data import limits
from functaconv.data.decoders.tiff import read_tiff
from functaconv.data.decoders.transform import upright
from functaconv.data.ignored import FRAMES, LOW_BITS, PAGES, ignore
from functaconv.data.limits import check_ahead
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
# scans x pixels of a JPEG
_MAX_SCANNED = 1 << 32
# weights of red, green and blue, of ITU-R 601
_GRAY = (0.299, 0.587, 0.114)
# pixels that are converted to RGB together
_STRIP = 1 << 22
_ORIENTATION = 0x0112
# suffixes with their formats, in the order of preference when a record has several: a jpg beside a tif is a quick look,
# a png beside a jpg is a mask
IMAGE_SUFFIXES = {
    "tif": "TIFF", "tiff": "TIFF", "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "webp": "WebP",
    "png": "PNG", "bmp": "BMP", "dib": "BMP", "ppm": "PNM", "pgm": "PNM", "pbm": "PNM", "pnm": "PNM", "pfm": "PNM",
    "gif": "GIF",
}  # fmt: skip

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


def decode_image(
    content: bytes, name: str, suffix: str, *, channels: int | None, ignored: Counter[str]
) -> tuple[np.ndarray, float | None]:
    """Height x width x channel of a file of the format `name`, and the code of full intensity.

    That is 255, 4095, 65535 or 1.0; None where the values are no intensities. `suffix` is for messages, `ignored`
    counts what is lost.
    `channels` None leaves gray 1 and every colour 3; 1 or 3 converts, gray by ITU-R 601.
    """
    if name == "WebP" and not features.check("webp"):
        raise ItemError(f"{suffix}: the installed Pillow was built without WebP")

    def check_size(width: int, height: int, each: int) -> None:
        if width * height > limits.PIXELS:
            raise ItemError(f"{width} x {height} pixels, expected at most {limits.PIXELS} in all")
        if each * width * height > limits.EXPANDED:
            raise ItemError(f"{width} x {height} pixels need more than {limits.EXPANDED} bytes")

    try:
        bands, pages = read_tiff(content, check_size) if name == "TIFF" else (None, 0)
        if bands is not None:
            array, orientation = bands
            peak = _peak_of_values(array)
        else:
            array, peak, orientation = _decoded(content, name, check_size, ignored)
        if pages:
            ignore(ignored, PAGES, pages)
    except ItemError as error:
        raise ItemError(f"{suffix}: {error}") from error
    except _IMAGE_ERRORS as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ItemError(f"{suffix}: expected a complete {name} image, found damaged data ({reason})") from error
    array = np.ascontiguousarray(upright(array, orientation))
    return array if peak is None else _with_channels(array, channels), peak


def _decoded(
    content: bytes, name: str, check_size: Callable[[int, int, int], None], ignored: Counter[str]
) -> tuple[np.ndarray, float | None, int]:
    """Pixels as stored, the code of full intensity, and the orientation."""
    with _PLUGINS[name](io.BytesIO(content)) as image:
        width, height = image.size
        each = _BYTES_PER_PIXEL.get(image.mode) or _BYTES_PER_PIXEL.get(name, 4)
        check_size(width, height, each)
        if name == "JPEG":
            _check_scans(content, width * height)
        rawmode, most = _rawmode(image)
        if image.mode[0] not in "IF" and (";16" in rawmode or most > 255):
            ignore(ignored, LOW_BITS)
        check_ahead(2 * each * width * height)
        image.load()
        array, peak = _pixels(image, name, rawmode)
        orientation = _orientation(image)
        if frames := _frames(image):
            ignore(ignored, FRAMES, frames)
        return array, peak, orientation


def _check_scans(content: bytes, pixels: int) -> None:
    """ItemError for a JPEG with so many scans, each through all pixels, that decoding it would take minutes."""
    # within coded data a byte of 255 is never followed by this one
    scans = content.count(b"\xff\xda")
    if scans * pixels > _MAX_SCANNED:
        raise ItemError(f"{scans} scans of {pixels} pixels each")


def _frames(image: ImageFile.ImageFile) -> int:
    """Frames after the first one, of formats that have some; of a GIF the image then stands at another one."""
    if not isinstance(image, (PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile, GifImagePlugin.GifImageFile)):
        return 0
    try:
        return int(getattr(image, "n_frames", 1)) - 1
    except _IMAGE_ERRORS:
        # the frames after the first are damaged: at least one is there
        return 1


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
    # NaN is in no range
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
    return value if isinstance(value, int) and value in range(1, 9) else 1


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
