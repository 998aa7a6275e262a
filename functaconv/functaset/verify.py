"""Reading everything in a functaset once, to find what is lost, damaged or contradictory."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from functaconv.documents import parse_json
from functaconv.errors import FunctaconvError
from functaconv.functaset.attributes import attributes_digest
from functaconv.functaset.companions import MOST_FAILURES
from functaconv.functaset.files import digest_of, read_json
from functaconv.functaset.opening import read_attributes
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import FAILED, MOMENTS, REPORT, shown, vectors
from functaconv.functaset.stored_array import StoredArray, difference, rows_in_words
from functaconv.modalities import MODALITIES

Run = tuple[int, int]
"""rows that follow each other: the first, and the one after the last"""

# affected items that are listed by key
MOST_NAMED = 100
# what zarr.json says besides the attributes and the arrays
_ENVELOPE = {
    "attributes": None,
    "zarr_format": 3,
    "node_type": "group",
    "consolidated_metadata": {"kind": "inline", "must_understand": False},
}
# arrays and groups of ours are called like this: no other name is looked for on the disk
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}(/[A-Za-z0-9_]{1,64}){0,2}")
_WRONG = {"shape": "sides of no points", "meta": "something else than JSON"}


@dataclass(frozen=True)
class Problem:
    """Something that is lost, damaged or contradictory."""

    text: str
    rows: tuple[Run, ...] = ()
    """that cannot be decoded, or not be trusted, because of it"""


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Every problem of the functaset, in words; InputError if it is no functaset."""
    return [problem.text for problem in problems_of(read_attributes(path))]


def problems_of(functaset: Functaset) -> list[Problem]:
    """Every problem, with the rows it affects: every chunk is read, every count and digest compared."""
    problems = [*_descriptions(functaset), *_arrays(functaset), *_grids(functaset), *_companions(functaset)]
    return [*dict.fromkeys(problems), *_changed(functaset)]


def affected(functaset: Functaset, problems: Sequence[Problem]) -> dict[str, Any]:
    """How many rows the problems affect, and the keys of the first of them."""
    # as runs: the number of rows may itself be damaged, and huge
    runs = _joined((run for problem in problems for run in problem.rows), _rows_there(functaset))
    rows = list(islice((row for start, stop in runs for row in range(start, stop)), MOST_NAMED))
    try:
        keys = functaset.stored("key")
        names = [] if keys is None or not rows else keys.read(np.array(rows)).tolist()
    except FunctaconvError:
        names = []
    names = names or [f"row {row}" for row in rows]
    return {"rows": sum(stop - start for start, stop in runs), "keys": names}


def _rows_there(functaset: Functaset) -> int:
    """How many rows there can be: no more than the longest array has."""
    lengths = [0]
    for column, _ in functaset.expected():
        if column.name not in vectors(functaset.attributes.layout):
            with suppress(FunctaconvError):
                lengths.append(len(functaset.stored(column.name) or ()))
    return min(len(functaset), max(lengths))


def _joined(runs: Iterable[Run], end: int) -> list[Run]:
    """The same rows before `end`, in ascending order, no row twice."""
    result: list[Run] = []
    for start, stop in sorted(runs):
        first, last = max(start, result[-1][1] if result else 0), min(stop, end)
        if result and first < last and first == result[-1][1]:
            result[-1] = result[-1][0], last
        elif first < last:
            result.append((first, last))
    return result


def _descriptions(functaset: Functaset) -> Iterator[Problem]:
    """Each array describes itself a second time: readers go by the one or the other."""
    for name, expected in functaset.descriptions.items():
        if not _NAME.fullmatch(name):
            yield Problem(f"zarr.json describes {shown(name)}, which is no array of ours")
            continue
        try:
            if read_json(functaset.path / name / "zarr.json", within=functaset.path) != expected:
                yield Problem(f"{name}/zarr.json differs from what the root's zarr.json says about it")
        except FunctaconvError as error:
            yield Problem(str(error))


def _arrays(functaset: Functaset) -> Iterator[Problem]:
    """Every array that the attributes promise, all of its chunks."""
    for column, count in functaset.expected():
        whole = () if column.name in MOMENTS else ((0, len(functaset)),)
        try:
            array = functaset.stored(column.name)
            problem = difference(array, column, count)
        except FunctaconvError as error:
            array, problem = None, str(error)
        if problem is not None or array is None:
            yield Problem(problem or "", whole)
        elif column.name in vectors(functaset.attributes.layout):
            yield from (Problem(one.text, whole) for one in _values(array))
        else:
            yield from _values(array)
    try:
        # its constants; arrays that cannot be read are reported above
        _ = functaset.codec
    except FunctaconvError as error:
        if isinstance(error.__cause__, ValueError):
            yield Problem(str(error), ((0, len(functaset)),))


