"""From a source to shards, and what is told of it."""

import json
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from dataclasses import field as dataclass_field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from functaconv.data.decoders import ImageTransform
from functaconv.data.grids import EVERYTHING, FieldChoice
from functaconv.data.grids.origin import Origin
from functaconv.data.ignored import most_ignored
from functaconv.data.meshes import MESH_SUFFIXES, MOST_RESOLUTION
from functaconv.data.noise import heard
from functaconv.errors import FunctaconvError, InputError, TooManyFailuresError, UsageError
from functaconv.files import replace_bytes
from functaconv.packing.grids import Grids, joined_grids, opened
from functaconv.packing.reading import NO_RESOLUTION, Failure, Packed, Reading, Sample, Unit, read
from functaconv.packing.selection import GRID, File, Selection, parse_packed_field, selected
from functaconv.packing.stacks import Split, Stack, looks_like_a_stack, stacks
from functaconv.packing.writing import check_target, write_shards, write_stream

# at a few kilobytes an image some tens of megabytes: big enough to read at speed, small enough to share out
ITEMS_PER_SHARD = 10_000
_MOST_TOLD = 8
_MOST_LOOKED_AT = 1000
"""arrays whose axes are looked at"""


@dataclass(frozen=True, slots=True)
class PackSummary:
    """What `pack` wrote, and what it did not."""

    count: int
    failed: int
    ignored: Mapping[str, int]
    """what the source holds that is not packed, by kind"""
    shards: tuple[str, ...]
    """names in the target directory; none for a stream"""
    bytes: int
    """of all shards"""
    classes: tuple[str, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()
    """what libraries warned of, once with the file's name, and what might be meant otherwise"""
    complaint: FunctaconvError | None = dataclass_field(default=None, compare=False)
    """more failed than were allowed"""


@dataclass(frozen=True, slots=True)
class PackPlan:
    """What `pack` would read."""

    files: int
    items: int | None
    """of grids; None for a folder of other files, each an item if it decodes"""
    bytes: int
    """to be read: of files as they are, of grids as float32"""
    passes: int = 1
    """how often the largest chunks of a grid's file have to be read"""


def plan(
    source: Path | str,
    *,
    field: str | None = None,
    choice: FieldChoice = EVERYTHING,
    split_axis: int | None = None,
    labels: bool | str | None = None,
) -> PackPlan:
    """What `pack` would do with this source, without reading a value."""
    split = _split(split_axis, labels)
    with selected(source, field=field) as selection:
        units = _units(selection, choice, source, field, split)
        items = size = 0
        passes = 1
        for unit in units:
            if isinstance(unit, File):
                # a link to nowhere has a size of its own
                path = Path(unit.place)
                size += (path.stat() if path.exists() else path.lstat()).st_size
            elif isinstance(unit, Stack):
                items, size = items + unit.count, size + Path(unit.file.place).stat().st_size
            else:
                for file in unit.files:
                    with opened(file, unit.choice, name=file.key, readers=len(unit.parts)) as found:
                        # other parts hold other channels of the same items
                        items += found.count if file in unit.parts[0] else 0
                        size, passes = size + found.bytes, max(passes, found.passes)
        is_known = not any(isinstance(unit, File) for unit in units)
        return PackPlan(len(selection.files), items if is_known else None, size, passes)


def pack(
    source: Path | str,
    target: Path | BinaryIO,
    *,
    field: str | None = None,
    transform: ImageTransform | None = None,
    resolution: int | None = None,
    choice: FieldChoice = EVERYTHING,
    items_per_shard: int = ITEMS_PER_SHARD,
    seed: int | None = 0,
    split_axis: int | None = None,
    labels: bool | str | None = None,
    max_error_rate: float = 0.01,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> PackSummary:
    """Pack what lies below `source` into shards in the directory `target`, or into one tar.

    Images, npy, npz and binvox files are decoded to check them, then copied as they are; with a `transform` that
    changes it, an image is written anew (png; float tiff). Meshes become solid voxels (binvox) of `resolution` per
    side. NetCDF and GRIB files and zarr stores (also the URL of one) become grids, one for each time, level and member
    that `choice` leaves, in their order; where files hold different variables of the same hours and grid, these are
    channels of one item. A zip archive is read like the files in it.

    `field` takes only files of one suffix (`png`, `solid.binvox`, `npz:NAME`); of a source with several kinds it has to
    choose one. `split_axis` makes an item of each place along that axis of an array (npy, npz). `seed` shuffles the
    files, so that neighbours in a folder are not neighbours in training; None keeps the order of the paths. `labels`
    writes a class per sub-folder, and None does so if every file lies in one; with `split_axis` it can be the name of a
    file, or `npz:NAME`, that holds a number for each item.

    `target` gets shard-000000.tar ..., pack.json, and classes.txt and failed.jsonl if there are any; the shards get
    their names together at the end. It has to be new or empty; `overwrite` replaces what an earlier run left.
    `complaint` of the result tells of a larger share of failures than `max_error_rate`. `workers` threads decode (None:
    one per core).
    """
    if items_per_shard < 1:
        raise UsageError(f"items per shard: expected 1 or more, found {items_per_shard}")
    if resolution is not None and not 1 <= resolution <= MOST_RESOLUTION:
        raise UsageError(f"a resolution of {resolution} voxels per side", hint=f"choose 1 to {MOST_RESOLUTION}")
    split = _split(split_axis, labels)
    # a target inside the source is not packed
    directory = target if isinstance(target, Path) else None
    if directory is not None:
        check_target(directory, Path(source), overwrite)
    threads = (os.cpu_count() or 1) if workers is None else workers
    by_folder = None if isinstance(labels, str) else labels
    with selected(source, field=field, labels=by_folder, exclude=directory) as selection, heard() as noise:
        if resolution is None and all(file.suffix in MESH_SUFFIXES for file in selection.files):
            raise InputError(f"{Origin.of(source).shown}: {NO_RESOLUTION}", hint="--resolution 32, say")
        units = _shuffled(_units(selection, choice, source, field, split), seed)
        reading = Reading(_array_of(field), transform, resolution, selection.is_lone)
        told = _Told(selection.ignored)
        # closed whatever happens: decoders that wait for room would wait for ever
        with closing(_outcomes(units, reading, threads, progress)) as outcomes:
            samples = told.samples(outcomes)
            first = next(samples, None)
            if first is None:
                raise told.nothing(Origin.of(source).shown)
            whole = chain([first], samples)
            if isinstance(target, Path):
                written = write_shards(target, whole, items_per_shard)
            else:
                written = write_stream(target, whole)
    summary = PackSummary(
        written.count, len(told.failures), dict(sorted(told.ignored.items())), written.shards, written.bytes,
        selection.classes if told.has_labels else (), tuple(told.failures), (*noise.lines(), *told.hints()),
        told.complaint(written.count, max_error_rate),
    )  # fmt: skip
    if directory is not None:
        settings = {
            "field": field,
            "transform": None if transform is None else asdict(transform),
            "items_per_shard": items_per_shard,
            "seed": seed,
            "resolution": resolution,
            "split_axis": split_axis,
            "labels": labels,
            "choice": asdict(choice),
        }
        _describe(directory, summary, settings)
    return summary


def _split(axis: int | None, labels: bool | str | None) -> Split | None:
    if axis is not None:
        return Split(axis, labels if isinstance(labels, str) else None)
    if isinstance(labels, str):
        raise UsageError(f"labels {labels} are for the items of an array", hint="add --split-axis 0")
    return None


def _array_of(field: str | None) -> str | None:
    """The array of an npz that was chosen."""
    return None if field is None else parse_packed_field(field)[1]


def _units(
    selection: Selection, choice: FieldChoice, source: Path | str, field: str | None, split: Split | None
) -> list[Unit]:
    """What is read together, in the order of the files."""
    if split is not None:
        found, others = stacks(selection.files, split, _array_of(field), Path(source), selection.ignored)
        return [*found, *(replace(file, problem=reason) for file, reason in others)]
    grids = [file for file in selection.files if file.kind == GRID]
    if not grids:
        return [*selection.files]
    if selection.is_lone:
        return [Grids.of(file, choice) for file in grids]
    return [*joined_grids(grids, choice, str(source), selection.ignored)]


def _shuffled(units: Sequence[Unit], seed: int | None) -> list[Unit]:
    order = np.arange(len(units))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    return [units[number] for number in order.tolist()]


def _outcomes(units: Sequence[Unit], reading: Reading, workers: int, progress: bool) -> Generator[Iterable[Packed]]:
    """What became of each, in order."""

    # this imports torch: only when there is something to read
    from functaconv.signals.loader import Ahead, begun_ahead

    with closing(begun_ahead(lambda unit: read(unit, reading), units, workers=workers)) as calls:
        outcomes: Iterable[Ahead[Iterable[Packed]]] = calls
        if progress:
            from tqdm.auto import tqdm

            outcomes = tqdm(calls, total=len(units), desc="pack", unit="file")
        for call in outcomes:
            yield call.result()


class _Told:
    """What is not packed, counted while samples pass."""

    def __init__(self, ignored: Counter[str]) -> None:
        self.ignored = ignored
        self.failures: list[Failure] = []
        self.has_labels = False
        """whether any item has one: variables of several sub-folders that are joined have none"""
        self._hint: str | None = None
        self._axes: dict[str, tuple[int, ...]] = {}
        self._variables: Counter[tuple[str, ...]] = Counter()

    def samples(self, outcomes: Iterable[Iterable[Packed]]) -> Iterator[Sample]:
        for packed in chain.from_iterable(outcomes):
            self.ignored.update(packed.ignored)
            if packed.failure is not None:
                self.failures.append(packed.failure)
                self._hint = self._hint or packed.hint
            if packed.sample is not None:
                self.has_labels = self.has_labels or "cls" in packed.sample
                if packed.variables:
                    self._variables[packed.variables] += 1
                if packed.array is not None and len(self._axes) < _MOST_LOOKED_AT:
                    self._axes[packed.array[0]] = packed.array[1]
                yield packed.sample

    def hints(self) -> Iterator[str]:
        """What of the items cannot be learned together, and what they may be instead."""
        if len(self._variables) > 1:
            sets = "; ".join(
                f"{', '.join(names)} ({count})" for names, count in self._variables.most_common(_MOST_TOLD)
            )
            yield f"items of different variables, of which one set can be learned: {sets}; --variable chooses"
        lists = {axes[0]: name for name, axes in self._axes.items() if len(axes) == 1}
        found = {name: axes for name, axes in self._axes.items() if looks_like_a_stack(axes, lists)}
        if found:
            name, axes = next(iter(found.items()))
            more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
            labels = f" --labels {lists[axes[0]]}" if axes[0] in lists else ""
            yield f"{name} is one item of shape {axes}{more}; if it holds {axes[0]}: --split-axis 0{labels}"

    def nothing(self, source: str) -> InputError:
        """Nothing is left to pack."""
        reasons = "; ".join(f"{failure.path}: {failure.reason}" for failure in self.failures[:3])
        ignored = f"; ignored: {most_ignored(self.ignored)}" if self.ignored else ""
        return InputError(
            f"none of the {len(self.failures)} files in {source} can be packed ({reasons}){ignored}", hint=self._hint
        )

    def complaint(self, count: int, max_error_rate: float) -> FunctaconvError | None:
        failed = len(self.failures)
        if failed <= max_error_rate * (count + failed):
            return None
        first = self.failures[0]
        return TooManyFailuresError(
            f"{failed} of {count + failed} items failed, more than --max-error-rate {max_error_rate:g}; the first: "
            f"{first.path}: {first.reason}",
            hint="the others are packed; mend these, or allow more with --max-error-rate",
        )


def _describe(target: Path, summary: PackSummary, settings: Mapping[str, object]) -> None:
    if summary.classes:
        replace_bytes(target / "classes.txt", "".join(f"{name}\n" for name in summary.classes).encode())
    if summary.failures:
        lines = (json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in summary.failures)
        replace_bytes(target / "failed.jsonl", "".join(lines).encode())
    described = asdict(replace(summary, failures=(), complaint=None))
    for name in ("failures", "complaint", "notes"):
        del described[name]
    text = json.dumps({**described, **settings}, indent=1, ensure_ascii=False)
    replace_bytes(target / "pack.json", (text + "\n").encode())
