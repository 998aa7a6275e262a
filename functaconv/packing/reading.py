"""From the files of a source to samples of shards, or the reasons why there are none."""

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from functaconv.data import limits
from functaconv.data.contents import format_of
from functaconv.data.decoders import ARRAY_SUFFIXES, OTHER_IMAGES, PROMISED, decode
from functaconv.data.decoders.binvox import write_binvox
from functaconv.data.decoders.transform import ImageTransform, check_untransformed, transform_image
from functaconv.data.folder import opened
from functaconv.data.items import Item, Record
from functaconv.data.limits import check_ahead
from functaconv.data.meshes import MESH_SUFFIXES, voxelise
from functaconv.data.noise import now_reading
from functaconv.errors import InputError, ItemError
from functaconv.packing.files import ARRAY, File
from functaconv.packing.grids import Grids
from functaconv.packing.stacks import Stack

NO_RESOLUTION = "a mesh becomes voxels: say how many per side with --resolution"
_OF_NPZ = "--field npz:NAME chooses an array; --split-axis 0 cuts one that holds many items"
Sample = dict[str, str | bytes]
"""the members of a record by suffix, and its key under __key__"""


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be packed."""

    path: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed item, a failure, or what was left out of a file."""

    sample: Sample | None = None
    failure: Failure | None = None
    hint: str | None = None
    """what to do about the failure"""
    ignored: Counter[str] = field(default_factory=Counter)
    """what was left out of the file, by kind"""
    array: tuple[str, tuple[int, ...]] | None = None
    """of an array that is one item, the file and the lengths of its axes"""
    variables: tuple[str, ...] = ()
    """of a grid"""


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read."""

    array: str | None
    """of an npz with several arrays, the name of the one"""
    transform: ImageTransform | None
    resolution: int | None
    is_strict: bool
    """whether a file that cannot be packed is an error: the source is that one file"""


Unit = File | Grids | Stack


def read(unit: Unit, reading: Reading) -> Iterable[Packed]:
    """The items of a file, of an array that holds several, or of files that belong together.

    Images and arrays are read at once, so that several threads can; others, whose libraries do not bear that, or which
    are larger than memory, when they are asked for.
    """
    if isinstance(unit, Grids):
        return _of_grids(unit, reading)
    if isinstance(unit, Stack):
        return _of_stack(unit, reading)
    if unit.suffix in MESH_SUFFIXES:
        return _of_file(unit, reading)
    return list(_of_file(unit, reading))


def _of_grids(grids: Grids, reading: Reading) -> Iterator[Packed]:
    """Each grid of a file: npy, and json with its axes, units and time."""
    first = grids.files[0]
    ignored: Counter[str] = Counter()
    labels = {file.label for file in grids.files}
    try:
        check_untransformed(reading.transform, found="grids")
        for key, array, attributes in grids.items(ignored):
            if attributes["n_missing"] == array.size:
                yield Packed(failure=Failure(first.shown, key, "every value is missing"))
                continue
            sample: Sample = {"__key__": key, "npy": _as_npy(array), "json": json.dumps(attributes).encode()}
            names = attributes["variable"]
            yield Packed(
                _labelled(sample, first.label if len(labels) == 1 else -1),
                variables=(names,) if isinstance(names, str) else tuple(names),
            )
    except (ItemError, InputError) as error:
        yield _failed(first, error, reading)
    yield Packed(ignored=ignored)


def _of_file(file: File, reading: Reading) -> Iterator[Packed]:
    now_reading(file.shown)
    ignored: Counter[str] = Counter()
    try:
        content, axes = _content(file, reading, ignored)
    except (ItemError, InputError) as error:
        yield replace(_failed(file, error, reading), ignored=ignored)
        return
    yield Packed(
        _labelled({"__key__": file.key, **content}, file.label),
        ignored=ignored,
        array=(file.shown, axes) if axes else None,
    )


def _of_stack(stack: Stack, reading: Reading) -> Iterator[Packed]:
    """Each part of an array: npy, and its label."""
    now_reading(stack.file.shown)
    try:
        check_untransformed(reading.transform)
        for key, array, label in stack.items():
            content = _as_npy(array)
            try:
                decode(Record(0, 0, key, {"npy": content}))
            except ItemError as error:
                yield Packed(failure=Failure(stack.file.shown, key, str(error)))
                continue
            yield Packed(_labelled({"__key__": key, "npy": content}, label))
    except ItemError as error:
        yield _failed(stack.file, error, reading)


def _as_npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()


def _failed(file: File, error: ItemError | InputError, reading: Reading) -> Packed:
    if reading.is_strict and isinstance(error, InputError):
        raise error
    # the file's name is printed before the reason anyway
    reason = str(error).removeprefix(f"{file.shown}: ")
    hint = _OF_NPZ if file.suffix == "npz" and reading.array is None else None
    return Packed(failure=Failure(file.shown, file.key, reason), hint=getattr(error, "hint", hint))


def _labelled(sample: Sample, label: int) -> Sample:
    return sample | {"cls": str(label).encode()} if label >= 0 else sample


def _content(file: File, reading: Reading, ignored: Counter[str]) -> tuple[dict[str, bytes], tuple[int, ...]]:
    """The members of the item and, of arrays, the lengths of its axes."""
    if file.problem is not None:
        raise ItemError(file.problem)
    if file.suffix in OTHER_IMAGES:
        expected = ", ".join(ARRAY_SUFFIXES)
        raise ItemError(f"{file.suffix} images are not read; expected one of {expected}: convert it first")
    if file.suffix in MESH_SUFFIXES and reading.resolution is None:
        raise ItemError(f"{file.suffix}: {NO_RESOLUTION}")
    path = Path(file.place)
    try:
        with opened(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > limits.MEMBER:
                raise ItemError(f"{size} bytes, expected at most {limits.MEMBER}")
            check_ahead(size)
            # no more than that: the file may grow
            content = stream.read(size)
    except OSError as error:
        raise ItemError(f"cannot be read: {error.strerror or error}") from error
    if file.suffix in MESH_SUFFIXES:
        assert reading.resolution is not None
        return {"binvox": write_binvox(voxelise(content, file.suffix, reading.resolution, ignored=ignored))}, ()
    return _checked(file, content, reading, ignored)


def _checked(
    file: File, content: bytes, reading: Reading, ignored: Counter[str]
) -> tuple[dict[str, bytes], tuple[int, ...]]:
    """A file that decodes, as it is or transformed; under the suffix of what it is."""
    transform = reading.transform
    item = decode(
        Record(0, 0, file.key, {file.suffix: content}),
        field=None if reading.array is None else f"npz:{reading.array}",
        ignored=ignored,
    )
    if item.peak is None:
        check_untransformed(transform, f"{file.suffix}: ")
    elif transform is not None:
        array = transform_image(item.array, item.peak, transform)
        if not np.array_equal(array, item.array):
            return _encoded(replace(item, array=array)), ()
    return {_true_suffix(file.suffix, content): content}, item.array.shape if file.kind == ARRAY else ()


def _true_suffix(suffix: str, content: bytes) -> str:
    """The suffix, or one that says what the content is, where that is something else."""
    content_format = format_of(content)
    if PROMISED[suffix] == content_format:
        return suffix
    return next(other for other, promised in PROMISED.items() if promised == content_format)


def _encoded(item: Item) -> dict[str, bytes]:
    """The image in a format without loss that decodes to the same values."""
    array = item.array[..., 0] if item.array.shape[2] == 1 else item.array
    suffix, name = ("tif", "TIFF") if array.dtype == np.float32 else ("png", "PNG")
    if array.dtype == np.uint16 and item.peak != 65535:
        # 12-bit codes: png knows 16
        array = np.rint(array * (65535 / float(item.peak or 1))).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, name)
    return {suffix: buffer.getvalue()}
