"""Reading everything in a functaset once, to find what is lost, damaged or contradictory."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from functaconv.documents import parse_json
from functaconv.errors import FunctaconvError
from functaconv.functaset.files import MOST_VALUES, digest_of, read_json
from functaconv.functaset.grids import StoredGrid
from functaconv.functaset.reader import MOST_FAILURES, Functaset, read_attributes
from functaconv.functaset.schema import FAILED, MEASURES, REPORT, VECTORS, attributes_digest, shown
from functaconv.functaset.stored_array import StoredArray, difference, rows_in_words

Run = tuple[int, int]
"""rows that follow each other: the first, and the one after the last"""

MOST_LISTED = 1000
"""runs of wrong rows of an array; what goes beyond is one run"""
DECODE_NOTHING = ("latent_mean", "latent_std")
"""vectors for who trains on latents"""
_ENVELOPE = {
    "attributes": None,
    "zarr_format": 3,
    "node_type": "group",
    "consolidated_metadata": {"kind": "inline", "must_understand": False},
}
# as arrays and groups of ours are called: no other name is looked for on the disk
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}(/[A-Za-z0-9_]{1,64}){0,2}")


@dataclass(frozen=True)
class Problem:
    """Something that is lost, damaged or contradictory."""

    text: str
    rows: tuple[Run, ...] = ()
    """that cannot be decoded, or not trusted, for it"""


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Every problem of the functaset, with the rows it affects; InputError if it is no functaset."""
    functaset = read_attributes(path)
    return [problem.text for problem in (*problems_of(functaset), *changed(functaset))]


def problems_of(functaset: Functaset) -> list[Problem]:
    """The same with the rows as numbers."""
    found = [*_metadata(functaset)]
    for column, count in functaset.expected():
        whole = () if column.name in DECODE_NOTHING else ((0, len(functaset)),)
        try:
            array = functaset.stored(column.name)
            problem = difference(array, column, count)
        except FunctaconvError as error:
            array, problem = None, str(error)
        if problem is not None or array is None:
            found.append(Problem(problem or "", whole))
        elif column.name in VECTORS:
            found += [Problem(one.text, whole) for one in _values(array)]
        else:
            found += _values(array)
    return [*found, *_grids(functaset), *_companions(functaset)]


def changed(functaset: Functaset) -> list[Problem]:
    """What is not as it was when the functaset was sealed, though it may make sense by itself."""
    attributes, found = functaset.attributes, list[Problem]()
    if not attributes.files_sha256 and attributes.attributes_sha256 is None:
        # made by an older functaconv
        return found
    if attributes_digest(functaset.raw_attributes) != attributes.attributes_sha256:
        found.append(Problem("zarr.json: the attributes are not those that were sealed", ((0, len(functaset)),)))
    if functaset.envelope != _ENVELOPE:
        found.append(Problem("zarr.json: it says of the group what no functaset says"))
    for name in (REPORT, FAILED):
        with suppress(FunctaconvError):
            if digest_of(functaset.path, name, MOST_FAILURES) != attributes.files_sha256.get(name):
                found.append(Problem(f"{name}: not as it was sealed: its sha256 is another one"))
    return found


def runs(rows: np.ndarray) -> tuple[Run, ...]:
    """Rows in ascending order as half-open runs; where there are too many to list, the last one is of all that
    follows, with what is right in between.
    """
    gaps = np.flatnonzero(np.diff(rows) != 1)
    starts, ends = rows[np.append(0, gaps + 1)[: len(rows)]], rows[np.append(gaps, len(rows) - 1)[: len(rows)]] + 1
    few = slice(MOST_LISTED - 1)
    found = list(zip(starts[few].tolist(), ends[few].tolist(), strict=True))
    return (*found, (int(starts[MOST_LISTED - 1]), int(ends[-1]))) if len(starts) >= MOST_LISTED else tuple(found)


def _whole(found: Sequence[Run]) -> tuple[Run, ...]:
    """One run from the first to the last of those found."""
    return ((found[0][0], found[-1][1]),) if found else ()


def joined(found: Iterable[Run], end: int) -> list[Run]:
    """The same rows before `end`, in ascending order, no row twice."""
    result: list[Run] = []
    for start, stop in sorted(found):
        first, last = max(start, result[-1][1] if result else 0), min(stop, end)
        if result and first < last and first == result[-1][1]:
            result[-1] = result[-1][0], last
        elif first < last:
            result.append((first, last))
    return result


def _metadata(functaset: Functaset) -> Iterator[Problem]:
    """Each array describes itself a second time: other readers go by that."""
    for name, expected in functaset.descriptions.items():
        if not _NAME.fullmatch(name):
            yield Problem(f"zarr.json describes {shown(name)}, which is no array of ours")
            continue
        try:
            found = read_json(functaset.path / name / "zarr.json")
        except FunctaconvError as error:
            yield Problem(str(error))
            continue
        if found != expected:
            yield Problem(f"{name}/zarr.json differs from what the root's zarr.json says about it")


