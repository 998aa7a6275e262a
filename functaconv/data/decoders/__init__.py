"""From a record to an item, without unpickling or running anything.

A member is looked at for its suffix, by an allow-list, and is what its first bytes say. Images: see `images`.
Arrays (npy, npz) keep their shape; float16, float64 and longer become float32, booleans uint8, integers keep their
width. Values that are not finite are legal there; an array without one finite value is not. An npz with several arrays
needs the field `npz:NAME`. With `"packed_bits": [D, H, W]` in the record's json (and `"bit_order": "little"`) an array
holds bits. Voxels (binvox) become 0 and 1 in uint8. An array whose json has latitude and longitude is a grid:
latitude x longitude x channel.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from functaconv.data import limits
from functaconv.data.contents import IMAGES, format_in_words, format_of
from functaconv.data.decoders.arrays import ARRAY_ERRORS, numeric, read_npy, read_npz
from functaconv.data.decoders.attributes import (
    as_grid,
    attributes_of,
    caption_of,
    check_attributes,
    is_grid,
    label_of,
    unpacked,
)
from functaconv.data.decoders.binvox import read_binvox
from functaconv.data.decoders.images import IMAGE_SUFFIXES, decode_image
from functaconv.data.decoders.transform import ImageTransform, check_untransformed, transform_image
from functaconv.data.ignored import beside, ignore, named_otherwise
from functaconv.data.items import OF_GRIDS, Item, Record
from functaconv.errors import ItemError, UsageError

# the suffixes that hold an array, in the order of preference when a record has several
ARRAY_SUFFIXES = (*IMAGE_SUFFIXES, "npy", "npz", "binvox")
# images that are not read: `pack` reports them
OTHER_IMAGES = ("heic", "heif", "avif", "jp2", "jxl", "psd", "svg", "eps", "ico", "tga")

# the hint of errors about shards without a usable item
USABLE_HINT = "shards hold png, jpg, webp, bmp, tif, gif, ppm, npy, npz or binvox members; --field names another suffix"

# the allow-list; of a suffix with dots (`mask.png`) the last part counts
SUFFIXES = frozenset({*ARRAY_SUFFIXES, "cls", "txt", "json"})


def parse_field(field: str, known: Sequence[str] = ARRAY_SUFFIXES) -> tuple[str, str | None]:
    """`png` -> (png, None), `npz:NAME` -> (npz, NAME): the suffix, one of those `known`, and the array inside it."""
    suffix, colon, name = field.strip().partition(":")
    suffix = suffix.lstrip(".").lower()
    if _last(suffix) not in known or (colon and (_last(suffix) != "npz" or not name)):
        raise UsageError(
            f"not a field that can hold an array: {field!r}",
            hint=f"expected one of {', '.join(known)}, or npz:NAME for one array of an npz",
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
    if len(content) > limits.MEMBER:
        raise ItemError(f"{suffix}: {len(content)} bytes, expected at most {limits.MEMBER}")
    content_format = format_of(content)
    if content_format not in _READERS and content_format not in IMAGES:
        raise ItemError(f"{suffix}: expected an image or an array, found {format_in_words(content)}")
    if content_format != PROMISED[_last(suffix)]:
        ignore(ignored, named_otherwise(_last(suffix), content_format))
    item = Item(record.key, np.empty(0), "array", label=label_of(record.fields.get("cls"), ignored))
    if content_format in IMAGES:
        pixels, peak = decode_image(content, content_format, suffix, channels=channels, ignored=ignored)
        item = replace(item, attributes=caption_of(record, ignored))
        if peak is not None:
            array = pixels.astype(np.float32) if pixels.dtype.kind == "f" else pixels
            if transform is not None:
                array = transform_image(array, peak, transform)
            return replace(item, array=array, kind="image", peak=peak)
        check_untransformed(transform, f"{suffix}: ")
        return replace(item, array=numeric(pixels, suffix), has_bands=True)
    check_untransformed(transform, f"{suffix}: ")
    attributes = attributes_of(record)
    array = _decode_array(content, content_format, suffix, None if field is None else parse_field(field)[1])
    if "packed_bits" in attributes:
        array = unpacked(array, attributes)
    if is_grid(attributes):
        # the axes are stored once
        check_attributes({name: value for name, value in attributes.items() if name not in OF_GRIDS})
        return replace(item, array=as_grid(array, attributes), kind="grid", attributes=attributes)
    check_attributes(attributes)
    return replace(item, array=array, attributes=attributes)


def _last(suffix: str) -> str:
    return suffix.rpartition(".")[2]


def _dotted(record: Record) -> list[str]:
    return sorted(suffix for suffix in record.fields if "." in suffix and _last(suffix) in ARRAY_SUFFIXES)


def _decode_array(content: bytes, content_format: str, suffix: str, name: str | None) -> np.ndarray:
    try:
        array = _READERS[content_format](content, name)
    except ARRAY_ERRORS as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ItemError(
            f"{suffix}: expected a complete array, found damaged {content_format} data ({reason})"
        ) from error
    except ItemError as error:
        raise ItemError(f"{suffix}: {error}") from error
    return numeric(array, suffix)


_READERS: dict[str, Callable[[bytes, str | None], np.ndarray]] = {
    "npy": lambda content, _: read_npy(content),
    "zip": read_npz,
    "binvox": lambda content, _: read_binvox(content),
}
# the format that each suffix promises
PROMISED = {**IMAGE_SUFFIXES, "npy": "npy", "npz": "zip", "binvox": "binvox"}
