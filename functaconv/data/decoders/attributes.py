"""Labels and attributes of a record, from its json, txt and cls members."""

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from functaconv.data import limits
from functaconv.data.ignored import CUT_JSON, CUT_TEXT, LARGE_JSON, NO_LABELS, ignore
from functaconv.data.items import Record
from functaconv.data.limits import check_ahead
from functaconv.documents import parse_json
from functaconv.errors import ItemError

_MAX_AXES = 4


def check_attributes(attributes: Mapping[str, Any] | None) -> None:
    """ItemError where json and txt are larger than what is stored with an item."""
    size = len(json.dumps(attributes)) if attributes else 0
    if size > limits.ATTRIBUTES:
        raise ItemError(f"json and txt: {size} characters to be stored, expected at most {limits.ATTRIBUTES}")


def is_grid(attributes: Mapping[str, Any]) -> bool:
    """Whether a record's json has latitudes and longitudes: then its array is a grid."""
    return all(isinstance(attributes.get(name), list) for name in ("latitude", "longitude"))


def unpacked(array: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Occupancy, uint8 0 or 1, of the shape `packed_bits`, out of the bytes that `np.packbits` made of it.

    They are one row for all, or rows along the last axis (`packbits(..., axis=-1)`), each filled up to a whole byte.
    With the `bit_order` little the first voxel is the lowest bit of its byte.
    """
    shape, order = attributes["packed_bits"], attributes.get("bit_order", "big")
    sizes = shape if isinstance(shape, list) and 0 < len(shape) <= _MAX_AXES else [None]
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
        raise ItemError(f"json: packed_bits is {shape!r:.80}, expected the shape of the array, such as [32, 32, 32]")
    if order not in ("big", "little"):
        raise ItemError(f"json: bit_order is {order!r:.80}, expected big or little")
    voxels = math.prod(shape)
    if not all(size > 0 for size in shape) or voxels > limits.EXPANDED:
        raise ItemError(f"json: packed_bits {shape} is more than {limits.EXPANDED} voxels, or none")
    if array.dtype != np.uint8:
        raise ItemError(f"packed bits of type {array.dtype}, expected uint8")
    check_ahead(voxels)
    flat, rows = (-(-voxels // 8),), (*shape[:-1], -(-shape[-1] // 8))
    # the shapes agree with bytes that are there, so no more memory is taken than eight times these
    if array.shape == rows:
        return np.unpackbits(array, axis=-1, count=shape[-1], bitorder=order)
    if array.shape == flat:
        return np.unpackbits(array, count=voxels, bitorder=order).reshape(shape)
    raise ItemError(
        f"packed bits of shape {list(array.shape)}, expected {list(flat)} or {list(rows)} for voxels {shape}"
    )


def as_grid(array: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
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


def label_of(content: bytes | None, ignored: Counter[str]) -> int:
    if content is None:
        return -1
    text = content.removeprefix(codecs.BOM_UTF8).strip()
    if not re.fullmatch(rb"\+?[0-9]{1,18}|-1", text):
        ignore(ignored, NO_LABELS)
        return -1
    return int(text)


def caption_of(record: Record, ignored: Counter[str]) -> dict[str, Any]:
    """Json and txt of an image as attributes; damaged ones are counted and left out."""
    attributes: dict[str, Any] = {}
    for suffix, unreadable in (("json", CUT_JSON), ("txt", CUT_TEXT)):
        if suffix not in record.fields:
            continue
        try:
            parsed = attributes_of(replace(record, fields={suffix: record.fields[suffix]}))
        except ItemError:
            ignore(ignored, LARGE_JSON if len(record.fields[suffix]) > limits.TEXT else unreadable)
            continue
        try:
            check_attributes(attributes | parsed)
        except ItemError:
            ignore(ignored, LARGE_JSON)
            continue
        attributes |= parsed
    return attributes


def attributes_of(record: Record) -> dict[str, Any]:
    """The record's json object (any other json value under "json") and its txt, under "text"."""
    attributes: dict[str, Any] = {}
    for suffix in ("json", "txt"):
        if len(record.fields.get(suffix, b"")) > limits.TEXT:
            raise ItemError(f"{suffix}: {len(record.fields[suffix])} bytes, expected at most {limits.TEXT}")
    if "json" in record.fields:
        try:
            value = parse_json(record.fields["json"])
        except ValueError as error:
            raise ItemError(f"json: expected valid JSON in UTF-8 ({error})") from error
        attributes.update(value if isinstance(value, dict) else {"json": value})
    if "txt" in record.fields:
        try:
            attributes["text"] = record.fields["txt"].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ItemError(f"txt: expected text in UTF-8 ({error})") from error
    return attributes
