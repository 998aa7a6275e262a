"""A block: rows and failures of a range of records, one file that is complete or absent."""

import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from functaconv.documents import parse_json
from functaconv.files import replacing
from functaconv.functaset.attributes import Ignored
from functaconv.functaset.files import damaged, first_problem, whole_file
from functaconv.functaset.grids import GridTable
from functaconv.functaset.schema import Layout, columns

DAMAGED = "damaged shard: "
MOST_BLOCK = 1 << 30
"""bytes: far above any block, which one process fits in memory"""

_ARRAYS = ("latent", "label", "shape", "mse", "psnr", "record")
_OF_GRIDS = ("grid", "mask", "time")
_OF_BLOCK = ("shard", "number", "start", "stop", "is_last", "source", "run", "ignored")

Count = Annotated[int, Field(strict=True, ge=0, le=2**40)]
Claim = Annotated[bool, Field(strict=True)]


@dataclass(frozen=True)
class Failure:
    """A record that could not be converted, and why."""

    shard: str
    record: int
    key: str
    reason: str
    input: int = 0
    """which of the shards: names may occur twice"""

    @property
    def is_damage(self) -> bool:
        """Not a record, but the shard from here on."""
        return self.reason.startswith(DAMAGED)


@dataclass(frozen=True, eq=False)
class Block:
    """What came of a range of records of one shard: a row for each item that could be converted."""

    shard: int
    number: int
    """of the block in its shard"""
    start: int
    """first record"""
    stop: int
    """record after the last"""
    is_last: bool
    """the shard ends here"""
    source: Mapping[str, Any]
    """the fingerprint of the shard when it was opened"""
    run: str
    """which settings it was made with"""
    latent: np.ndarray
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
    meta: list[str] | None = None
    tile: np.ndarray | None = None
    """int32 [item, 2 * axis]: origin, then the shape of the whole item"""
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    """float32 [item] or [item, variable], by name: what is measured besides mse"""
    grids: "Grids | None" = None
    failures: list[Failure] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    """kind -> how much of it was among the records"""

    def __len__(self) -> int:
        return len(self.keys)

    def check(self, layout: Layout) -> None:
        """ValueError unless the block is made for a functaset of this layout."""
        if (self.tile is not None) != layout.tiled:
            raise ValueError(f"tile is {self.tile!r}, but the layout says tiled={layout.tiled}")
        if self.meta is not None and len(self.meta) != len(self):
            raise ValueError(f"found {len(self.meta)} meta for {len(self)} keys")
        if (self.grids is not None) != layout.kind.has_coordinates:
            raise ValueError(f"grids {'are' if self.grids else 'are not'} given, the layout is of {layout.modality}")
        for column in columns(layout, meta=False):
            if column.name in ("key", "shard"):
                continue
            array = self.column(column.name)
            expected = (len(self), *column.tail)
            if array.shape != expected or array.dtype != column.dtype:
                raise ValueError(
                    f"{column.name}: expected {column.dtype} {expected}, found {array.dtype} {array.shape}"
                )
        if not np.isfinite(self.latent).all():
            raise ValueError("latent holds NaN or infinite numbers: such items are failures")
        if self.grids is not None:
            self.grids.check(len(layout.variables))

    @classmethod
    def joined(cls, blocks: Sequence["Block"]) -> "Block":
        """One block of blocks that follow each other, of one shard and with one table of grids."""
        first, last = blocks[0], blocks[-1]
        if len(blocks) == 1:
            return first

        def together(name: str) -> np.ndarray:
            return np.concatenate([block.column(name) for block in blocks])

        has_meta = any(block.meta is not None for block in blocks)
        rows: dict[str, Any] = {name: together(name) for name in _ARRAYS}
        return replace(
            first,
            **rows,
            stop=last.stop,
            is_last=last.is_last,
            keys=[key for block in blocks for key in block.keys],
            meta=[text for block in blocks for text in block.meta or ["null"] * len(block)] if has_meta else None,
            tile=None if first.tile is None else together("tile"),
            measures={name: together(name) for name in first.measures},
            grids=None if first.grids is None else Grids(first.grids.table, *map(together, _OF_GRIDS)),
            failures=[failure for block in blocks for failure in block.failures],
            ignored=dict(sum((Counter(block.ignored) for block in blocks), Counter())),
        )

    def column(self, name: str) -> np.ndarray:
        """The rows of a column of numbers."""
        if name in self.measures:
            return self.measures[name]
        holder = self.grids if name in _OF_GRIDS else self
        array = getattr(holder, name, None)
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name}: the block has no such column")
        return array


