"""Raw files to shards: `pack` makes webdataset tars of a folder, the same bytes for the same folder and seed."""

import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image

from functaconv.errors import InputError, ItemError, OutputExistsError, UsageError
from functaconv.files import replace_bytes, sync
from functaconv.sources.binvox import write_binvox
from functaconv.sources.decoders import (
    ARRAY_SUFFIXES,
    DEFAULT_LIMITS,
    OTHER_IMAGES,
    ImageTransform,
    decode,
    parse_field,
    transform_image,
)
from functaconv.sources.folder import Candidate, Folder, opened, relative_name, walk
from functaconv.sources.grids import EVERYTHING, FIELD_SUFFIXES, FieldChoice, is_fields, open_fields
from functaconv.sources.grids.origin import Origin
from functaconv.sources.items import Item, Record
from functaconv.sources.meshes import MESH_SUFFIXES, MOST_RESOLUTION, voxelise
from functaconv.sources.naming import scheme_of, shown

# at a few kilobytes an image some tens of megabytes: big enough to read at speed, small enough to share out
ITEMS_PER_SHARD = 10_000
PACKED_SUFFIXES = (*ARRAY_SUFFIXES, *MESH_SUFFIXES, *FIELD_SUFFIXES)
_OURS = re.compile(r"shard-\d{6,}\.tar|failed\.jsonl|classes\.txt|pack\.json")
_UNFINISHED = re.compile(r"\.shard-\d{6,}\.tar\.part")


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be packed."""

    path: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class PackSummary:
    """What `pack` wrote, and what it did not."""

    count: int
    failed: int
    ignored: Mapping[str, int]
    """suffix -> number of files that are no image or array"""
    shards: tuple[str, ...]
    """names in the target directory; none for a stream"""
    bytes: int
    """of all shards"""
    classes: tuple[str, ...]
    failures: tuple[Failure, ...]


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


def plan(source: Path | str, *, field: str | None = None, choice: FieldChoice = EVERYTHING) -> PackPlan:
    """What `pack` would do with this source, without reading a value."""
    if is_fields(source):
        with open_fields(source, choice) as found:
            return PackPlan(1, found.count, found.bytes, found.passes)
    paths = [candidate.path for candidate in _candidates(source, field, None, None).candidates]
    grids = [path for path in paths if is_fields(path)]
    items = size = 0
    passes = 1
    for path in grids:
        with open_fields(path, choice) as found:
            items, size, passes = items + found.count, size + found.bytes, max(passes, found.passes)
    size += sum(path.stat().st_size for path in paths if path not in set(grids))
    return PackPlan(len(paths), items if len(grids) == len(paths) else None, size, passes)


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
    labels: bool | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> PackSummary:
    """Pack what lies below `source` into shards in the directory `target`, or into one tar.

    Images, npy, npz and binvox files are decoded to check them, then copied as they are; with a `transform` that
    changes it, an image is written anew (png; float tiff). Meshes become solid voxels (binvox) of `resolution` per
    side. NetCDF and GRIB files, and a zarr store that is the source itself (a URL, too), become grids, one for each
    time, level and member that `choice` leaves, in their order. `seed` shuffles the files, so that neighbours in a
    folder are not neighbours in training; None keeps the order of the paths. `field` takes only files of one suffix.
    `labels` writes a class per sub-folder; None does so if every file lies in one.

    `target` gets shard-000000.tar ..., pack.json, and classes.txt and failed.jsonl if there are any; the shards get
    their names together at the end. It has to be new or empty; `overwrite` replaces what an earlier run left.
    """
    if items_per_shard < 1:
        raise UsageError(f"items per shard: expected 1 or more, found {items_per_shard}")
    if resolution is not None and not 1 <= resolution <= MOST_RESOLUTION:
        raise UsageError(f"a resolution of {resolution} voxels per side", hint=f"choose 1 to {MOST_RESOLUTION}")
    if isinstance(target, Path):
        _check_target(target, Path(source), overwrite)
    if is_fields(source):
        folder = Folder((Candidate(Path(source), Origin.of(source).key, -1),), {}, ())
    else:
        # a target inside the source is not packed
        folder = _candidates(source, field, labels, target if isinstance(target, Path) else None)
    order = np.arange(len(folder.candidates))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    candidates: Iterable[Candidate] = (folder.candidates[number] for number in order)
    if progress:
        from tqdm.auto import tqdm

        candidates = tqdm(candidates, total=len(order), desc="pack", unit="file")
    failures: list[Failure] = []
    reading = _Reading(source, field, transform, resolution, choice)
    samples = _samples(candidates, reading, failures)
    first = next(samples, None)
    if first is None:
        reasons = "; ".join(f"{failure.path}: {failure.reason}" for failure in failures[:3])
        raise InputError(f"none of the {len(failures)} files in {Origin.of(source).shown} can be packed ({reasons})")
    summary = PackSummary(0, 0, folder.ignored, (), 0, folder.classes, ())
    if not isinstance(target, Path):
        counted = _CountingStream(target)
        count = _write_tar(counted, chain([first], samples))
        summary = replace(summary, count=count, bytes=counted.size)
        return replace(summary, failed=len(failures), failures=tuple(failures))
    settings = {
        "field": field,
        "transform": None if transform is None else asdict(transform),
        "items_per_shard": items_per_shard,
        "seed": seed,
        "resolution": resolution,
        "choice": asdict(choice),
    }
    return _write_directory(target, chain([first], samples), items_per_shard, summary, failures, settings)


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class _CountingStream:
    """Passes on what is written, and knows how much it was."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self._stream.write(data)
        self.size += len(data)
        return len(data)