def _values(array: StoredArray) -> Iterator[Problem]:
    """Read an array chunk by chunk: its checksums are checked, and the numbers that must be finite."""
    name, lost = array.name, list(array.lost())
    for start, stop, problem in lost:
        yield Problem(f"{name}: {rows_in_words(start, stop)} lost: {problem}", ((start, stop),))
    if not lost and (implausible := array.implausible()):
        yield Problem(implausible)
        return
    bad: list[Run] = []
    count = 0
    for start, stop in _chunks(array, lost):
        try:
            wrong = np.flatnonzero(~_is_sound(name, array.read(slice(start, stop))))
        except FunctaconvError as error:
            yield Problem(str(error), ((start, stop),))
            continue
        if len(wrong):
            bad.append((start + int(wrong[0]), start + int(wrong[-1]) + 1))
            count += len(wrong)
    if bad:
        text = f"{name}: {_WRONG.get(name, 'NaN or infinite')} in {count} rows, the first is row {bad[0][0]}"
        yield Problem(text, tuple(bad))


def _chunks(array: StoredArray, lost: Iterable[tuple[int, int, str]]) -> Iterator[Run]:
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
    # a perfect item has an infinite PSNR, and a variable that an item misses altogether has no error
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


def _grids(functaset: Functaset) -> Iterator[Problem]:
    """Axes and masks: all of them are read, and every row has one that is there and fits."""
    if not functaset.layout.kind.has_coordinates:
        return
    try:
        grids = functaset.grids
    except FunctaconvError as error:
        yield Problem(str(error), ((0, len(functaset)),))
        return
    # columns that cannot be read, or have another length, are reported elsewhere
    shapes, which, masks = np.empty((0, 2)), np.empty(0), np.empty(0)
    with suppress(FunctaconvError):
        shapes, which, masks = functaset.shapes, functaset.measure("grid"), functaset.measure("mask")
    if not len(shapes) == len(which) == len(masks) == len(functaset):
        shapes, which, masks = np.empty((0, 2)), np.empty(0), np.empty(0)
    fits = np.zeros(len(which), bool)
    for number, grid in enumerate(grids):
        rows = np.flatnonzero(which == number)
        fits[rows] = (shapes[rows] == grid.shape).all(1) & (masks[rows] >= -1) & (masks[rows] < grid.masks)
        yield from (Problem(text, _span(rows)) for text in grid.problems(len(functaset.layout.variables)))
        for mask in range(0 if grid.lost() else grid.masks):
            try:
                grid.mask(mask)
            except FunctaconvError as error:
                yield Problem(str(error), _span(rows[masks[rows] == mask]))
    if not fits.all():
        wrong = np.flatnonzero(~fits)
        text = f"grid, mask: {len(wrong)} rows have one that is not there, or does not fit, the first is row {wrong[0]}"
        yield Problem(text, _span(wrong))


def _span(rows: np.ndarray) -> tuple[Run, ...]:
    """The runs of rows in ascending order."""
    if not len(rows):
        return ()
    gaps = np.flatnonzero(np.diff(rows) != 1)
    starts, ends = rows[np.append(0, gaps + 1)], rows[np.append(gaps, len(rows) - 1)] + 1
    return tuple(zip(starts.tolist(), ends.tolist(), strict=True))


def _companions(functaset: Functaset) -> Iterator[Problem]:
    """The files beside the arrays: the base, the failures, the report."""
    attributes = functaset.attributes
    try:
        functaset.base_bytes()
    except FunctaconvError as error:
        yield Problem(str(error), ((0, len(functaset)),))
    # a report counts items; the attributes count rows too, of which an item in tiles has several
    expected = {"count": attributes.items, "failed": attributes.summary.failed}
    try:
        report = functaset.report
        for name, count in expected.items():
            if report.get(name) != count:
                yield Problem(f"{REPORT}: {name} is {shown(report.get(name))}, the attributes say {count}")
    except FunctaconvError as error:
        yield Problem(str(error))
    try:
        failed = sum(1 for _ in functaset.each_failure())
        if failed != expected["failed"]:
            yield Problem(f"{FAILED}: found {failed} lines, the attributes say {expected['failed']} items failed")
    except FunctaconvError as error:
        yield Problem(str(error))


def _changed(functaset: Functaset) -> Iterator[Problem]:
    """Digests that are not those of the sealed functaset, although the content may be valid."""
    attributes = functaset.attributes
    if not attributes.files_sha256 and attributes.attributes_sha256 is None:
        # made by an older functaconv
        return
    if attributes_digest(functaset.raw_attributes) != attributes.attributes_sha256:
        yield Problem("zarr.json: the attributes are not those that were sealed", ((0, len(functaset)),))
    if functaset.envelope != _ENVELOPE:
        yield Problem("zarr.json: it says of the group what no functaset says")
    for name in (REPORT, FAILED):
        with suppress(FunctaconvError):
            if digest_of(functaset.path, name, MOST_FAILURES) != attributes.files_sha256.get(name):
                yield Problem(f"{name}: not as it was sealed: its sha256 is another one")
