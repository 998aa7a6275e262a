"""From a source to shards."""

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from functaconv.data.grids.origin import Origin
from functaconv.data.meshes import MESH_SUFFIXES
from functaconv.data.noise import heard
from functaconv.errors import InputError
from functaconv.packing.files import GRID, File, Selection
from functaconv.packing.grids import Grids, joined_grids, opened
from functaconv.packing.options import PackOptions
from functaconv.packing.reading import NO_RESOLUTION, Packed, Reading, Unit, read
from functaconv.packing.selection import selected
from functaconv.packing.stacks import Stack, stacks
from functaconv.packing.summary import Account, PackSummary, describe
from functaconv.packing.writing import check_target, write_shards, write_stream


@dataclass(frozen=True, slots=True)
class PackPlan:
    """What `pack` would read."""

    files: int
    items: int | None
    """of grids; None for a folder of other files, each an item if it decodes"""
    bytes: int
    """to be read: of files as they are, of grids as float32"""


def plan(source: Path | str, options: PackOptions | None = None, **keywords: Any) -> PackPlan:
    """What `pack` would do with this source, without reading a value. `keywords` are those of `PackOptions`."""
    options = replace(options or PackOptions(), **keywords)
    with selected(source, field=options.field) as selection:
        units = _units(selection, options, source)
        items = size = 0
        for unit in units:
            if isinstance(unit, File):
                # a link to nowhere has a size of its own
                path = Path(unit.place)
                size += (path.stat() if path.exists() else path.lstat()).st_size
            elif isinstance(unit, Stack):
                items, size = items + unit.count, size + Path(unit.file.place).stat().st_size
            else:
                for file in unit.files:
                    with opened(file, unit.choice, name=file.key, readers=len(unit.parts)) as fields:
                        # other parts hold other channels of the same items
                        items += fields.count if file in unit.parts[0] else 0
                        size += fields.bytes
        is_known = not any(isinstance(unit, File) for unit in units)
        return PackPlan(len(selection.files), items if is_known else None, size)


def pack(
    source: Path | str,
    target: str | Path | BinaryIO,
    options: PackOptions | None = None,
    *,
    progress: bool = False,
    **keywords: Any,
) -> PackSummary:
    """Pack what lies below `source` into shards in the directory `target`, or into one tar.

    Images, npy, npz and binvox files are decoded to check them, then copied as they are; with a `transform` that
    changes it, an image is written anew (png; float tiff). Meshes become solid voxels (binvox) of `resolution` per
    side. NetCDF and GRIB files and zarr stores (also the URL of one) become grids, one for each time, level and member
    that `choice` leaves, in their order; where files hold different variables of the same hours and grid, these are
    channels of one item. A zip archive is read like the files in it.

    `target` gets shard-000000.tar ..., pack.json, and classes.txt and failed.jsonl if there are any; the shards get
    their names together at the end. It has to be new or empty. `complaint` of the result tells of a larger share of
    failures than `max_error_rate`. `keywords` are those of `PackOptions`.
    """
    options = replace(options or PackOptions(), **keywords)
    target = Path(target) if isinstance(target, str) else target
    # a target inside the source is not packed
    directory = target if isinstance(target, Path) else None
    if directory is not None:
        check_target(directory, Path(source), options.overwrite)
    threads = (os.cpu_count() or 1) if options.workers is None else options.workers
    with (
        selected(source, field=options.field, labels=options.by_folder, exclude=directory) as selection,
        heard() as noise,
    ):
        if options.resolution is None and all(file.suffix in MESH_SUFFIXES for file in selection.files):
            raise InputError(f"{Origin.of(source).shown}: {NO_RESOLUTION}", hint="--resolution 32, say")
        units = _shuffled(_units(selection, options, source), options.seed)
        reading = Reading(options.array, options.transform, options.resolution, selection.is_lone)
        account = Account(selection.ignored)
        # closed whatever happens: no thread goes on decoding
        with closing(_outcomes(units, reading, threads, progress)) as outcomes:
            samples = account.samples(outcomes)
            first = next(samples, None)
            if first is None:
                raise account.nothing(Origin.of(source).shown)
            whole = chain([first], samples)
            if isinstance(target, Path):
                written = write_shards(target, whole, options.items_per_shard)
            else:
                written = write_stream(target, whole)
    summary = PackSummary(
        written.count, len(account.failures), dict(sorted(account.ignored.items())), written.shards, written.bytes,
        selection.classes if account.has_labels else (), tuple(account.failures), (*noise.lines(), *account.hints()),
        account.complaint(written.count, options.max_error_rate),
    )  # fmt: skip
    if directory is not None:
        describe(directory, summary, options.settings)
    return summary


def _units(selection: Selection, options: PackOptions, source: Path | str) -> list[Unit]:
    """Files that are read together, in their order."""
    if options.split_axis is not None:
        labels = options.labels if isinstance(options.labels, str) else None
        cut, others = stacks(
            selection.files, options.split_axis, labels, options.array, Path(source), selection.ignored
        )
        return [*cut, *(replace(file, problem=reason) for file, reason in others)]
    grids = [file for file in selection.files if file.kind == GRID]
    if not grids:
        return [*selection.files]
    if selection.is_lone:
        return [Grids.of(file, options.choice) for file in grids]
    return [*joined_grids(grids, options.choice, str(source), selection.ignored)]


def _shuffled(units: Sequence[Unit], seed: int | None) -> list[Unit]:
    order = np.arange(len(units))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    return [units[number] for number in order.tolist()]


def _outcomes(units: Sequence[Unit], reading: Reading, workers: int, progress: bool) -> Generator[Iterable[Packed]]:
    """The outcome of each unit, in order."""

    # this imports torch: only when there is something to read
    from functaconv.signals.loader import Ahead, begun_ahead

    with closing(begun_ahead(lambda unit: read(unit, reading), units, workers=workers)) as calls:
        outcomes: Iterable[Ahead[Iterable[Packed]]] = calls
        if progress:
            from tqdm.auto import tqdm

            outcomes = tqdm(calls, total=len(units), desc="pack", unit="file")
        for call in outcomes:
            yield call.result()