Sample = dict[str, str | bytes]


def _candidates(place: Path | str, field: str | None, labels: bool | None, exclude: Path | None) -> Folder:
    if scheme_of(str(place)) is not None:
        raise InputError(
            f"no zarr store by its name: {shown(str(place))}",
            hint="only a URL that ends in .zarr is read; download others",
        )
    source = Path(place)
    if not source.exists():
        raise InputError(f"no such folder: {source}", hint="give a folder of images, or of npy or npz files")
    if not source.is_dir():
        raise InputError(
            f"neither a folder nor a file of grids: {source}",
            hint=f"put it into a folder of its own and pack that; files of grids end in {', '.join(FIELD_SUFFIXES)}",
        )
    suffixes = (*PACKED_SUFFIXES, *OTHER_IMAGES) if field is None else (parse_field(field)[0],)
    folder = walk(source, suffixes, exclude=exclude)
    if not folder.candidates:
        found = ", ".join(f"{count} {suffix}" for suffix, count in folder.ignored.items()) or "no files at all"
        raise InputError(f"nothing to pack in {source}: found {found}", hint=f"expected {', '.join(PACKED_SUFFIXES)}")
    if labels and not folder.classes:
        raise InputError(f"no classes in {source}: some files lie beside the sub-folders, expected all within them")
    if labels is False:
        unlabelled = tuple(replace(candidate, label=-1) for candidate in folder.candidates)
        folder = replace(folder, candidates=unlabelled, classes=())
    return folder


@dataclass(frozen=True, slots=True)
class _Reading:
    """What files are read with."""

    source: Path | str
    field: str | None
    transform: ImageTransform | None
    resolution: int | None
    choice: FieldChoice


def _samples(candidates: Iterable[Candidate], reading: _Reading, failures: list[Failure]) -> Iterator[Sample]:
    """What the tars will hold, one dict per item that decodes; the others go to `failures`."""
    for candidate in candidates:
        is_source = candidate.path == Path(reading.source)
        path = Origin.of(reading.source).shown if is_source else relative_name(candidate.path, Path(reading.source))
        # a URL is none any more as a path
        place = reading.source if is_source else candidate.path
        try:
            if is_fields(place):
                yield from _grids(candidate, place, path, reading, failures)
                continue
            sample: Sample = {"__key__": candidate.key, **_content(candidate, reading)}
        except (ItemError, InputError) as error:
            if is_source and isinstance(error, InputError):
                raise
            failures.append(Failure(path, candidate.key, str(error)))
            continue
        if candidate.label >= 0:
            sample["cls"] = str(candidate.label).encode()
        yield sample


def _grids(
    candidate: Candidate, place: Path | str, path: str, reading: _Reading, failures: list[Failure]
) -> Iterator[Sample]:
    """Each grid of a file: npy, and json with its axes, units and time."""
    if reading.transform not in (None, ImageTransform()):
        raise ItemError("resizing and cropping are for images, found grids")
    with open_fields(place, reading.choice, name=candidate.key) as found:
        for key, array, attributes in found:
            if attributes["n_missing"] == array.size:
                failures.append(Failure(path, key, "every value is missing"))
                continue
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            sample: Sample = {"__key__": key, "npy": content.getvalue(), "json": json.dumps(attributes).encode()}
            if candidate.label >= 0:
                sample["cls"] = str(candidate.label).encode()
            yield sample