@dataclass(frozen=True, eq=False)
class Grids:
    """Where and when the rows of a block are, that lie at places of their own."""

    table: GridTable
    grid: np.ndarray
    """int32 [item], into the table"""
    mask: np.ndarray
    """int32 [item], into the grid's masks, -1 where nothing is missing"""
    time: np.ndarray
    """int64 [item], seconds since 1970"""

    def check(self, variables: int) -> None:
        """ValueError unless every row has a grid and mask that are there, masks of so many variables."""
        if any(axes.shape not in ((), (*axes.size, variables)) for axes in self.table):
            raise ValueError(f"masks that are not of {variables} variables")
        masks = np.array([len(axes.masks) for axes in self.table])
        if ((self.grid < 0) | (self.grid >= len(masks))).any():
            raise ValueError("a row has a grid that is not there")
        if ((self.mask < -1) | (self.mask >= masks[self.grid])).any():
            raise ValueError("a row has a mask that is not there")


@dataclass(frozen=True)
class BlockFacts:
    """What a block says besides its rows."""

    shard: Count
    number: Count
    start: Count
    stop: Count
    is_last: Claim
    source: dict[str, Any]
    run: str
    rows: Count
    failures: list[Failure]
    ignored: Ignored
    has_meta: Claim
    measures: list[str] = field(default_factory=list)


_FACTS, _TEXTS = TypeAdapter(BlockFacts), TypeAdapter(list[str])


def write_block(path: Path, block: Block) -> None:
    facts = BlockFacts(
        **{name: getattr(block, name) for name in _OF_BLOCK},
        rows=len(block),
        failures=[
            replace(one, shard=_printable(one.shard), key=_printable(one.key), reason=_printable(one.reason))
            for one in block.failures
        ],
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


def read_facts(path: Path, *, within: Path) -> BlockFacts:
    """What a block below `within` says besides its rows, without reading them."""
    with _members(path, within) as members:
        return _facts(members)


def read_block(path: Path, layout: Layout | None = None, *, within: Path) -> Block:
    """The whole block, below `within`; its checksums are checked, and that it is of the layout where one is given."""
    with _members(path, within) as members:
        facts = _facts(members)
        of_block: dict[str, Any] = {name: getattr(facts, name) for name in _OF_BLOCK}
        rows: dict[str, Any] = {name: members[name] for name in _ARRAYS}
        of_grids = [members[name] for name in _OF_GRIDS if name in members]
        block = Block(
            **of_block,
            **rows,
            keys=_texts(members, "keys"),
            meta=_texts(members, "meta") if facts.has_meta else None,
            tile=members.get("tile"),
            measures={name: members[f"measure_{name}"] for name in facts.measures},
            grids=Grids(GridTable.from_members(members), *of_grids) if of_grids else None,
            failures=facts.failures,
        )
        if facts.rows != len(block):
            raise ValueError(f"found {len(block)} keys for {facts.rows} rows")
        if layout is not None:
            block.check(layout)
        return block


@contextmanager
def _members(path: Path, within: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a block, each read when it is asked for; an InputError for all that is wrong with them."""
    try:
        whole_file(within, path.relative_to(within).as_posix(), MOST_BLOCK)
        with path.open("rb") as file:
            _check_sizes(file)
            # of sizes that were made up numpy warns before it refuses them
            with np.errstate(all="ignore"), np.load(file, allow_pickle=False) as members:
                yield members
    # numpy and zipfile raise whatever they like on damaged bytes
    except Exception as error:
        raise damaged(path, first_problem(error) if isinstance(error, ValidationError) else error) from error


def _check_sizes(file: BinaryIO) -> None:
    """ValueError if the members claim more than the file holds: they are written as they are."""
    room = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            room -= member.file_size
            if member.compress_type != zipfile.ZIP_STORED or room < 0:
                raise ValueError(f"{member.filename} is compressed, or larger than the file")
    file.seek(0)


def _facts(members: Mapping[str, np.ndarray]) -> BlockFacts:
    content = members["facts"].tobytes()
    return _FACTS.validate_python(parse_json(content))


def _pack(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode("ascii"), np.uint8)


def _texts(members: Mapping[str, np.ndarray], name: str) -> list[str]:
    """One for each row: a text may be long, but they cannot be many."""
    content, rows = members[name].tobytes(), len(members["psnr"])
    if content.count(b'"') - content.count(b'\\"') > 2 * rows:
        raise ValueError(f"{name}: more than {rows} texts")
    return _TEXTS.validate_json(content)


def _printable(text: str) -> str:
    """`text` as UTF-8 can hold it: bytes of a name that were no text appear as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
