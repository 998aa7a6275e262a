"""The files beside the arrays of a functaset: its base, its report, the records that failed."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from functaconv.documents import parse_json
from functaconv.errors import InputError
from functaconv.functaset.blocks import Failure
from functaconv.functaset.files import array_bytes, problems, read_bytes, read_json, whole_file
from functaconv.functaset.schema import BASE, FAILED, REPORT, shown

# bytes of a base (the largest that a recipe may ask for), and of `failed.jsonl` (millions of lines)
MOST_BASE, MOST_FAILURES = 9 << 30, 1 << 30
_FAILURE = TypeAdapter(Failure)


@dataclass(frozen=True)
class Size:
    """Bytes on disk."""

    store: int
    """the arrays and failures: what grows with the items"""
    base: int


def read_failures(root: Path) -> Iterator[Failure]:
    """The records that could not be converted, one by one: there may be many."""
    path = whole_file(root, FAILED, MOST_FAILURES)
    try:
        with path.open("rb") as file:
            for line in file:
                yield _FAILURE.validate_python(parse_json(line))
    except (OSError, ValueError) as error:
        reason = problems(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{path}: cannot be read: {reason}", hint="restore it from a copy") from error


def read_report(root: Path) -> dict[str, Any]:
    """What `encode` reported."""
    report = read_json(root / REPORT)
    if not isinstance(report, dict):
        raise InputError(f"{root / REPORT}: expected an object, found {shown(report)}", hint="restore it from a copy")
    for name in ("count", "failed"):
        if not isinstance(report.get(name), int):
            raise InputError(
                f"{root / REPORT}: {name} is {shown(report.get(name))}, expected a number",
                hint="restore it from a copy",
            )
    return report


def read_base_bytes(root: Path, digest: str) -> bytes:
    """The base with this sha256; an InputError for any other."""
    content = read_bytes(root, BASE, MOST_BASE)
    if (actual := sha256(content).hexdigest()) != digest:
        raise InputError(
            f"{root / BASE}: found sha256 {actual}, expected {digest}",
            hint="put back the base that encoded these items: any other decodes them to nonsense",
        )
    return content


def size_of(root: Path) -> Size:
    """Bytes on disk of the functaset."""
    try:
        return Size(store=array_bytes(root), base=(root / BASE).stat().st_size)
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read: {error.strerror}", hint="restore it from a copy"
        ) from error
