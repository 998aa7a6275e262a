"""From a record to an item: nothing here unpickles or runs what it reads.

A member is looked at for its suffix, by an allow-list, and is what its first bytes say. Images: see `images`.
Arrays (npy, npz) keep their shape; float16, float64 and longer become float32, booleans uint8, integers keep their
width. Values that are not finite are legal there; an array without one finite value is not. An npz with several arrays
needs the field `npz:NAME`. With `"packed_bits": [D, H, W]` in the record's json (and `"bit_order": "little"`) an array
holds bits. Voxels (binvox) become 0 and 1 in uint8. An array whose json has latitude and longitude is a grid:
latitude x longitude x channel.
"""

import codecs
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from tokenize import TokenError
from typing import Any, BinaryIO, cast

import numpy as np

from functaconv.data.contents import IMAGES, format_in_words, format_of
from functaconv.data.decoders.binvox import read_binvox, unpack_bits
from functaconv.data.decoders.images import (
    IMAGE_SUFFIXES,
    ImageTransform,
    decode_image,
    parse_size,
    transform_image,
)
from functaconv.data.ignored import CUT_JSON, CUT_TEXT, LARGE_JSON, NO_LABELS, beside, ignore, named_otherwise
from functaconv.data.items import OF_GRIDS, Item, Record
from functaconv.data.limits import DEFAULT_LIMITS, Limits, check_ahead
from functaconv.documents import LITERALS, parse_json
from functaconv.errors import ItemError, UsageError

__all__ = [
    "ARRAY_SUFFIXES",
    "DEFAULT_LIMITS",
    "OTHER_IMAGES",
    "PROMISED",
    "SUFFIXES",
    "USABLE_HINT",
    "ImageTransform",
    "Limits",
    "decode",
    "npy_header",
    "parse_field",
    "parse_size",
    "transform_image",
    "usable_field",
]

ARRAY_SUFFIXES = (*IMAGE_SUFFIXES, "npy", "npz", "binvox")
"""the suffixes that hold an array, in the order of preference when a record has several"""
OTHER_IMAGES = ("heic", "heif", "avif", "jp2", "jxl", "psd", "svg", "eps", "ico", "tga")
"""images that are not read: who packs them wants to hear of it"""

USABLE_HINT = "shards hold png, jpg, webp, bmp, tif, gif, ppm, npy, npz or binvox members; --field names another suffix"
"""for whoever finds no usable item in shards"""

SUFFIXES = frozenset({*ARRAY_SUFFIXES, "cls", "txt", "json"})
"""the allow-list; of a suffix with dots (`mask.png`) the last part counts"""

_ARRAY_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    TokenError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    Warning,
)
_MOST_IN_JSON = 1 << 18
"""values"""
_MOST_IN_HEADER = 10_000
"""bytes of a npy header, as numpy has it"""
_PIECE = 1 << 20
"""bytes that are expanded together"""
_MOST_IN_ZIP = 10_000
"""members: each is an object of Python, and an npz has one for an array"""


def parse_field(field: str) -> tuple[str, str | None]:
    """`png` -> (png, None), `npz:NAME` -> (npz, NAME): the suffix, and the array inside it."""
    suffix, colon, name = field.strip().partition(":")
    suffix = suffix.lstrip(".").lower()
    if _last(suffix) not in ARRAY_SUFFIXES or (colon and (_last(suffix) != "npz" or not name)):
        raise UsageError(
            f"not a field that can hold an array: {field!r}",
            hint=f"expected one of {', '.join(ARRAY_SUFFIXES)}, or npz:NAME for one array of an npz",
        )
    return suffix, name or None


def usable_field(record: Record, field: str | None) -> str | None:
    """The suffix that holds the record's array, or None.

    Without `field` the first of `ARRAY_SUFFIXES` that is there; only without any of them a suffix with dots.
    """
    if field is not None:
        suffix, _ = parse_field(field)
        return suffix if suffix in record.fields else None
    plain = (suffix for suffix in ARRAY_SUFFIXES if suffix in record.fields)
    return next(plain, None) or next(iter(_dotted(record)), None)


