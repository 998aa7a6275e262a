"""A block: rows and failures of a run of records, one file that is complete or absent."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from functaconv.errors import InputError
from functaconv.functaset.files import replacing
from functaconv.functaset.grids import GridTable
from functaconv.functaset.schema import Layout, columns

DAMAGED = "damaged shard: "
_ARRAYS = ("modulation", "label", "shape", "mse", "psnr", "record")
_OF_GRIDS = ("grid", "mask", "time")
# a damaged zip can look compressed, encrypted or of a later version
_DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Failure:
    """A record that could not be converted, and why."""

    shard: str
    record: int
    key: str
    reason: str

    @property
    def is_damage(self) -> bool:
        """Not a record, but the shard from here on."""
        return self.reason.startswith(DAMAGED)


@dataclass(frozen=True, eq=False)
class Block:
    """What came of a run of records: a row for each item that could be converted."""

    modulation: np.ndarray
    """[item, *sites, latent], as stored"""
    keys: list[str]
    label: np.ndarray
    """int64 [item], -1 for none"""
    shape: np.ndarray
    """int32 [item, axis]"""
    mse: np.ndarray
    """float32 [item]"""
    psnr: np.ndarray
    """float32 [item]"""
    record: np.ndarray
    """int32 [item], which record of its shard it was"""
    records: int
    """records of the shard up to and including this block"""
    last_key: str | None
    """of the last record; None where that is not known any more"""
    meta: list[str] | None = None
    tile: np.ndarray | None = None
    """int32 [item, 2 * axis]: origin, then the shape of the whole image"""
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    """float32 [item] or [item, variable], by name: what is measured besides mse"""
    grids: "Grids | None" = None
    failures: list[Failure] = field(default_factory=list)
    ignored: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def check(self, layout: Layout) -> None:
        """ValueError unless the block is made for a functaset of this layout."""
        if (self.tile is not None) != layout.tiled:
            raise ValueError(f"tile is {self.tile!r}, but the layout says tiled={layout.tiled}")
        if self.meta is not None and len(self.meta) != len(self):
            raise ValueError(f"found {len(self.meta)} meta for {len(self)} keys")
        for column in columns(layout, meta=False):
            if column.name in ("key", "part"):
                continue
            array = self.column(column.name)
            expected = (len(self), *column.tail)
            if array.shape != expected or array.dtype != column.dtype:
                raise ValueError(
                    f"{column.name}: expected {column.dtype} {expected}, found {array.dtype} {array.shape}"
                )
        if not np.isfinite(self.modulation).all():
            raise ValueError("modulation holds NaN or infinite numbers: such items are failures")

    def column(self, name: str) -> np.ndarray:
        """The rows of a column of numbers."""
        if name in self.measures:
            return self.measures[name]
        holder = self.grids if name in _OF_GRIDS else self
        found = getattr(holder, name, None)
        if not isinstance(found, np.ndarray):
            raise ValueError(f"{name}: the block has no such column")
        return found


@dataclass(frozen=True, eq=False)
class Grids:
    """Where and when the rows of a block of latitude-longitude grids are."""

    table: GridTable
    grid: np.ndarray
    """int32 [item], into the table"""
    mask: np.ndarray
    """int32 [item], into the grid's masks, -1 where nothing is missing"""
    time: np.ndarray
    """int64 [item], seconds since 1970"""


@dataclass(frozen=True)
class BlockFacts:
    """What a block says besides its rows."""

    rows: int
    failures: list[Failure]
    ignored: int
    records: int
    last_key: str | None
    has_meta: bool
    measures: list[str] = field(default_factory=list)


def write_block(path: Path, block: Block) -> None:
    facts = BlockFacts(
        rows=len(block),
        failures=[
            Failure(_printable(one.shard), one.record, _printable(one.key), _printable(one.reason))
            for one in block.failures
        ],
        ignored=block.ignored,
        records=block.records,
        # unchanged: on resuming it is compared with the key that the input has
        last_key=block.last_key,
        has_meta=block.meta is not None,
        measures=list(block.measures),
    )
    members = {name: getattr(block, name) for name in _ARRAYS}
    members["facts"] = _pack(asdict(facts))
    members["keys"] = _pack([_printable(key) for key in block.keys])
    if block.meta is not None:
        members["meta"] = _pack([_printable(meta) for meta in block.meta])
    if block.tile is not None:
        members["tile"] = block.tile
    members |= {f"measure_{name}": values for name, values in block.measures.items()}
    if block.grids is not None:
        members |= {name: getattr(block.grids, name) for name in _OF_GRIDS}
        members |= block.grids.table.to_members()
    with replacing(path) as file:
        np.savez(file, **members)


def read_facts(path: Path) -> BlockFacts:
    """What a block says besides its rows, without reading them."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            return _facts(members)
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def read_block(path: Path) -> Block:
    """The whole block; its checksums are checked."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            facts = _facts(members)
            return Block(
                **{name: members[name] for name in _ARRAYS},
                keys=_unpack(members["keys"]),
                meta=_unpack(members["meta"]) if facts.has_meta else None,
                tile=members.get("tile"),
                measures={name: members[f"measure_{name}"] for name in facts.measures},
                grids=_grids(members) if "grid" in members else None,
                failures=facts.failures,
                ignored=facts.ignored,
                records=facts.records,
                last_key=facts.last_key,
            )
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: a saved block is damaged: {error}", hint=f"delete {path} and run again")


def _grids(members: Mapping[str, np.ndarray]) -> Grids:
    return Grids(GridTable.from_members(members), **{name: members[name] for name in _OF_GRIDS})


def _facts(members: Mapping[str, np.ndarray]) -> BlockFacts:
    found = _unpack(members["facts"])
    failures = [Failure(**failure) for failure in found.pop("failures")]
    return BlockFacts(**found, failures=failures)


def _pack(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode("ascii"), np.uint8)


def _unpack(stored: np.ndarray) -> Any:
    return json.loads(stored.tobytes())


def _printable(text: str) -> str:
    """`text` as UTF-8 can hold it: bytes of a name that were no text appear as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
