"""A functaset as files: its attributes, its arrays as they lie on disk, and what lies beside them."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from functaconv.errors import InputError
from functaconv.functaset.attributes import parse_attributes
from functaconv.functaset.blocks import Failure
from functaconv.functaset.companions import Size, read_base_bytes, read_failures, read_report, size_of
from functaconv.functaset.schema import Column, columns, vectors
from functaconv.functaset.stored_array import HINT, StoredArray, difference, open_array


class Store:
    """Attributes, arrays and other files of a functaset; nothing but the attributes is read before it is asked for."""

    def __init__(self, path: Path, root: dict[str, Any]) -> None:
        self.path = path
        self.attributes = parse_attributes(root.get("attributes", {}).get("functaconv"), path)
        self.layout = self.attributes.layout
        self._root = root
        # from the consolidated metadata, which was sealed; not from the folders
        self.descriptions = _descriptions(root, path)
        self._stored: dict[str, StoredArray] = {}

    def __len__(self) -> int:
        return self.attributes.count

    @property
    def raw_attributes(self) -> dict[str, Any]:
        """As zarr.json has them."""
        attributes: dict[str, Any] = self._root["attributes"]["functaconv"]
        return attributes

    @cached_property
    def failures(self) -> list[Failure]:
        """The records that could not be converted."""
        return list(self.each_failure())

    def each_failure(self) -> Iterator[Failure]:
        """The failures one by one: there may be many."""
        return read_failures(self.path)

    @property
    def report(self) -> dict[str, Any]:
        """What `encode` reported."""
        return read_report(self.path)

    def base_bytes(self) -> bytes:
        """The base, as it was when the items were encoded."""
        return read_base_bytes(self.path, self.attributes.base_sha256)

    def nbytes(self) -> Size:
        return size_of(self.path)

    def expected(self) -> list[tuple[Column, int]]:
        """The arrays that the attributes promise, each with its length."""
        layout = self.attributes.layout
        return [
            *((column, len(self)) for column in columns(layout, meta="meta" in self.descriptions)),
            *((Column(name, "float32"), layout.latent) for name in vectors(layout)),
        ]

    def stored(self, name: str) -> StoredArray | None:
        """The array as it lies on disk, None if there is none of this name."""
        if name not in self._stored:
            if name not in self.descriptions:
                return None
            self._stored[name] = open_array(self.path, name, self.descriptions[name])
        return self._stored[name]

    def _vector(self, name: str) -> np.ndarray:
        column = Column(name, "float32")
        if problem := difference(self.stored(name), column, self.attributes.latent):
            raise InputError(f"{self.path}: {problem}", hint=HINT)
        values = self._array_of(name).read()
        if not np.isfinite(values).all():
            raise InputError(f"{self.path}: {name} holds values that are not finite", hint=HINT)
        return values

    def _column(self, name: str) -> np.ndarray:
        return self._array_of(name).read()

    def _array_of(self, name: str) -> StoredArray:
        array = self.stored(name)
        if array is None:
            raise InputError(f"{self.path}: {name}: the array is missing", hint=HINT)
        return array


def _descriptions(root: dict[str, Any], path: Path) -> dict[str, Any]:
    """What zarr.json says of each array, by path."""
    consolidated = root.get("consolidated_metadata")
    arrays = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(arrays, dict):
        raise InputError(f"{path}: zarr.json does not describe the arrays", hint=HINT)
    return arrays