def decode(
    record: Record,
    *,
    field: str | None = None,
    channels: int | None = None,
    transform: ImageTransform | None = None,
    limits: Limits = DEFAULT_LIMITS,
    ignored: Counter[str] | None = None,
) -> Item:
    """The record's array with its label and attributes; ItemError says why there is none.

    `channels` (1 or 3) converts images; None leaves gray 1 and every colour 3. Arrays keep theirs.
    `transform` is for images: with one, an array is refused. `ignored` counts what of the record is lost: other
    members that could have been taken, pages and frames, and of images captions and labels that make no sense.
    """
    if record.problem is not None:
        raise ItemError(record.problem)
    ignored = Counter() if ignored is None else ignored
    suffix = usable_field(record, field)
    if suffix is None:
        members = ", ".join(sorted(record.fields)) or "none that can be read"
        raise ItemError(f"no array: found members {members}; expected {field or 'one of ' + ', '.join(ARRAY_SUFFIXES)}")
    dotted = _dotted(record)
    if field is None and suffix in dotted and len(dotted) > 1:
        names = ", ".join(f"{record.key}.{name}" for name in dotted[:3])
        raise ItemError(
            f"{len(dotted)} arrays in one record ({names}): names are one record up to their first dot; "
            "rename the files, or choose one with the field option"
        )
    for other in record.fields:
        if other != suffix and _last(other) in ARRAY_SUFFIXES:
            ignore(ignored, beside(other, suffix))
    content = record.fields[suffix]
    if len(content) > limits.member:
        raise ItemError(f"{suffix}: {len(content)} bytes, expected at most {limits.member}")
    found = format_of(content)
    if found not in _READERS and found not in IMAGES:
        raise ItemError(f"{suffix}: expected an image or an array, found {format_in_words(content)}")
    if found != PROMISED[_last(suffix)]:
        ignore(ignored, named_otherwise(_last(suffix), found))
    item = Item(
        key=record.key,
        array=np.empty(0),
        kind="array",
        label=_label(record.fields.get("cls"), ignored),
        shard=record.shard,
        record=record.record,
    )
    if found in IMAGES:
        decoded = decode_image(
            content, found, suffix, channels=channels, max_pixels=limits.pixels, max_bytes=limits.expanded,
            ignored=ignored,
        )  # fmt: skip
        item = replace(item, attributes=_caption(record, limits, ignored))
        if decoded.peak is not None:
            array = decoded.array.astype(np.float32) if decoded.array.dtype.kind == "f" else decoded.array
            if transform is not None:
                array = transform_image(array, decoded.peak, transform, max_pixels=limits.pixels)
            return replace(item, array=array, kind="image", peak=decoded.peak)
        _check_untransformed(transform, suffix)
        return replace(item, array=_numeric(decoded.array, suffix), has_bands=True)
    _check_untransformed(transform, suffix)
    attributes = _attributes(record, limits)
    array = _decode_array(content, found, suffix, None if field is None else parse_field(field)[1], limits)
    if "packed_bits" in attributes:
        array = _unpacked(array, attributes, limits)
    if is_grid(attributes):
        # the axes are stored once
        check_attributes({name: value for name, value in attributes.items() if name not in OF_GRIDS}, limits)
        return replace(item, array=_as_grid(array, attributes), kind="grid", attributes=attributes)
    check_attributes(attributes, limits)
    return replace(item, array=array, attributes=attributes)


def _check_untransformed(transform: ImageTransform | None, suffix: str) -> None:
    if transform not in (None, ImageTransform()):
        raise ItemError(f"{suffix}: resizing and cropping are for images, found an array")


def check_attributes(attributes: Mapping[str, Any] | None, limits: Limits = DEFAULT_LIMITS) -> None:
    """ItemError where json and txt are more than may travel with an item."""
    size = len(json.dumps(attributes)) if attributes else 0
    if size > limits.attributes:
        raise ItemError(f"json and txt: {size} characters to be stored, expected at most {limits.attributes}")


def is_grid(attributes: Mapping[str, Any]) -> bool:
    """What a record's json says has latitudes and longitudes: an array beside it is a grid."""
    return all(isinstance(attributes.get(name), list) for name in ("latitude", "longitude"))


MOST_AXES = 4


def _unpacked(array: np.ndarray, attributes: Mapping[str, Any], limits: Limits) -> np.ndarray:
    shape, order = attributes["packed_bits"], attributes.get("bit_order", "big")
    sizes = shape if isinstance(shape, list) and len(shape) <= MOST_AXES else [None]
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
        raise ItemError(f"json: packed_bits is {shape!r:.80}, expected the shape of the array, such as [32, 32, 32]")
    if order not in ("big", "little"):
        raise ItemError(f"json: bit_order is {order!r:.80}, expected big or little")
    if not all(size > 0 for size in shape) or math.prod(shape) > limits.expanded:
        raise ItemError(f"json: packed_bits {shape} is more than {limits.expanded} voxels, or none")
    check_ahead(math.prod(shape))
    return unpack_bits(array, shape, little=order == "little")


