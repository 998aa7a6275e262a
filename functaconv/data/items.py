"""Records as they stand in an archive, and items decoded from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

# attributes of a grid that describe its array and axes, and are the same, or follow from it, for all items
OF_GRIDS = frozenset({"latitude", "longitude", "dims", "shape", "dtype", "n_missing", "variable", "units", "long_name"})
Kind = Literal["image", "array", "grid"]


class DamageError(Exception):
    """What is wrong with the bytes of a shard; the reader of records adds which shard, and where in it."""

    def __init__(
        self, message: str, hint: str = "the archive is incomplete or damaged: fetch or pack it again"
    ) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Record:
    """The members of an archive that share a key, undecoded."""

    shard: int
    """index into the list of shards"""
    record: int
    """position within the shard, from 0"""
    key: str
    fields: Mapping[str, bytes]
    """lower-case suffix without the leading dot -> content; suffixes of the allow-list only"""
    problem: str | None = None
    """why the record cannot be used although the archive is sound (a member over the size limit, say)"""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """kind -> members with its key, or behind it, that are not among the fields"""
    is_joined: bool = False
    """an earlier record with its key has its members: this one is empty"""
    length: int = 0
    """bytes of the stretch of the archive where it lies, headers and all"""


@dataclass(frozen=True, slots=True)
class Item:
    """One decoded array, with its key, before it is fitted to axes."""

    key: str
    array: np.ndarray
    """images: height x width x channel, uint8 or uint16 or float32; grids (latitude and longitude in their
    attributes): latitude x longitude x channel; other arrays: as stored, numeric"""
    kind: Kind
    peak: float | None = None
    """images: the code that means full intensity (255, 65535, 1.0); None for arrays"""
    label: int = -1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """the record's json (and txt, under "text"), to travel with the item"""
    has_bands: bool = False
    """arrays: the last axis holds the bands of a picture's file"""
