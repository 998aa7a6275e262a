"""Arrays that hold many items along one axis, and their labels."""

import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from functaconv.data import limits
from functaconv.data.decoders.arrays import npy_header
from functaconv.data.folder import opened
from functaconv.data.ignored import ARRAYS, ignore, number_for_each
from functaconv.errors import InputError, ItemError
from functaconv.packing.files import ARRAY, File

_OF_NPZ = "npz:"
# errors for damaged files, encrypted archives and the like
_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class Stored:
    """An array in a file, of which only the header was read."""

    shape: tuple[int, ...]
    """as it is stored: the last axis is the fastest"""
    dtype: np.dtype[Any]
    is_reversed: bool
    """whether the first axis of the array is the fastest (Fortran's order): `shape` is the other way round"""
    stream: BinaryIO

    @property
    def axes(self) -> tuple[int, ...]:
        """The lengths of the axes of the array."""
        return self.shape[::-1] if self.is_reversed else self.shape

    def read(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next values of the file."""
        needed = math.prod(shape) * self.dtype.itemsize
        if needed > limits.EXPANDED:
            raise ItemError(f"shape {shape} of {self.dtype} needs {needed} bytes, at most {limits.EXPANDED}")
        content = self.stream.read(needed)
        if len(content) < needed:
            raise ItemError(f"ends early: {needed - len(content)} more bytes expected")
        return np.frombuffer(content, self.dtype).reshape(shape)

    def split(self, axis: int) -> Iterator[np.ndarray]:
        """The parts along an axis: read one by one where they lie one after another, else the array has to fit."""
        stored_axis = len(self.shape) - 1 - axis if self.is_reversed else axis
        if stored_axis == 0:
            parts: Iterator[np.ndarray] = (self.read(self.shape[1:]) for _ in range(self.shape[0]))
        else:
            parts = iter(np.moveaxis(self.read(self.shape), stored_axis, 0))
        for part in parts:
            yield part.T if self.is_reversed else part


@contextmanager
def stored(path: Path, name: str | None) -> Iterator[Stored]:
    """The array of a npy file, or the one called `name` of an npz; ItemError says why there is none."""
    try:
        with opened(path) as file:
            if name is None:
                yield _headed(file, path.stat().st_size)
                return
            with zipfile.ZipFile(file) as archive:
                info = next((info for info in archive.infolist() if info.filename == f"{name}.npy"), None)
                if info is None:
                    raise ItemError(f"no array {name!r}, found {', '.join(names_of(path)) or 'none'}")
                with archive.open(info) as stream:
                    yield _headed(cast(BinaryIO, stream), info.file_size)
    except _ERRORS as error:
        raise ItemError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def names_of(path: Path) -> list[str]:
    """The arrays of an npz, in its order."""
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            names = [info.filename for info in archive.infolist()]
    except _ERRORS as error:
        raise ItemError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def _headed(stream: BinaryIO, size: int) -> Stored:
    shape, is_reversed, dtype, start = npy_header(stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ItemError(f"values of type {dtype}, expected integers, floats or booleans")
    if (needed := math.prod(shape) * dtype.itemsize) != size - start or not needed:
        raise ItemError(f"shape {shape} of {dtype} needs {needed} bytes, found {size - start}")
    return Stored(shape[::-1] if is_reversed else shape, dtype, is_reversed, stream)


@dataclass(frozen=True, slots=True)
class Stack:
    """An array that is cut into items along an axis."""

    file: File
    array: str | None
    """of an npz"""
    axis: int
    count: int
    labels: tuple[int, ...] | None

    def items(self) -> Iterator[tuple[str, np.ndarray, int]]:
        """Key, array and label (-1 without) of each."""
        with stored(Path(self.file.place), self.array) as array:
            for number, part in enumerate(array.split(self.axis)):
                key = f"{self.file.key}_{number:0{len(str(self.count - 1))}d}"
                yield key, part, self.file.label if self.labels is None else self.labels[number]


def stacks(
    files: Sequence[File], axis: int, labels: str | None, array: str | None, source: Path, ignored: Counter[str]
) -> tuple[list[Stack], list[tuple[File, str]]]:
    """The arrays of the files that can be cut, and the files that cannot, with the reason; `array` chooses one of npz.

    `labels` is the file, below the source or elsewhere, or as `npz:NAME` the array of the same file, with a number for
    each item.
    Arrays of one axis and of as many numbers as items are counted as `ignored`, with the option that takes them.
    """
    label_file = None if labels is None or labels.startswith(_OF_NPZ) else _label_file(labels, files, source)
    usable: list[tuple[File, str | None, tuple[int, ...]]] = []
    others: list[tuple[File, str]] = []
    flat: list[tuple[str, int]] = []
    for file in files:
        path = Path(file.place)
        if label_file is not None and path.resolve() == label_file.resolve():
            continue
        try:
            if file.kind != ARRAY:
                raise ItemError("--split-axis cuts npy and npz files")
            name = _array_of(file, array, axis, labels, flat, ignored)
            with stored(path, name) as it:
                axes = it.axes
            if len(axes) == 1:
                flat.append((file.shown, axes[0]))
                others.append((file, f"an array of one axis ({axes[0]}): each item would be one number"))
            elif axis >= len(axes):
                raise ItemError(f"shape {axes} has no axis {axis}")
            else:
                usable.append((file, name, axes))
        except ItemError as error:
            others.append((file, str(error)))
    counts = {axes[axis] for _, _, axes in usable}
    for name, length in flat:
        if length in counts:
            ignore(ignored, number_for_each(name))
            others = [(file, reason) for file, reason in others if file.shown != name]
    return [
        Stack(file, name, axis, axes[axis], None if labels is None else _labels(file, axes[axis], labels, label_file))
        for file, name, axes in usable
    ], others


def _array_of(
    file: File, array: str | None, axis: int, labels: str | None, flat: list[tuple[str, int]], ignored: Counter[str]
) -> str | None:
    """The array of an npz that is cut: the one that was chosen, or the only one of more than one axis."""
    if file.suffix != "npz":
        return None
    path = Path(file.place)
    names = names_of(path)
    shapes = {}
    for name in names:
        with stored(path, name) as it:
            shapes[name] = it.axes
    usable = [name for name, axes in shapes.items() if len(axes) > 1]
    if array is None and len(usable) != 1:
        listing = ", ".join(f"{name} {axes}" for name, axes in shapes.items())
        raise ItemError(f"{len(names)} arrays ({listing}), expected one to cut; choose with --field npz:NAME")
    chosen = array or usable[0]
    if chosen not in shapes:
        raise ItemError(f"no array {chosen!r}, found {', '.join(names) or 'none'}")
    count = shapes[chosen][axis] if axis < len(shapes[chosen]) else 0
    for name, axes in shapes.items():
        if name == chosen or labels == f"{_OF_NPZ}{name}":
            continue
        if axes == (count,):
            flat.append((f"{_OF_NPZ}{name}", count))
        else:
            ignore(ignored, ARRAYS)
    return chosen


def _label_file(labels: str, files: Sequence[File], source: Path) -> Path:
    folder = source if source.is_dir() else source.parent
    for path in (folder / labels, Path(labels)):
        if path.is_file():
            return path
    known = [file.shown for file in files if file.kind == ARRAY][:5]
    raise InputError(f"no file of labels: {labels}", hint=f"give a file such as {', '.join(known)}, or npz:NAME")


def _labels(file: File, count: int, labels: str, label_file: Path | None) -> tuple[int, ...]:
    """A whole number for each item of a file."""
    try:
        name = labels.removeprefix(_OF_NPZ) if label_file is None else None
        with stored(Path(file.place) if label_file is None else label_file, name) as it:
            axes, dtype = it.axes, it.dtype
            values = it.read(it.shape).ravel() if math.prod(axes) == count else None
    except ItemError as error:
        raise InputError(f"labels {labels}: {error}") from error
    if values is None:
        raise InputError(
            f"labels {labels}: shape {axes}, expected {count} numbers for {file.shown}",
            hint="pack one file of several with its own labels",
        )
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values) or whole.min() < -1:
        raise InputError(f"labels {labels}: values of {dtype} that are no classes, expected 0, 1, ... or -1")
    return tuple(whole.tolist())


def looks_like_a_stack(axes: Sequence[int], lists: Container[int]) -> bool:
    """Whether the first axis may count items: much longer than the others, or as long as one of the `lists` beside."""
    is_long = len(axes) > 2 and axes[0] >= 2 * max(axes[1:])
    return is_long or (len(axes) > 1 and axes[0] > 1 and axes[0] in lists)