def _as_grid(array: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """The array as latitude x longitude x channel; an ItemError where it does not go with its axes."""
    axes = {}
    for name, most in (("latitude", 90.0), ("longitude", 720.0)):
        values = attributes[name]
        if not values or not all(isinstance(value, (int, float)) and abs(value) <= most for value in values):
            raise ItemError(f"json: {name} holds something else than degrees from {-most:g} to {most:g}")
        axes[name] = len(values)
    rows, columns = axes.values()
    dims = attributes.get("dims")
    if isinstance(dims, list) and len(dims) == array.ndim and {"latitude", "longitude"} <= set(map(str, dims)):
        # as the json says, in whatever order
        places = [dims.index("latitude"), dims.index("longitude")]
        array = np.moveaxis(array, places, (0, 1))
    elif array.ndim == 3 and array.shape[1:] == (rows, columns) and array.shape[:2] != (rows, columns):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[:2] != (rows, columns):
        raise ItemError(f"found shape {array.shape} for {rows} latitudes and {columns} longitudes")
    return np.ascontiguousarray(array)


def _last(suffix: str) -> str:
    return suffix.rpartition(".")[2]


def _dotted(record: Record) -> list[str]:
    return sorted(suffix for suffix in record.fields if "." in suffix and _last(suffix) in ARRAY_SUFFIXES)


def _decode_array(content: bytes, found: str, suffix: str, name: str | None, limits: Limits) -> np.ndarray:
    try:
        array = _READERS[found](content, name, limits)
    except _ARRAY_ERRORS as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ItemError(f"{suffix}: expected a complete array, found damaged {found} data ({reason})") from error
    except ItemError as error:
        raise ItemError(f"{suffix}: {error}") from error
    return _numeric(array, suffix)


def _read_npy(content: bytes, name: str | None, limits: Limits) -> np.ndarray:  # noqa: ARG001 - one shape for both
    check_ahead(2 * len(content))
    return _read_stream(io.BytesIO(content), len(content), limits)


def _read_binvox(content: bytes, name: str | None, limits: Limits) -> np.ndarray:  # noqa: ARG001 - the same shape
    return read_binvox(content, most_values=limits.expanded // 2)


def _read_npz(content: bytes, name: str | None, limits: Limits) -> np.ndarray:
    if content.count(b"PK\x01\x02") > _MOST_IN_ZIP:
        raise ItemError(f"an archive of more than {_MOST_IN_ZIP} files")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        arrays = {info.filename.removesuffix(".npy"): info for info in archive.infolist()
                  if info.filename.endswith(".npy")}  # fmt: skip
        found = ", ".join(sorted(arrays))[:200] or "none"
        if name is None and len(arrays) != 1:
            raise ItemError(f"{len(arrays)} arrays ({found}), expected one; choose with the field npz:NAME")
        if name is not None and name not in arrays:
            raise ItemError(f"no array {name!r}, found {found}")
        info = arrays[name] if name is not None else next(iter(arrays.values()))
        if info.file_size > limits.expanded:
            raise ItemError(f"{info.filename}: expands to {info.file_size} bytes, expected at most {limits.expanded}")
        # other methods are not written by numpy, and do not decompress in bounded pieces
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ItemError(
                f"{info.filename}: compressed in a way (zip method {info.compress_type}) numpy never writes"
            )
        check_ahead(2 * info.file_size)
        with archive.open(info) as stream:
            return _read_stream(cast(BinaryIO, stream), info.file_size, limits)


def _read_stream(stream: BinaryIO, size: int, limits: Limits) -> np.ndarray:
    """One array in npy format out of `size` bytes; its header is believed only as far as these go."""
    shape, fortran, dtype, start = npy_header(stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ItemError(f"values of type {dtype}, expected integers, floats or booleans")
    if not shape or any(length < 1 for length in shape):
        raise ItemError(f"shape {shape}, expected one axis or more, each of length one or more")
    needed, left = math.prod(shape) * dtype.itemsize, size - start
    if needed > limits.expanded:
        raise ItemError(f"shape {shape} of {dtype} needs {needed} bytes, expected at most {limits.expanded}")
    if needed != left:
        raise ItemError(f"shape {shape} of {dtype} needs {needed} bytes, found {left}")
    content, filled = np.empty(needed, np.uint8), 0
    while piece := stream.read(min(_PIECE, needed + 1 - filled)):
        if filled + len(piece) > needed:
            break
        content[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    if filled != needed or piece:
        raise ItemError(f"shape {shape} of {dtype} needs {needed} bytes, found {filled + len(piece)}")
    return content.view(dtype).reshape(shape, order="F" if fortran else "C")


def npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether the first axis is the fastest, type, and where the values begin."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ItemError(f"npy format {version[0]}.{version[1]}, which is for records; expected numbers (1.0 or 2.0)")
    size = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > _MOST_IN_HEADER:
        raise ItemError(f"a header of {length} bytes, expected at most {_MOST_IN_HEADER}")
    header = io.BytesIO(size + stream.read(length))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with LITERALS:
            shape, fortran, dtype = read(header)
    except MemoryError:
        # what Python's parser says of brackets without end
        raise ItemError("a header that makes no sense") from None
    return shape, fortran, dtype, np.lib.format.MAGIC_LEN + len(size) + length


def _numeric(array: np.ndarray, suffix: str) -> np.ndarray:
    """Native, writable and C-ordered, in one of the types that the rest of the program takes."""
    kind = array.dtype.kind
    if kind == "b":
        # on disk a boolean may be any byte
        return np.ascontiguousarray((array.view(np.uint8) != 0).view(np.uint8))
    dtype = np.dtype(np.float32) if kind == "f" else array.dtype.newbyteorder("=")
    with np.errstate(over="ignore", invalid="ignore"):
        # a copy only where it is needed: arrays may be large, and the readers make new ones
        result: np.ndarray = array.astype(dtype, order="C", copy=not array.flags.writeable)
    if kind == "f":
        finite = np.isfinite(result)
        if not finite.any() and not np.isfinite(array).any():
            raise ItemError(f"{suffix}: no finite value among {array.size}")
        if array.dtype.itemsize > dtype.itemsize and not np.array_equal(finite, np.isfinite(array)):
            raise ItemError(f"{suffix}: values beyond float32 (more than 3.4e38), found {array.dtype}")
    return result


def _label(content: bytes | None, ignored: Counter[str]) -> int:
    if content is None:
        return -1
    text = content.removeprefix(codecs.BOM_UTF8).strip()
    if not re.fullmatch(rb"\+?[0-9]{1,18}|-1", text):
        ignore(ignored, NO_LABELS)
        return -1
    return int(text)


def _caption(record: Record, limits: Limits, ignored: Counter[str]) -> dict[str, Any]:
    """What json and txt say of an image, which is one without them."""
    attributes: dict[str, Any] = {}
    for suffix, unreadable in (("json", CUT_JSON), ("txt", CUT_TEXT)):
        if suffix not in record.fields:
            continue
        try:
            said = _attributes(replace(record, fields={suffix: record.fields[suffix]}), limits)
        except ItemError:
            ignore(ignored, LARGE_JSON if len(record.fields[suffix]) > limits.text else unreadable)
            continue
        try:
            check_attributes(attributes | said, limits)
        except ItemError:
            ignore(ignored, LARGE_JSON)
            continue
        attributes |= said
    return attributes


def _attributes(record: Record, limits: Limits) -> dict[str, Any]:
    """The record's json object (any other json value under "json") and its txt, under "text"."""
    attributes: dict[str, Any] = {}
    for suffix in ("json", "txt"):
        if len(record.fields.get(suffix, b"")) > limits.text:
            raise ItemError(f"{suffix}: {len(record.fields[suffix])} bytes, expected at most {limits.text}")
    if "json" in record.fields:
        try:
            value = parse_json(record.fields["json"], most_values=_MOST_IN_JSON)
        except ValueError as error:
            raise ItemError(f"json: expected valid JSON in UTF-8 ({error})") from error
        attributes.update(value if isinstance(value, dict) else {"json": value})
    if "txt" in record.fields:
        try:
            attributes["text"] = record.fields["txt"].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ItemError(f"txt: expected text in UTF-8 ({error})") from error
    return attributes


_READERS = {"npy": _read_npy, "zip": _read_npz, "binvox": _read_binvox}
PROMISED = {**IMAGE_SUFFIXES, "npy": "npy", "npz": "zip", "binvox": "binvox"}
"""the format that each suffix promises"""
