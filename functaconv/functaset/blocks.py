"""A block: rows and failures of a range of records, one file that is complete or absent."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from functaconv.documents import parse_json
from functaconv.files import replacing
from functaconv.functaset.attributes import Ignored
from functaconv.functaset.files import damaged, problems, whole_file
from functaconv.functaset.grids import GridTable
from functaconv.functaset.schema import Layout, columns

DAMAGED = "damaged shard: "
# bytes of a block: far above any real one, which is fitted in memory
MOST_BLOCK = 1 << 30

_TEXTS = ("key", "meta")
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
        """Whether it is not a record that failed, but the rest of a shard that is damaged."""
        return self.reason.startswith(DAMAGED)


@dataclass(frozen=True, eq=False)
class Block:
    """A range of records of one shard, converted: a row for each item, and the failures."""

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
    """`digest_of_plan` of what it was made for"""
    columns: Mapping[str, np.ndarray]
    """a row for each item, as `schema.columns` says, without `shard`; texts are object arrays, `meta` may be absent"""
    grids: GridTable | None = None
    """of items that lie at places of their own: what the columns `grid` and `mask` number"""
    failures: list[Failure] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    """kind -> how much of it was among the records"""

    def __len__(self) -> int:
        return len(self.columns["key"])

    def check(self, layout: Layout) -> None:
        """ValueError unless the block is made for a functaset of this layout."""
        expected = {column.name: column for column in columns(layout, meta="meta" in self.columns)}
        del expected["shard"]
        if self.columns.keys() != expected.keys():
            raise ValueError(f"found the columns {', '.join(self.columns)}; expected {', '.join(expected)}")
        for name, column in expected.items():
            array, empty, shape = self.columns[name], column.empty, (len(self), *column.tail)
            if array.shape != shape or array.dtype != empty.dtype:
                raise ValueError(f"{name}: expected {column.dtype} {shape}, found {array.dtype} {array.shape}")
        if not np.isfinite(self.columns["latent"]).all():
            raise ValueError("latent holds NaN or infinite numbers: such items are failures")

    @classmethod
    def joined(cls, blocks: Sequence["Block"]) -> "Block":
        """One block of blocks that follow each other, of one shard and with one table of grids."""
        last = blocks[-1]
        names = dict.fromkeys(name for block in blocks for name in block.columns)
        return replace(
            blocks[0],
            stop=last.stop,
            is_last=last.is_last,
            columns={name: np.concatenate([block.column(name) for block in blocks]) for name in names},
            failures=[failure for block in blocks for failure in block.failures],
            ignored=dict(sum((Counter(block.ignored) for block in blocks), Counter())),
        )

    def column(self, name: str) -> np.ndarray:
        """The rows of a column of the functaset."""
        if name == "shard":
            return np.full(len(self), self.shard, np.int32)
        if name == "meta" and name not in self.columns:
            return np.full(len(self), "null", object)
        return self.columns[name]


@dataclass(frozen=True)
class BlockFacts:
    """All of a block but its rows: read without them."""

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
    columns: list[str]
    """the names of those that the block has"""

    @property
    def has_meta(self) -> bool:
        return "meta" in self.columns


_FACTS, _TEXT_LIST = TypeAdapter(BlockFacts), TypeAdapter(list[str])


def write_block(path: Path, block: Block) -> None:
    facts = BlockFacts(
        **{name: getattr(block, name) for name in _OF_BLOCK},
        rows=len(block),
        failures=[
            replace(one, shard=_printable(one.shard), key=_printable(one.key), reason=_printable(one.reason))
            for one in block.failures
        ],
        columns=list(block.columns),
    )
    members: dict[str, Any] = {"facts": _pack(asdict(facts)), **block.columns}
    for name in _TEXTS:
        if name in members:
            members[name] = _pack([_printable(text) for text in members[name].tolist()])
    if block.grids is not None:
        members |= block.grids.to_members()
    with replacing(path) as file:
        np.savez(file, **members)


def read_facts(path: Path, *, within: Path) -> BlockFacts:
    """The facts of a block below `within`; its rows are not read."""
    with _members(path, within) as members:
        return _facts(members)


def read_block(path: Path, layout: Layout, *, within: Path) -> Block:
    """The whole block, below `within`; its checksums are checked, and that it is of the layout."""
    with _members(path, within) as members:
        facts = _facts(members)
        of_block: dict[str, Any] = {name: getattr(facts, name) for name in _OF_BLOCK}
        rows = {name: _texts(members[name]) if name in _TEXTS else members[name] for name in facts.columns}
        grids = GridTable.from_members(members) if layout.kind.has_coordinates else None
        block = Block(**of_block, columns=rows, grids=grids, failures=facts.failures)
        block.check(layout)
        if facts.rows != len(block):
            raise ValueError(f"found {len(block)} keys for {facts.rows} rows")
        return block


@contextmanager
def _members(path: Path, within: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a block, each read when it is asked for; an InputError for all that is wrong with them."""
    try:
        whole_file(within, path.relative_to(within).as_posix(), MOST_BLOCK)
        # numpy warns of impossible sizes before it refuses them
        with path.open("rb") as file, np.errstate(all="ignore"), np.load(file, allow_pickle=False) as members:
            yield members
    # numpy and zipfile raise errors of many kinds on damaged bytes
    except Exception as error:
        raise damaged(path, problems(error) if isinstance(error, ValidationError) else error) from error


def _facts(members: Mapping[str, np.ndarray]) -> BlockFacts:
    content = members["facts"].tobytes()
    return _FACTS.validate_python(parse_json(content))


def _pack(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode("ascii"), np.uint8)


def _texts(content: np.ndarray) -> np.ndarray:
    """A text for each row, object `[item]`."""
    return np.array(_TEXT_LIST.validate_json(content.tobytes()), object)


def _printable(text: str) -> str:
    """`text` as UTF-8 can hold it: bytes of a name that were no text appear as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
