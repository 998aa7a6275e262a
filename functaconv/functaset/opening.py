"""Opening a functaset: reads its attributes, and checks that the arrays they promise are there."""

import os
from pathlib import Path

from functaconv.errors import InputError
from functaconv.functaset.files import read_root
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import FORMAT
from functaconv.functaset.stored_array import HINT, StoredArray, difference, rows_in_words
from functaconv.functaset.unfinished import is_unfinished


def open_functaset(path: str | os.PathLike[str]) -> Functaset:
    """The finished functaset at `path`; InputError if there is none or its arrays are not all there."""
    functaset = read_attributes(path)
    arrays: list[StoredArray] = []
    problems: list[str] = []
    for column, count in functaset.expected():
        array = functaset.stored(column.name)
        if problem := difference(array, column, count):
            problems.append(problem)
        elif array is not None:
            arrays.append(array)
    if not problems:
        # only when all arrays fit: a wrong count would let us look for files that were never written
        arrays += [array for grid in functaset.grids for array in grid.arrays]
        problems += [
            f"{array.name}: {rows_in_words(start, stop)} lost: {problem}"
            for array in arrays
            for start, stop, problem in array.lost()
        ]
    if not problems:
        problems += [implausible for array in arrays if (implausible := array.implausible())]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{functaset.path}: {problems[0]}{more}", hint=HINT)
    return functaset


def reopened(path: Path, keep: int | None) -> Functaset:
    """The functaset that was pickled, opened again."""
    functaset = open_functaset(path)
    return functaset if keep is None else functaset.truncated(keep)


def read_attributes(path: str | os.PathLike[str]) -> Functaset:
    """The functaset at `path`, its arrays unchecked."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is nothing of this name", hint="expected a functaset, a .zarr folder")
    file = path / "zarr.json"
    root = read_root(file, within=path) if os.path.lexists(file) else {}
    attributes = root.get("attributes")
    sealed = isinstance(attributes, dict) and "functaconv" in attributes
    if not sealed and is_unfinished(path):
        raise InputError(f"{path}: an unfinished {FORMAT}", hint="encode was interrupted: run it again to finish it")
    return Functaset(path, root if sealed else {})
