"""`encode --dry-run`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from functaconv.conversion.options import EncodeOptions
from functaconv.conversion.work import Work
from functaconv.data.shards import index_shard
from functaconv.data.storage import is_seekable
from functaconv.functaset.schema import PARTS
from functaconv.functaset.unfinished import Parts, existing_at


@dataclass(frozen=True)
class DryRun:
    """The result of `encode --dry-run`."""

    shards: tuple[str, ...]
    records: int | None
    done: int
    numbers: int
    bytes_per_item: int
    is_tiled: bool = False
    """the numbers are those of a tile: how many tiles there are is known when the items are decoded"""

    def to_json(self) -> dict[str, Any]:
        each = "tile" if self.is_tiled else "item"
        return {
            "shards": len(self.shards),
            "records": self.records,
            "already_done": self.done,
            f"numbers_per_{each}": self.numbers,
            f"bytes_per_{each}": self.bytes_per_item,
            "bytes": None if self.records is None or self.is_tiled else self.records * self.bytes_per_item,
        }


def dry_run(
    base: Path | str,
    shards: str | Sequence[str],
    output: Path | str,
    options: EncodeOptions | None = None,
    **keywords: Any,
) -> DryRun:
    """What `encode` would do with these arguments, without doing it."""
    options = replace(options or EncodeOptions(), **keywords)
    work, path = Work.of(base, shards, options), Path(os.path.realpath(output))
    existing = existing_at(path)
    existing.check(path, work.plan, overwrite=options.overwrite)
    records = None
    if not work.is_piped and all(map(is_seekable, work.names)):
        records = sum(len(index_shard(name)) for name in work.names)
        records = records if options.limit is None else min(records, options.limit)
    done = 0
    if existing.exists and not options.overwrite:
        done = (records or 0) if existing.is_finished else Parts(path / PARTS).records
    numbers = work.stored.base.numbers
    return DryRun(
        work.names, records, done, numbers, options.views * numbers * work.codec.dtype.itemsize, work.layout.tiled
    )
