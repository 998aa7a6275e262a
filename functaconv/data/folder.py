"""The files below a folder that may become items, always in the same order."""

import errno
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from functaconv.data.ignored import APPLE_DOUBLE, HIDDEN, LOOPS, NO_SUFFIX, ignore
from functaconv.data.naming import printable
from functaconv.errors import InputError

# a USTAR header holds a base name of 100 bytes below a directory of 155; some are left for suffix and number
_LONGEST_NAME, _LONGEST_DIRECTORY = 85, 150


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may become an item."""

    path: Path
    key: str
    """unique in its folder; no dots, so that it is one record of a tar and a safe file name"""
    label: int
    """index into `Folder.classes`; -1 without classes"""


@dataclass(frozen=True, slots=True)
class Folder:
    """The files below a folder that may be packed, and what else there is."""

    candidates: tuple[Candidate, ...]
    ignored: Counter[str]
    """by kind, see `ignored`"""
    classes: tuple[str, ...]
    """the sub-folders, if every candidate lies in one; else empty"""


def walk(folder: Path, is_wanted: Callable[[Path], bool], *, exclude: Path | None = None) -> Folder:
    """All files below `folder` that are wanted, and all folders that are as they are, such as stores; sorted by path.

    Hidden files and folders are left out. Links to folders are followed unless they lead back to where the
    walk came through. `exclude` is a folder not to enter.
    """
    ignored: Counter[str] = Counter()
    paths: list[Path] = []
    for path in _files(folder, (), None if exclude is None else exclude.resolve(), is_wanted, ignored):
        if is_wanted(path):
            paths.append(path)
        else:
            ignore(ignored, path.suffix.lower() or NO_SUFFIX)
    relative = [path.relative_to(folder) for path in paths]
    classes: tuple[str, ...] = ()
    if all(len(path.parts) > 1 for path in relative):
        classes = tuple(sorted({path.parts[0] for path in relative}))
    labels = {name: label for label, name in enumerate(classes)}
    taken: set[str] = set()
    candidates = tuple(
        Candidate(path, _unique(clean_key(short.with_suffix("").as_posix()), taken), labels.get(short.parts[0], -1))
        for path, short in zip(paths, relative, strict=True)
    )
    return Folder(candidates, ignored, classes)


def clean_key(name: str) -> str:
    """A relative path as a key: no dots, no control characters, no `..`, short enough for a tar."""
    parts = [_clean_part(part) for part in printable(name).split("/") if part not in ("", ".", "..")]
    key = "/".join(parts) or "_"
    directory, _, base = key.rpartition("/")
    if len(base.encode()) > _LONGEST_NAME or len(directory.encode()) > _LONGEST_DIRECTORY:
        start = key.encode()[: _LONGEST_NAME - 17].decode("utf-8", "ignore").replace("/", "_")
        key = f"{start}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return key


def _clean_part(part: str) -> str:
    part = re.sub(r"[\x00-\x1f\x7f-\x9f.\\]", "_", part)
    # webdataset skips names that look like __this__
    return (part.strip("_") or "_") if re.fullmatch(r"__.*__", part) else part


def _unique(key: str, taken: set[str]) -> str:
    number, unique = 1, key
    while unique in taken:
        number += 1
        unique = f"{key}_{number}"
    taken.add(unique)
    return unique


def _files(
    folder: Path,
    above: tuple[tuple[int, int], ...],
    exclude: Path | None,
    is_wanted: Callable[[Path], bool],
    ignored: Counter[str],
) -> Iterator[Path]:
    try:
        status = folder.stat()
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        ignore(ignored, LOOPS)
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            ignore(ignored, APPLE_DOUBLE if entry.name.startswith("._") else HIDDEN)
        elif entry.is_dir() and not is_wanted(path):
            if exclude is None or path.resolve() != exclude:
                yield from _files(path, (*above, here), exclude, is_wanted, ignored)
        else:
            # a link to nowhere, or what is no file, is a candidate too: it fails with a reason
            yield path


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, or one that a link leads to; OSError for pipes and devices, which may never end."""
    # a pipe is opened without waiting for a writer
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield stream


def relative_name(path: Path, folder: Path) -> str:
    """The path below `folder` as it can be written to JSON."""
    return printable(path.relative_to(folder).as_posix())
