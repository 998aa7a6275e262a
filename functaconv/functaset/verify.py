"""Reading everything in a functaset once, to find what is lost, damaged or contradictory."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from functaconv.documents import parse_json
from functaconv.errors import FunctaconvError
from functaconv.functaset.attributes import attributes_digest
from functaconv.functaset.files import digest_of, read_json
from functaconv.functaset.opening import read_attributes
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import FAILED, REPORT
from functaconv.functaset.store import MOST_FAILURES
from functaconv.functaset.stored_array import StoredArray, difference, rows_in_words
from functaconv.modalities import MODALITIES

_WRONG = {"shape": "sides of no points", "meta": "something else than JSON"}


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Every problem of the functaset, in words; InputError if it is no functaset."""
    return problems_of(read_attributes(path))


def problems_of(functaset: Functaset) -> list[str]:
    """Every problem, in words, with the rows it affects: every chunk is read, every count and digest compared."""
    problems = [*_descriptions(functaset), *_arrays(functaset), *_grids(functaset), *_companions(functaset)]
    return [*dict.fromkeys(problems)]


def _descriptions(functaset: Functaset) -> Iterator[str]:
    """Each array describes itself a second time: readers go by the one or the other."""
    for name, expected in functaset.descriptions.items():
        try:
            if read_json(functaset.path / name / "zarr.json", within=functaset.path) != expected:
                yield f"{name}/zarr.json differs from what the root's zarr.json says about it"
        except FunctaconvError as error:
            yield str(error)


def _arrays(functaset: Functaset) -> Iterator[str]:
    """Every array that the attributes promise, all of its chunks."""
    for column, count in functaset.expected():
        try:
            array = functaset.stored(column.name)
            problem = difference(array, column, count)
        except FunctaconvError as error:
            array, problem = None, str(error)
        if problem is not None or array is None:
            yield problem or ""
        else:
            yield from _values(array)
    try:
        # its constants; arrays that cannot be read are reported above
        _ = functaset.codec
    except FunctaconvError as error:
        if isinstance(error.__cause__, ValueError):
            yield str(error)


def _values(array: StoredArray) -> Iterator[str]:
    """Read an array chunk by chunk: its checksums are checked, and the numbers that must be finite."""
    name, lost = array.name, list(array.lost())
    yield from (f"{name}: {rows_in_words(start, stop)} lost: {problem}" for start, stop, problem in lost)
    if not lost and (implausible := array.implausible()):
        yield implausible
        return
    first, count = 0, 0
    for start, stop in _chunks(array, lost):
        try:
            wrong = np.flatnonzero(~_is_sound(name, array.read(slice(start, stop))))
        except FunctaconvError as error:
            yield str(error)
            continue
        first = first if count or not len(wrong) else start + int(wrong[0])
        count += len(wrong)
    if count:
        yield f"{name}: {_WRONG.get(name, 'NaN or infinite')} in {count} rows, the first is row {first}"


def _chunks(array: StoredArray, lost: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, int]]:
    """First row and end row of every chunk, but for those of the files that are `lost`."""
    start = 0
    for first, end, _ in [*lost, (len(array), len(array), "")]:
        for row in range(start, first, array.rows_per_chunk):
            yield row, min(row + array.rows_per_chunk, len(array))
        start = end


def _is_sound(name: str, rows: np.ndarray) -> np.ndarray:
    """Whether each row holds possible values, bool `[row]`."""
    if name == "meta":
        return np.array([_is_json(text) for text in rows.tolist()], bool)
    flat = rows.reshape(len(rows), -1)
    if name == "shape":
        return np.asarray((flat >= 1).all(axis=1))
    # in older stores a perfect item has an infinite PSNR; a variable that an item misses altogether has no error
    if flat.dtype.kind != "f" or name in _may_be_nan():
        return np.ones(len(rows), bool)
    return np.asarray((~np.isnan(flat) if name == "psnr" else np.isfinite(flat)).all(axis=1))


def _may_be_nan() -> set[str]:
    """Measures of variables that an item may miss altogether."""
    return {measure.name for kind in MODALITIES.values() for measure in kind.measures if measure.by_variable}


def _is_json(text: str) -> bool:
    try:
        parse_json(text.encode())
    except ValueError:
        return False
    return True


def _grids(functaset: Functaset) -> Iterator[str]:
    """Axes and masks: all of them are read, and every row has one that is there and fits."""
    if not functaset.layout.kind.has_coordinates:
        return
    variables = len(functaset.layout.variables)
    try:
        grids = functaset.grids
    except FunctaconvError as error:
        yield str(error)
        return
    for grid in grids:
        for array in grid.arrays:
            yield from _values(array)
            if array.shape[3:] not in ((), (variables,)):
                yield f"{array.name}: masks of {array.shape[3]} variables, not of {variables}"
        try:
            _ = grid.axes
        except FunctaconvError as error:
            yield str(error)
    # columns that cannot be read, or have another length, are reported elsewhere
    with suppress(FunctaconvError):
        shapes, which, masks = functaset.shapes, functaset.measure("grid"), functaset.measure("mask")
        if len(shapes) == len(which) == len(masks) == len(functaset):
            fits = np.zeros(len(which), bool)
            for number, grid in enumerate(grids):
                rows = np.flatnonzero(which == number)
                fits[rows] = (shapes[rows] == grid.shape).all(1) & (masks[rows] >= -1) & (masks[rows] < grid.masks)
            if not fits.all():
                wrong = np.flatnonzero(~fits)
                yield (
                    f"grid, mask: {len(wrong)} rows have one that is not there, or does not fit, "
                    f"the first is row {wrong[0]}"
                )


def _companions(functaset: Functaset) -> Iterator[str]:
    """The files beside the arrays, and the attributes: none is another than was sealed."""
    attributes = functaset.attributes
    try:
        functaset.base_bytes()
    except FunctaconvError as error:
        yield str(error)
    for name in (REPORT, FAILED):
        try:
            if digest_of(functaset.path, name, MOST_FAILURES) != attributes.files_sha256.get(name):
                yield f"{name}: not as it was sealed: its sha256 is another one"
        except FunctaconvError as error:
            yield str(error)
    if attributes_digest(functaset.raw_attributes) != attributes.attributes_sha256:
        yield "zarr.json: the attributes are not those that were sealed"
