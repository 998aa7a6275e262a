"""`encode --dry-run`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from functaconv.conversion.options import EncodeOptions
from functaconv.conversion.work import Work
from functaconv.data.shards import index_shard
from functaconv.data.storage import is_seekable
from functaconv.functaset.schema import PARTS
from functaconv.functaset.unfinished import Parts, existing_at


def dry_run(
    base: Path | str,
    shards: str | Sequence[str],
    output: Path | str,
    options: EncodeOptions | None = None,
    **keywords: Any,
) -> dict[str, Any]:
    """What `encode` would do with these arguments, without doing it: plain values, for JSON."""
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
    numbers, is_tiled = work.stored.base.numbers, work.layout.tiled
    size = options.views * numbers * work.codec.dtype.itemsize
    # how many tiles there are is known when the items are decoded
    each = "tile" if is_tiled else "item"
    return {
        "shards": len(work.names),
        "records": records,
        "already_done": done,
        f"numbers_per_{each}": numbers,
        f"bytes_per_{each}": size,
        "bytes": None if records is None or is_tiled else records * size,
    }
