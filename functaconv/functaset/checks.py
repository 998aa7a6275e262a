"""Reading everything in a functaset once, to find what is lost, damaged or contradictory."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr

from functaconv.errors import FunctaconvError
from functaconv.functaset import arrays
from functaconv.functaset.files import read_json
from functaconv.functaset.reader import Functaset, read_attributes
from functaconv.functaset.schema import MEASURES


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Every problem of the functaset, with the rows it affects; InputError if it is no functaset."""
    functaset = read_attributes(path)
    problems = list(_metadata(functaset))
    for column, count in functaset.expected():
        array = functaset.array(column.name)
        problems += arrays.problems(array, column, count, functaset.path)
        if array is not None and arrays.difference(array, column, count) is None:
            problems += _values(array, functaset)
    return [*problems, *_grids(functaset), *_companions(functaset)]


def _metadata(functaset: Functaset) -> Iterator[str]:
    """Each array describes itself a second time: other readers go by that."""
    root = read_json(functaset.path / "zarr.json")
    for name, expected in root["consolidated_metadata"]["metadata"].items():
        file = functaset.path / name / "zarr.json"
        try:
            found = read_json(file)
        except FunctaconvError as error:
            yield str(error)
            continue
        if found != expected:
            yield f"{name}/zarr.json differs from what the root's zarr.json says about it"


def _values(array: zarr.Array[Any], functaset: Functaset) -> Iterator[str]:
    """Read an array chunk by chunk: its checksums are checked, and the numbers that must be finite."""
    name = array.path
    lost = list(arrays.missing_shards(array, functaset.path))
    # a variable that an item misses altogether has no error
    may_be_nan = ("psnr", *MEASURES["grid"])
    must_be_finite = array.dtype.kind == "f" and name not in may_be_nan
    bad: list[int] = []
    for start in range(0, array.shape[0], array.chunks[0]):
        stop = min(start + array.chunks[0], array.shape[0])
        if any(first < stop and start < end for first, end, _ in lost):
            continue
        try:
            rows = arrays.read(array, slice(start, stop))
        except FunctaconvError as error:
            yield str(error)
            continue
        if must_be_finite:
            finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
            bad += (start + np.flatnonzero(~finite)).tolist()
        elif name == "psnr":
            bad += (start + np.flatnonzero(np.isnan(rows))).tolist()
    for first, end in _runs(bad):
        yield f"{name}: NaN or infinite in {arrays.rows_in_words(first, end)}"


def _grids(functaset: Functaset) -> Iterator[str]:
    """Axes and masks: all of them are read, and every row has one that is there and fits."""
    if functaset.layout.modality != "grid":
        return
    try:
        grids = functaset.grids
    except FunctaconvError as error:
        yield str(error)
        return
    for grid in grids:
        yield from (lost := grid.lost(functaset.path))
        try:
            _ = lost or (grid.latitude, grid.longitude)
            for number in range(0 if lost else grid.masks):
                if grid.mask(number).shape[-1] != len(functaset.layout.variables):
                    yield f"{grid.name}/mask: mask {number} is not one of {len(functaset.layout.variables)} variables"
        except FunctaconvError as error:
            yield str(error)
    try:
        shapes, which, masks = functaset.shapes, functaset.measure("grid"), functaset.measure("mask")
    except (FunctaconvError, KeyError):
        # said already
        return
    if not len(shapes) == len(which) == len(masks):
        # the same
        return
    sizes = np.array([grid.shape for grid in grids]).reshape(-1, 2)
    counts = np.array([grid.masks for grid in grids])
    is_there = (which >= 0) & (which < len(grids))
    fits = is_there.copy()
    fits[is_there] = (sizes[which[is_there]] == shapes[is_there]).all(1) & (masks[is_there] >= -1)
    fits[is_there] &= masks[is_there] < counts[which[is_there]]
    for first, end in _runs(np.flatnonzero(~fits).tolist()):
        yield f"grid, mask: {arrays.rows_in_words(first, end)} have a grid or mask that is not there, or does not fit"


def _companions(functaset: Functaset) -> Iterator[str]:
    """The files beside the arrays: the base, the failures, the report."""
    attributes = functaset.attributes
    try:
        functaset.base_bytes()
    except FunctaconvError as error:
        yield str(error)
    try:
        failed = len(functaset.failures)
    except FunctaconvError as error:
        yield str(error)
    else:
        if failed != attributes.failed:
            yield f"failed.jsonl: found {failed} lines, the attributes say {attributes.failed} items failed"
    try:
        report = functaset.report
    except FunctaconvError as error:
        yield str(error)
    else:
        # a report counts items; the attributes count rows too, of which an item in tiles has several
        items = attributes.summary.get("items", attributes.count)
        counts = {"count": items, "rows": attributes.count, "failed": attributes.failed}
        for name, expected in counts.items():
            found = report.get(name, expected if name == "rows" else None)
            if found != expected:
                yield f"report.json: {name} is {found!r}, the attributes say {expected}"


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Rows in ascending order as half-open runs."""
    start = previous = -1
    for row in rows:
        if row != previous + 1 or previous < 0:
            if previous >= 0:
                yield start, previous + 1
            start = row
        previous = row
    if previous >= 0:
        yield start, previous + 1
