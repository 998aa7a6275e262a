"""`encode --dry-run`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from functaconv.conversion.options import EncodeOptions
from functaconv.conversion.work import Work
from functaconv.data.shards import index_shard, is_seekable
from functaconv.functaset.schema import PARTS
from functaconv.functaset.unfinished import Parts, existing_at


@dataclass(frozen=True)
class DryRun:
    """What `encode --dry-run` shows."""

    shards: tuple[str, ...]
    records: int | None
    done: int
    numbers: int
    bytes_per_item: int

    def to_json(self) -> dict[str, Any]:
        return {
            "shards": len(self.shards),
            "records": self.records,
            "already_done": self.done,
            "numbers_per_item": self.numbers,
            "bytes_per_item": self.bytes_per_item,
            "bytes": None if self.records is None else self.records * self.bytes_per_item,
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
    return DryRun(work.names, records, done, numbers, options.views * numbers * work.codec.dtype.itemsize)
