"""Samples as webdataset tars: the same bytes for the same samples, under their names only when all are whole."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from tarfile import RECORDSIZE
from typing import BinaryIO

from functaconv.errors import OutputExistsError, UsageError
from functaconv.files import sync
from functaconv.packing.reading import Sample

_OURS = re.compile(r"shard-\d{6,}\.tar|failed\.jsonl|classes\.txt|pack\.json")
_UNFINISHED = re.compile(r"\.shard-\d{6,}\.tar\.part")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    count: int
    bytes: int
    shards: tuple[str, ...] = ()
    """names in the target directory; none for a stream"""


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """OutputExistsError for a directory with files that may not be replaced."""
    if target.exists() and not target.is_dir():
        raise OutputExistsError(f"{target} is a file, expected a new or empty directory")
    if target.exists() and target.resolve() == source.resolve():
        raise UsageError("source and target are the same folder", hint="give a new directory for the shards")
    names = [path.name for path in target.iterdir()] if target.exists() else []
    present = sorted(name for name in names if not _UNFINISHED.fullmatch(name))
    if present and not overwrite:
        raise OutputExistsError(
            f"{target} is not empty ({', '.join(present[:3])})", hint="give a new directory, or --overwrite"
        )
    foreign = [name for name in present if name.lower().endswith(".tar") and not _OURS.fullmatch(name)]
    if foreign:
        raise OutputExistsError(
            f"{target} holds tars that pack did not write ({', '.join(foreign[:3])})", hint="give a new directory"
        )


def write_stream(stream: BinaryIO, samples: Iterable[Sample]) -> Written:
    """One tar."""
    return Written(*_write_tar(stream, samples))


def write_shards(target: Path, samples: Iterator[Sample], items_per_shard: int) -> Written:
    """Everything under temporary names, then renamed together: a killed pack leaves no shard that looks whole."""
    target.mkdir(parents=True, exist_ok=True)
    for leftover in target.iterdir():
        if _UNFINISHED.fullmatch(leftover.name):
            leftover.unlink()
    with ExitStack() as cleanup:
        shards: list[str] = []
        count = size = 0
        for first in samples:
            name = f"shard-{len(shards):06d}.tar"
            part = target / f".{name}.part"
            cleanup.callback(part.unlink, missing_ok=True)
            with part.open("wb") as stream:
                items, written = _write_tar(stream, chain([first], islice(samples, items_per_shard - 1)))
                stream.flush()
                os.fsync(stream.fileno())
            count, size = count + items, size + written
            shards.append(name)
        for old in target.iterdir():
            if _OURS.fullmatch(old.name):
                old.unlink()
        for name in shards:
            (target / f".{name}.part").rename(target / name)
        sync(target)
    return Written(count, size, tuple(shards))


def _write_tar(stream: BinaryIO, samples: Iterable[Sample]) -> tuple[int, int]:
    """How many items and bytes were written."""
    # importing webdataset imports torch: only when there is something to write
    from webdataset.writer import TarWriter

    count = 0
    with TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
            count += 1
    # a tar is filled up to whole records
    return count, -(-writer.tarstream.offset // RECORDSIZE) * RECORDSIZE
