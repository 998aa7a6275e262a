"""The files below a folder that are packed, always in the same order."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from functaconv.data.decoders import OTHER_IMAGES
from functaconv.data.decoders.images import IMAGE_SUFFIXES
from functaconv.data.folder import clean_key
from functaconv.data.grids import FIELD_SUFFIXES
from functaconv.data.ignored import APPLE_DOUBLE, HIDDEN, LOOPS, NO_SUFFIX, ignore
from functaconv.data.meshes import MESH_SUFFIXES
from functaconv.data.naming import printable
from functaconv.errors import InputError

ZARR, ZIP = "zarr", "zip"
IMAGE, ARRAY, VOXELS, GRID = "images", "arrays", "voxels", "grids"
KINDS = {
    **dict.fromkeys((*IMAGE_SUFFIXES, *OTHER_IMAGES), IMAGE),
    **dict.fromkeys(("npy", "npz"), ARRAY),
    **dict.fromkeys(("binvox", *MESH_SUFFIXES), VOXELS),
    **dict.fromkeys((*FIELD_SUFFIXES, ZARR), GRID),
}
Look = Callable[[Path], str | None]
"""what a file or folder is looked at as; None for a file that is ignored, and a folder that is gone into"""


@dataclass(frozen=True, slots=True)
class File:
    """A file, a zarr store or the URL of one, that is to be packed."""

    place: Path | str
    suffix: str
    """what it is looked at as"""
    key: str
    shown: str
    """below the source, for messages"""
    label: int = -1
    problem: str | None = None
    """why it cannot be packed, where that is known already"""

    @property
    def kind(self) -> str:
        return KINDS[self.suffix]


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a source that are packed, in the order of their paths."""

    files: tuple[File, ...]
    ignored: Counter[str]
    classes: tuple[str, ...] = ()
    is_lone: bool = False
    """whether the source is the one file: what is wrong with it is an error"""


def walk(folder: Path, look: Look, *, exclude: Path | None = None) -> Selection:
    """All files below `folder` that are wanted, and all folders that are as they are, such as stores; sorted by path.

    Hidden files and folders are left out. Links to folders are followed unless they lead back to where the
    walk came through. `exclude` is a folder not to enter. The classes are the sub-folders, if every file lies in one.
    """
    ignored: Counter[str] = Counter()
    files: list[File] = []
    tops: list[str] = []
    taken: set[str] = set()
    for path, suffix in _files(folder, (), None if exclude is None else exclude.resolve(), look, ignored):
        if suffix is None:
            ignore(ignored, path.suffix.lower() or NO_SUFFIX)
            continue
        name = path.relative_to(folder)
        key = _unique(clean_key(name.with_suffix("").as_posix()), taken)
        files.append(File(path, suffix, key, printable(name.as_posix())))
        tops.append(name.parts[0] if len(name.parts) > 1 else "")
    classes = tuple(sorted(set(tops))) if all(tops) else ()
    labels = {name: label for label, name in enumerate(classes)}
    labelled = (replace(file, label=labels.get(top, -1)) for file, top in zip(files, tops, strict=True))
    return Selection(tuple(labelled), ignored, classes)


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
    look: Look,
    ignored: Counter[str],
) -> Iterator[tuple[Path, str | None]]:
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
        elif (suffix := look(path)) is None and entry.is_dir():
            if exclude is None or path.resolve() != exclude:
                yield from _files(path, (*above, here), exclude, look, ignored)
        else:
            # a link to nowhere, or what is no file, is packed too: it fails with a reason
            yield path, suffix
