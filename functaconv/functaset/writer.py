"""Writing a functaset so that a kill at any point costs one block.

The ledger holds what is done; `assemble` copies it to the final arrays and can be repeated; `seal`
makes the store a functaset by replacing one file.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from pydantic import JsonValue
from pydantic_core import to_json

from functaconv.files import replace_bytes, replacing, sync, sync_tree
from functaconv.functaset import arrays
from functaconv.functaset.beginning import is_finished, open_store
from functaconv.functaset.blocks import Block
from functaconv.functaset.files import array_bytes, digest_of, read_json
from functaconv.functaset.grids import GridTable, write_grids
from functaconv.functaset.ledger import Ledger, Part, Progress, Range, Totals
from functaconv.functaset.quantise import Quantiser
from functaconv.functaset.schema import (
    BASE,
    FAILED,
    OPTIONAL,
    PARTS,
    REPORT,
    VECTORS,
    Attributes,
    Column,
    Layout,
    attributes_digest,
    canonical,
    columns,
)

DEQUANTISED_TOGETHER = 1 << 23
"""numbers of a block: float64 takes four times the room of float16, or more"""


class FunctasetWriter:
    """One functaset being made. Different processes may write different parts at the same time."""

    def __init__(self, path: Path, layout: Layout, settings: dict[str, Any], *, finished: bool) -> None:
        self.path = path
        self.layout = layout
        self.settings = settings
        self.finished = finished
        self._ledger = Ledger(path / PARTS)
        self._totals: Totals | None = None
        self.duplicates = 0
        """assembled rows that have the key of an earlier one"""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        layout: Layout,
        settings: Mapping[str, JsonValue],
        *,
        overwrite: bool = False,
        run: str | None = None,
    ) -> Self:
        """Begin, or go on with, or find finished, the functaset at `path`.

        `overwrite` begins anew, but replaces nothing that is not a functaset, finished or not, and nothing that
        another process of the same `run` has begun.
        """
        # a link is followed: what it points to is replaced, not the link
        path = Path(os.path.realpath(path))
        finished = open_store(path, layout, settings, overwrite=overwrite, run=run)
        return cls(path, layout, canonical(dict(settings)), finished=finished)

    @property
    def parts(self) -> Path:
        """The folder where work in progress is."""
        return self.path / PARTS

    @property
    def is_sealed(self) -> bool:
        """Some process has finished it."""
        return is_finished(self.path)

    def ranges(self, shard: int, cut: Callable[[], Sequence[Range]]) -> tuple[Range, ...]:
        """How a shard is cut into parts: as was settled first, which is asked for once."""
        settled = self._ledger.ranges(shard)
        if settled is None:
            self._ledger.cut(shard, cut())
            settled = self._ledger.ranges(shard)
        assert settled is not None
        return settled

    def begin(self, part: Part, source: Mapping[str, JsonValue]) -> Progress:
        """How far the part is; `source` is the fingerprint of its input, which must not change."""
        return self._ledger.begin(part, source)

    def check(self, part: Part, source: Mapping[str, JsonValue]) -> None:
        """An InputError if the part was begun with another input."""
        self._ledger.check(part, source)

    def progress(self, part: Part) -> Progress:
        """How far the part is, which need not have begun."""
        return self._ledger.progress(part)

    def unfinished(self, shards: int) -> list[Part]:
        """The parts of so many shards that are not done."""
        return self._ledger.unfinished(shards)

    def records(self) -> int:
        """How many records need no more work."""
        return self._ledger.records()

    def records_of(self, shards: int) -> list[int]:
        """How many records each of so many shards gave."""
        return [self._ledger.progress(self._ledger.parts_of(shard)[-1]).records for shard in range(shards)]

    def commit(self, part: Part, number: int, block: Block) -> None:
        """Save a block of a part that has begun; on return it survives a kill and a power cut."""
        block.check(self.layout)
        self._ledger.commit(part, number, block)

    def end(self, part: Part, end: int, start: int = 0) -> None:
        """Mark the part as done: it had the records of its shard from `start` to `end`."""
        self._ledger.end(part, end, start)

    def totals(self) -> Totals:
        """What the parts hold together; ValueError unless all that began are done."""
        return self._ledger.totals()

    def assemble(self, quantiser: Quantiser) -> None:
        """Copy the parts, in their order, to the final arrays. Starts over each time it is called."""
        if quantiser.bits != self.layout.bits:
            raise ValueError(f"the layout stores {self.layout.bits}, the quantiser makes {quantiser.bits}")
        totals = self.totals()
        self._clear()
        group = zarr.create_group(self.path, zarr_format=3)
        writers = [
            (column, arrays.RowWriter(arrays.create_column(group, column, totals.rows), column))
            for column in columns(self.layout, meta=totals.has_meta)
        ]
        moments, keys = _Moments(self.layout.latent), _Keys()
        together = max(1, DEQUANTISED_TOGETHER // self.layout.numbers)
        table = GridTable()
        with replacing(self.path / FAILED) as failed:
            for (shard, _), block in self._ledger.blocks(self.layout):
                if block.grids is not None:
                    grid, mask = table.merge(block.grids.table, block.grids.grid, block.grids.mask)
                    block = replace(block, grids=replace(block.grids, grid=grid, mask=mask))
                for column, writer in writers:
                    writer.add(_rows(block, column, shard))
                keys.add(block.keys)
                for start in range(0, len(block), together):
                    moments.add(quantiser.dequantise(block.latent[start : start + together]))
                for failure in block.failures:
                    failed.write(json.dumps(asdict(failure)).encode() + b"\n")
        for _, writer in writers:
            writer.flush()
        if self.layout.modality == "grid":
            write_grids(group, table)
        arrays.create_vector(group, "latent_mean", moments.mean)
        arrays.create_vector(group, "latent_std", moments.std)
        if quantiser.scale is not None and quantiser.offset is not None:
            arrays.create_vector(group, "latent_scale", quantiser.scale)
            arrays.create_vector(group, "latent_offset", quantiser.offset)
        self._totals = totals
        self.duplicates = keys.duplicates()

    def column(self, name: str) -> np.ndarray:
        """All rows of an assembled array, such as "mse": what a report needs before sealing."""
        array = zarr.open_group(self.path, mode="r", use_consolidated=False)[name]
        if not isinstance(array, zarr.Array):
            raise ValueError(f"{name} is not an array")
        return arrays.read(array, slice(None))

    def nbytes(self) -> int:
        """Bytes on disk of the assembled rows: what `Functaset.nbytes` gives once it is sealed."""
        return array_bytes(self.path)

    def seal(self, attributes: Attributes, base: bytes, report: Mapping[str, Any]) -> None:
        """Make the assembled store a functaset, and remove the parts."""
        self._check_claims(attributes, base)
        replace_bytes(self.path / BASE, base)
        replace_bytes(self.path / REPORT, to_json(dict(report), indent=2, inf_nan_mode="null"))
        sealed = canonical(attributes.model_dump())
        sealed["files_sha256"] = {name: digest_of(self.path, name) for name in (REPORT, FAILED)}
        sealed["attributes_sha256"] = attributes_digest(sealed)
        # zarr does not fsync; all must be on the disk before the attributes say that it is
        for child in self.path.iterdir():
            if child.name != PARTS:
                sync_tree(child) if child.is_dir() else sync(child)
        sync(self.path)
        root = {
            "attributes": {"functaconv": sealed},
            "zarr_format": 3,
            "node_type": "group",
            # as zarr.consolidate_metadata writes it, which would warn of every file that is no array,
            # and replace zarr.json a second time
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": {
                    file.parent.relative_to(self.path).as_posix(): read_json(file)
                    for file in sorted(self.path.rglob("*/zarr.json"))
                    # an old functaset that was replaced may lie among the parts
                    if not file.is_relative_to(self.path / PARTS)
                },
            },
        }
        replace_bytes(self.path / "zarr.json", json.dumps(root, indent=2, allow_nan=False).encode())
        self.finished = True
        # another process may see that it is sealed and remove them too
        shutil.rmtree(self.path / PARTS, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a process that came late put among the parts of a finished functaset."""
        if self.is_sealed:
            shutil.rmtree(self.path / PARTS, ignore_errors=True)

    def _check_claims(self, attributes: Attributes, base: bytes) -> None:
        totals = self._totals
        if totals is None:
            raise ValueError("assemble before sealing, in the same process")
        claims = {
            "layout": (attributes.layout, self.layout),
            "settings": (canonical(attributes.settings), self.settings),
            "summary": ((attributes.count, attributes.failed), (totals.rows, totals.failed)),
            "base_sha256": (attributes.base_sha256, sha256(base).hexdigest()),
        }
        for name, (claimed, known) in claims.items():
            if claimed != known:
                raise ValueError(f"attributes: {name} is {claimed!r}, but the store has {known!r}")

    def _clear(self) -> None:
        """Remove what an earlier `assemble` or `seal` left."""
        for name in (*(column.name for column in columns(self.layout, meta=False)), *OPTIONAL, *VECTORS):
            # a link is not followed: what it leads to is not ours
            if (self.path / name).is_symlink():
                (self.path / name).unlink()
            elif (self.path / name).exists():
                shutil.rmtree(self.path / name)
        leftovers = [*self.path.glob(".*.tmp"), *self.path.glob("*.partial")]
        for file in (*leftovers, *(self.path / name for name in ("zarr.json", FAILED, BASE, REPORT))):
            file.unlink(missing_ok=True)