def _values(array: StoredArray) -> Iterator[Problem]:
    """Read an array chunk by chunk: its checksums are checked, and the numbers that must be finite."""
    name = array.name
    lost = list(array.lost())
    for start, stop, problem in lost:
        yield Problem(f"{name}: {rows_in_words(start, stop)} lost: {problem}", ((start, stop),))
    bad: list[Run] = []
    if not lost and (thin := array.implausible()):
        yield Problem(thin)
        return
    for start, stop in _chunks(array, lost):
        try:
            rows = array.read(slice(start, stop))
        except FunctaconvError as error:
            yield Problem(str(error), ((start, stop),))
            continue
        bad = joined([*bad, *runs(start + np.flatnonzero(~_is_sound(name, rows)))], stop)
        bad = [*bad[: MOST_LISTED - 1], *_whole(bad[MOST_LISTED - 1 :])]
    for first, end in bad:
        yield Problem(f"{name}: {_WRONG.get(name, 'NaN or infinite')} in {rows_in_words(first, end)}", ((first, end),))


def _chunks(array: StoredArray, lost: Sequence[tuple[int, int, str]]) -> Iterator[Run]:
    """First row and end row of every chunk, but for those of the files that are `lost`."""
    start = 0
    for first, end, _ in [*lost, (len(array), len(array), "")]:
        # of a length that is made up nearly all is lost
        for row in range(start, first, array.rows_per_chunk):
            yield row, min(row + array.rows_per_chunk, len(array))
        start = end


_WRONG = {"shape": "sides of no points", "meta": "something else than JSON", "latent_scale": "a step of nothing"}


def _is_sound(name: str, rows: np.ndarray) -> np.ndarray:
    """Per row: the values are such as can be."""
    if name == "meta":
        return np.array([_is_json(text) for text in rows.tolist()], bool)
    flat = rows.reshape(len(rows), -1)
    if name == "shape":
        return np.asarray((flat >= 1).all(axis=1))
    # a perfect item has an infinite PSNR, and a variable that an item misses altogether has no error
    if flat.dtype.kind != "f" or name in MEASURES["grid"]:
        return np.ones(len(rows), bool)
    can_be = ~np.isnan(flat) if name == "psnr" else np.isfinite(flat)
    return np.asarray((can_be & (flat > 0) if name == "latent_scale" else can_be).all(axis=1))


def _is_json(text: str) -> bool:
    try:
        parse_json(text.encode(), most_values=MOST_VALUES)
    except ValueError:
        return False
    return True


def _grids(functaset: Functaset) -> Iterator[Problem]:
    """Axes and masks: all of them are read, and every row has one that is there and fits."""
    if functaset.layout.modality != "grid":
        return
    shapes, which, masks = np.empty((0, 2)), np.empty(0), np.empty(0)
    # what cannot be read has been said already
    with suppress(FunctaconvError):
        shapes, which, masks = functaset.shapes, functaset.measure("grid"), functaset.measure("mask")
    are_known = len(shapes) == len(which) == len(masks) == len(functaset)
    try:
        grids = functaset.grids
    except FunctaconvError as error:
        yield Problem(str(error), ((0, len(functaset)),))
        return
    for number, grid in enumerate(grids):
        rows = np.flatnonzero(which == number) if are_known else np.arange(0)
        yield from (Problem(text, runs(rows)) for text in _axes(grid))
        if grid.variables not in (None, len(functaset.layout.variables)):
            text = f"{grid.name}/mask: masks of {grid.variables} variables, not of {len(functaset.layout.variables)}"
            yield Problem(text, runs(rows))
        for mask, text in _masks(grid):
            yield Problem(text, runs(rows[masks[rows] == mask]) if are_known else ())
    if not are_known:
        return
    sizes = np.array([grid.shape for grid in grids]).reshape(-1, 2)
    counts = np.array([grid.masks for grid in grids])
    is_there = (which >= 0) & (which < len(grids))
    fits = is_there.copy()
    fits[is_there] = (sizes[which[is_there]] == shapes[is_there]).all(1) & (masks[is_there] >= -1)
    fits[is_there] &= masks[is_there] < counts[which[is_there]]
    for first, end in runs(np.flatnonzero(~fits)):
        text = f"grid, mask: {rows_in_words(first, end)} have a grid or mask that is not there, or does not fit"
        yield Problem(text, ((first, end),))


def _axes(grid: StoredGrid) -> Iterator[str]:
    lost = grid.lost()
    yield from lost
    if not lost:
        for axis in ("latitude", "longitude"):
            try:
                getattr(grid, axis)
            except FunctaconvError as error:
                yield str(error)


def _masks(grid: StoredGrid) -> Iterator[tuple[int, str]]:
    """Number and problem of each mask that cannot be read."""
    if grid.lost():
        # said already
        return
    for number in range(grid.masks):
        try:
            grid.mask(number)
        except FunctaconvError as error:
            yield number, str(error)


def _companions(functaset: Functaset) -> Iterator[Problem]:
    """The files beside the arrays: the base, the failures, the report."""
    attributes = functaset.attributes
    try:
        functaset.base_bytes()
    except FunctaconvError as error:
        yield Problem(str(error), ((0, len(functaset)),))
    try:
        failed = sum(1 for _ in functaset.each_failure())
    except FunctaconvError as error:
        yield Problem(str(error))
    else:
        if failed != attributes.failed:
            yield Problem(f"failed.jsonl: found {failed} lines, the attributes say {attributes.failed} items failed")
    try:
        report = functaset.report
    except FunctaconvError as error:
        yield Problem(str(error))
    else:
        # a report counts items; the attributes count rows too, of which an item in tiles has several
        items = attributes.summary.get("items", attributes.count)
        counts = {"count": items, "rows": attributes.count, "failed": attributes.failed}
        for name, expected in counts.items():
            found = report.get(name, expected if name == "rows" else None)
            if found != expected:
                yield Problem(f"{REPORT}: {name} is {shown(found)}, the attributes say {expected}")
