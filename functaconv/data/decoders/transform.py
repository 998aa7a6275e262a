"""Images resized, cropped and turned, before they are fitted."""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from functaconv.data import limits
from functaconv.errors import ItemError, UsageError

# while one channel is resized: Pillow's copy and ours, as floats
_BYTES_PER_RESIZED = 8
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


def check_untransformed(transform: ImageTransform | None, where: str = "", found: str = "an array") -> None:
    """ItemError where something else than an image is to be resized or cropped."""
    if transform not in (None, ImageTransform()):
        raise ItemError(f"{where}resizing and cropping are for images, found {found}")


def transform_image(array: np.ndarray, peak: float, transform: ImageTransform) -> np.ndarray:
    """The image resized and cropped; the very same values where its size is already right."""
    if transform.resize is not None:
        array = _resized(array, peak, transform.resize)
    if transform.crop is not None:
        array = _cropped(array, transform.crop)
    return array


def _resized(array: np.ndarray, peak: float, size: Size) -> np.ndarray:
    height, width = array.shape[:2]
    short = min(height, width)
    if isinstance(size, int):
        size = (max(1, round(height * size / short)), max(1, round(width * size / short)))
    if size == (height, width):
        return array
    # Pillow resizes along the width first
    pixels = size[1] * max(size[0], height)
    needed = pixels * (array.shape[2] * array.itemsize + _BYTES_PER_RESIZED)
    if needed > limits.EXPANDED:
        raise ItemError(
            f"resizing to {size[0]} x {size[1]} pixels needs {needed} bytes, expected at most {limits.EXPANDED}"
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


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as they are to be seen, by the orientation 1 to 8 of EXIF 2.32, table 6."""
    array = array.swapaxes(0, 1) if orientation > 4 else array
    array = array[:, ::-1] if orientation in (2, 3, 6, 7) else array
    return array[::-1] if orientation in (3, 4, 7, 8) else array
