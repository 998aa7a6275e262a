"""A functaset as files: its attributes, its arrays as they lie on disk, and what lies beside them."""

from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from functaconv.documents import parse_json
from functaconv.errors import InputError
from functaconv.functaset.attributes import parse_attributes
from functaconv.functaset.blocks import Failure
from functaconv.functaset.files import array_bytes, problems, read_bytes, read_json, whole_file
from functaconv.functaset.schema import BASE, FAILED, REPORT, Column, columns, shown, vectors
from functaconv.functaset.stored_array import HINT, StoredArray, difference, open_array

# bytes of a base (the largest that a recipe may ask for), and of `failed.jsonl` (millions of lines)
MOST_BASE, MOST_FAILURES = 9 << 30, 1 << 30
_FAILURE = TypeAdapter(Failure)
_RESTORE = "restore it from a copy"


class Size(NamedTuple):
    """Bytes on disk."""

    store: int
    """the arrays and failures: what grows with the items"""
    base: int


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
        path = whole_file(self.path, FAILED, MOST_FAILURES)
        try:
            with path.open("rb") as file:
                for line in file:
                    yield _FAILURE.validate_python(parse_json(line))
        except (OSError, ValueError) as error:
            reason = problems(error) if isinstance(error, ValidationError) else error
            raise InputError(f"{path}: cannot be read: {reason}", hint=_RESTORE) from error

    @property
    def report(self) -> dict[str, Any]:
        """What `encode` reported."""
        path = self.path / REPORT
        report = read_json(path)
        if not isinstance(report, dict):
            raise InputError(f"{path}: expected an object, found {shown(report)}", hint=_RESTORE)
        for name in ("count", "failed"):
            if not isinstance(report.get(name), int):
                raise InputError(f"{path}: {name} is {shown(report.get(name))}, expected a number", hint=_RESTORE)
        return report

    def base_bytes(self) -> bytes:
        """The base, as it was when the items were encoded; an InputError for any other."""
        content, digest = read_bytes(self.path, BASE, MOST_BASE), self.attributes.base_sha256
        if (actual := sha256(content).hexdigest()) != digest:
            raise InputError(
                f"{self.path / BASE}: found sha256 {actual}, expected {digest}",
                hint="put back the base that encoded these items: any other decodes them to nonsense",
            )
        return content

    def nbytes(self) -> Size:
        try:
            return Size(array_bytes(self.path), (self.path / BASE).stat().st_size)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read: {error.strerror}", hint=_RESTORE) from error

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