class _Moments:
    """Mean and standard deviation per latent, in float64, of values that come in portions."""

    def __init__(self, latent: int) -> None:
        self._count = 0
        self._mean = np.zeros(latent)
        self._squares = np.zeros(latent)

    def add(self, latents: np.ndarray) -> None:
        values = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
        if not len(values):
            return
        mean = values.mean(axis=0)
        squares = ((values - mean) ** 2).sum(axis=0)
        # Chan, Golub and LeVeque's update: no cancellation when the mean is large
        total = self._count + len(values)
        shift = mean - self._mean
        self._squares += squares + shift**2 * (self._count * len(values) / total)
        self._mean += shift * (len(values) / total)
        self._count = total

    @property
    def mean(self) -> np.ndarray:
        return self._mean

    @property
    def std(self) -> np.ndarray:
        """0 for a latent that never varies; 1 when there are no items."""
        return np.sqrt(self._squares / self._count) if self._count else np.ones_like(self._squares)


class _Keys:
    """Keys that come in portions, remembered as eight bytes each."""

    def __init__(self) -> None:
        self._digests: list[np.ndarray] = []

    def add(self, keys: Sequence[str]) -> None:
        digests = (blake2b(key.encode("utf-8", "backslashreplace"), digest_size=8).digest() for key in keys)
        self._digests.append(np.frombuffer(b"".join(digests), np.uint64))

    def duplicates(self) -> int:
        """How many are the same as an earlier one; two of a billion keys that differ may be taken for the same."""
        digests = np.concatenate([*self._digests, np.empty(0, np.uint64)])
        return len(digests) - len(np.unique(digests))


def _rows(block: Block, column: Column, shard: int) -> np.ndarray:
    """The block's rows of one column."""
    match column.name:
        case "key":
            return np.array(block.keys, dtype=object)
        case "meta":
            return np.array(block.meta or ["null"] * len(block), dtype=object)
        case "shard":
            return np.full(len(block), shard, np.int32)
        case name:
            return block.column(name)
