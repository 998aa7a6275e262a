"""What failed is done anew: a functaset as the parts it was made of, without those that held failures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from functaconv.errors import UsageError
from functaconv.functaset.beginning import check_alone, replace_store
from functaconv.functaset.blocks import Block, Grids, read_facts
from functaconv.functaset.grids import GridTable
from functaconv.functaset.ledger import Ledger, Part, Range
from functaconv.functaset.reader import Functaset, open_functaset
from functaconv.functaset.schema import MEASURES, PARTS, Layout


@dataclass(frozen=True)
class Done:
    """A shard that was converted."""

    name: str
    """as failures call it"""
    source: Mapping[str, Any]
    """its fingerprint"""
    ranges: Sequence[Range] | None
    """None: all of it is to be done anew"""
    records: int


def reopen_without_failures(path: Path, layout: Layout, settings: Mapping[str, Any], shards: Sequence[Done]) -> int:
    """Put an unfinished functaset in the place of a finished one; the number of records that are to be done anew.

    Ranges in which no record failed are as if they had just been done. The finished one is replaced in one step, when
    all is there.
    """
    functaset = open_functaset(path)
    part_of, record_of = functaset.shards, functaset.measure("record")
    failed: dict[str, list[int]] = {}
    for failure in functaset.failures:
        failed.setdefault(file_name(failure.shard), []).append(failure.record)
    anew = 0

    def fill(root: Path) -> None:
        nonlocal anew
        ledger = Ledger(root / PARTS)
        for shard, done in enumerate(shards):
            if done.ranges is None:
                anew += done.records
                continue
            ledger.cut(shard, done.ranges)
            bad = np.array(failed.get(file_name(done.name), []))
            for number, span in enumerate(done.ranges):
                stop = done.records if span.stop is None else min(span.stop, done.records)
                if ((bad >= span.start) & ((bad < stop) | (span.stop is None))).any():
                    anew += stop - span.start
                    continue
                rows = np.flatnonzero((part_of == shard) & (record_of >= span.start) & (record_of < stop))
                part = Part(shard, number)
                ledger.begin(part, {**done.source, "records": [span.start, span.stop]})
                if stop > span.start:
                    ledger.commit(part, 0, _block(functaset, rows, span.start, stop))
                ledger.end(part, stop, span.start)

    replace_store(path, layout, settings, fill)
    return anew


def _block(functaset: Functaset, rows: np.ndarray, start: int, stop: int) -> Block:
    """Rows of a functaset as the block that they came from."""

    def column(name: str) -> np.ndarray:
        array = functaset.array(name)
        assert array is not None
        if not len(rows):
            return np.asarray(array[:0])
        # rows of a part lie together
        found: np.ndarray = np.asarray(array[int(rows[0]) : int(rows[-1]) + 1])[rows - rows[0]]
        return found

    layout = functaset.attributes.layout
    records = np.unique(column("record"))
    return Block(
        latent=column("latent"),
        keys=[str(key) for key in column("key")],
        label=column("label"),
        shape=column("shape"),
        mse=column("mse"),
        psnr=column("psnr"),
        record=column("record"),
        records=stop,
        last_key=None,
        meta=None if functaset.array("meta") is None else [str(text) for text in column("meta")],
        tile=column("tile") if layout.tiled else None,
        measures={name: column(name) for name in MEASURES.get(layout.modality, ())},
        grids=_grids(functaset, rows, column("time")) if layout.modality == "grid" else None,
        # what is neither a row nor a failure
        ignored=stop - start - len(records),
    )


def _grids(functaset: Functaset, rows: np.ndarray, time: np.ndarray) -> Grids:
    table = GridTable()
    grid, mask = np.full((2, len(rows)), -1, np.int32)
    for place, row in enumerate(rows):
        axes, missing = functaset.grid_of(int(row))
        grid[place] = table.number(axes.latitude, axes.longitude)
        mask[place] = table.mask_number(int(grid[place]), missing)
    return Grids(table, grid, mask, time)


def file_name(shard: str) -> str:
    """What is the same when a shard is named in another way than it was: with another folder, say."""
    return Path(shard).name


def recut_under_limit() -> UsageError:
    return UsageError(
        "--retry-failed with --limit: a shard was damaged, and may have more records now",
        hint="--overwrite converts all of it again",
    )


def forget_failed(root: Path, *, may_recut: bool) -> int:
    """Undo the parts below `root` in which a record failed, so that they are done anew; how many records those had.

    A shard that was damaged may have been mended: it is cut anew, if that may be.
    """
    check_alone(root.parent)
    ledger, records = Ledger(root), 0
    for part in ledger.begun():
        files = sorted((root / str(part)).glob("[0-9]*.npz"))
        facts = [read_facts(file, within=root) for file in files]
        failures = [failure for one in facts for failure in one.failures]
        if not failures:
            continue
        is_damaged = any(failure.is_damage for failure in failures)
        if is_damaged and not may_recut:
            raise recut_under_limit()
        records += max(one.records for one in facts)
        # from the end: what is left of it at any time is a part that has not come that far
        (root / str(part) / "done.json").unlink(missing_ok=True)
        for file in reversed(files):
            file.unlink()
        if is_damaged:
            ledger.forget(part)
    return records