def _content(candidate: Candidate, reading: _Reading) -> dict[str, bytes]:
    suffix = candidate.path.suffix.lower().removeprefix(".")
    if suffix in OTHER_IMAGES:
        raise ItemError(f"{suffix} images are not read; expected one of {', '.join(ARRAY_SUFFIXES)}: convert it first")
    if suffix in MESH_SUFFIXES and reading.resolution is None:
        raise ItemError(f"{suffix}: a mesh becomes voxels: say how many per side with --resolution")
    try:
        with opened(candidate.path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > DEFAULT_LIMITS.member:
                raise ItemError(f"{size} bytes, expected at most {DEFAULT_LIMITS.member}")
            # no more than was said: it may grow
            content = stream.read(size)
    except OSError as error:
        raise ItemError(f"cannot be read: {error.strerror or error}") from error
    if suffix in MESH_SUFFIXES:
        assert reading.resolution is not None
        return {"binvox": write_binvox(voxelise(content, suffix, reading.resolution))}
    transform = reading.transform
    item = decode(Record(0, 0, candidate.key, {suffix: content}), field=reading.field)
    if transform is None or transform == ImageTransform():
        return {suffix: content}
    if item.peak is None:
        raise ItemError(f"{suffix}: resizing and cropping are for images, found an array")
    array = transform_image(item.array, item.peak, transform, max_pixels=DEFAULT_LIMITS.pixels)
    if np.array_equal(array, item.array):
        return {suffix: content}
    return _encoded(replace(item, array=array))


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


def _write_tar(stream: _Sink, samples: Iterable[Sample]) -> int:
    # importing webdataset imports torch: only when there is something to write
    from webdataset.writer import TarWriter

    count = 0
    with TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
            count += 1
    return count


def _check_target(target: Path, source: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise OutputExistsError(f"{target} is a file, expected a new or empty directory")
    if target.exists() and target.resolve() == source.resolve():
        raise UsageError("source and target are the same folder", hint="give a new directory for the shards")
    names = [path.name for path in target.iterdir()] if target.exists() else []
    found = sorted(name for name in names if not _UNFINISHED.fullmatch(name))
    if found and not overwrite:
        raise OutputExistsError(
            f"{target} is not empty ({', '.join(found[:3])})", hint="give a new directory, or --overwrite"
        )
    foreign = [name for name in found if name.lower().endswith(".tar") and not _OURS.fullmatch(name)]
    if foreign:
        raise OutputExistsError(
            f"{target} holds tars that pack did not write ({', '.join(foreign[:3])})", hint="give a new directory"
        )


def _write_directory(
    target: Path,
    samples: Iterator[Sample],
    items_per_shard: int,
    summary: PackSummary,
    failures: list[Failure],
    settings: Mapping[str, object],
) -> PackSummary:
    """Everything under temporary names, then renamed together: a killed pack leaves no shard that looks whole."""
    target.mkdir(parents=True, exist_ok=True)
    for left in target.iterdir():
        if _UNFINISHED.fullmatch(left.name):
            left.unlink()
    with ExitStack() as cleanup:
        shards: list[str] = []
        count = size = 0
        for first in samples:
            name = f"shard-{len(shards):06d}.tar"
            part = target / f".{name}.part"
            cleanup.callback(part.unlink, missing_ok=True)
            with part.open("wb") as stream:
                count += _write_tar(stream, chain([first], islice(samples, items_per_shard - 1)))
                stream.flush()
                os.fsync(stream.fileno())
            size += part.stat().st_size
            shards.append(name)
        for old in target.iterdir():
            if _OURS.fullmatch(old.name):
                old.unlink()
        for name in shards:
            (target / f".{name}.part").rename(target / name)
        sync(target)
    summary = replace(
        summary,
        count=count,
        failed=len(failures),
        shards=tuple(shards),
        bytes=size,
        failures=tuple(failures),
    )
    if summary.classes:
        replace_bytes(target / "classes.txt", "".join(f"{name}\n" for name in summary.classes).encode())
    if failures:
        lines = (json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
        replace_bytes(target / "failed.jsonl", "".join(lines).encode())
    described = {name: value for name, value in asdict(summary).items() if name != "failures"}
    text = json.dumps({**described, **settings}, indent=1, ensure_ascii=False)
    replace_bytes(target / "pack.json", (text + "\n").encode())
    return summary
