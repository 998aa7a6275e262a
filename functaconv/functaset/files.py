"""Files that are either complete or absent, also after a power cut."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from functaconv.errors import InputError
from functaconv.functaset.schema import FAILED


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends without an error."""
    # the name is unique: two processes may write the same file, and the last one wins whole
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def read_json(path: Path) -> Any:
    """The content of a JSON file that must be there and sound."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint=f"restore {path.name} from a copy") from error


def sync(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path, *, skip: str) -> None:
    """`sync` all below `root` but the folder `skip`."""
    for folder, names, files in os.walk(root):
        if Path(folder) == root and skip in names:
            names.remove(skip)
        for name in files:
            sync(Path(folder) / name)
        sync(Path(folder))


def array_bytes(root: Path) -> int:
    """Bytes of what grows with the items: arrays and failures, not the base, report and attributes."""
    arrays = sum(
        file.stat().st_size
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith("_")
        for file in folder.rglob("*")
        if file.is_file()
    )
    return arrays + (root / FAILED).stat().st_size
