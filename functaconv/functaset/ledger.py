"""What of a functaset is done while it grows: folders of parts, and in each a file per block.

A part is a shard, or one of the ranges of records that a shard is cut into. A block file is complete or absent, so
the list of block files is the ledger: no second file can contradict it. `done.json` comes last and only adds up what
the blocks hold.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter
from pydantic_core import to_json

from functaconv.documents import differences
from functaconv.errors import ChangedInputError, InputError
from functaconv.files import replace_bytes, sync
from functaconv.functaset.blocks import Block, Failure, read_block, read_facts, write_block
from functaconv.functaset.files import damaged, validated
from functaconv.functaset.schema import Layout, canonical

Count = Annotated[int, Field(strict=True, ge=0, le=2**40)]
Claim = Annotated[bool, Field(strict=True)]


class Part(NamedTuple):
    """The unit of work that one process takes."""

    shard: int
    range: int = 0
    """which of the shard's ranges of records"""

    def __str__(self) -> str:
        return f"{self.shard:06d}" + (f".{self.range:06d}" if self.range else "")


@dataclass(frozen=True)
class Range:
    """Records of a shard, half open."""

    start: Count = 0
    stop: Count | None = None
    """None: to the end of the shard, wherever that is"""
    begin: tuple[Count, Annotated[int, Field(strict=True, ge=0, le=2**62)]] | None = None
    """number and offset of a record at which reading can begin: the one before the first"""
    is_counted: Claim = False
    """the shard was seen to have records up to `stop`"""

    def __post_init__(self) -> None:
        if self.stop is not None and self.stop < self.start:
            raise ValueError(f"the records {self.start} to {self.stop}")
        if self.begin is not None and self.begin[0] + 1 != self.start:
            raise ValueError(f"reading begins at record {self.begin[0]}, the range at {self.start}")


@dataclass(frozen=True)
class Progress:
    """How far a part is."""

    blocks: int
    records: int
    """records of the shard before the first that needs work; 0 for a part that has not begun"""
    last_key: str | None
    done: bool
    failures: tuple[Failure, ...] = ()
    """of the last block, while the part is not done"""


@dataclass(frozen=True)
class Totals:
    """What parts hold together."""

    rows: Count = 0
    failed: Count = 0
    ignored: Count = 0
    records: Count = 0
    has_meta: Claim = False

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            rows=self.rows + other.rows,
            failed=self.failed + other.failed,
            ignored=self.ignored + other.ignored,
            records=self.records + other.records,
            has_meta=self.has_meta or other.has_meta,
        )


@dataclass(frozen=True)
class _Done:
    """What `done.json` says of a part."""

    blocks: Count
    end: Count
    """records of the shard up to and including this part"""
    last_key: str | None
    totals: Totals


_DONE, _RANGES = TypeAdapter(_Done), TypeAdapter(tuple[Range, ...])
_SOURCE = TypeAdapter(dict[str, Any])


@dataclass(frozen=True)
class Ledger:
    """The parts below a folder."""

    root: Path

    def ranges(self, shard: int) -> tuple[Range, ...] | None:
        """How the shard is cut, if that was settled."""
        file = self._cut(shard)
        if not os.path.lexists(file):
            return None
        found = validated(file, _RANGES, within=self.root)
        ends = [0, *(one.stop for one in found)]
        if not found or [one.start for one in found] != ends[:-1]:
            raise damaged(file, "the ranges do not follow each other")
        return found

    def cut(self, shard: int, ranges: Sequence[Range]) -> None:
        """Settle how a shard is cut, before any of its parts begins."""
        replace_bytes(self._cut(shard), json.dumps([asdict(one) for one in ranges]).encode())

    def begin(self, part: Part, source: Mapping[str, Any]) -> Progress:
        folder = self._folder(part)
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            raise damaged(folder, "not a folder of ours")
        folder.mkdir(exist_ok=True)
        sync(self.root)
        for leftover in folder.glob(".*.tmp"):
            # whoever wrote it is gone: a part has one writer
            leftover.unlink(missing_ok=True)
        self.check(part, source)
        if not os.path.lexists(self._source(part)):
            replace_bytes(self._source(part), to_json(canonical(dict(source))))
        return self.progress(part)

    def forget(self, part: Part) -> None:
        """What the part, without blocks by now, was made of; its shard need not be cut as it was."""
        self._source(part).unlink(missing_ok=True)
        self._cut(part.shard).unlink(missing_ok=True)

    def check(self, part: Part, source: Mapping[str, Any]) -> None:
        """ChangedInputError if the part was begun with another source."""
        if not os.path.lexists(self._source(part)):
            return
        found = validated(self._source(part), _SOURCE, within=self.root)
        if changes := differences(found, canonical(dict(source))):
            name = source.get("name", "a shard")
            raise ChangedInputError(
                f"changed input: {name} (part {part} of {self.root.parent}): {'; '.join(changes)}",
                hint="put the input back as it was, or start again with --overwrite",
            )

    def progress(self, part: Part) -> Progress:
        blocks = next(number for number in range(2**31) if not os.path.lexists(self._block(part, number)))
        done = self._done(part)
        if done is not None and blocks >= done.blocks:
            return Progress(done.blocks, done.end, done.last_key, done=True)
        if not blocks:
            return Progress(0, 0, None, done=False)
        last = read_facts(self._block(part, blocks - 1), within=self.root)
        return Progress(blocks, last.records, last.last_key, done=False, failures=tuple(last.failures))

    def commit(self, part: Part, number: int, block: Block) -> None:
        write_block(self._block(part, number), block)

    def end(self, part: Part, end: int, start: int = 0) -> None:
        progress = self.progress(part)
        totals = Totals(records=end - start)
        for number in range(progress.blocks):
            facts = read_facts(self._block(part, number), within=self.root)
            totals += Totals(facts.rows, len(facts.failures), facts.ignored, has_meta=facts.has_meta)
        done = {"blocks": progress.blocks, "end": end, "last_key": progress.last_key, "totals": asdict(totals)}
        replace_bytes(self._done_file(part), json.dumps(done).encode())

    def parts_of(self, shard: int) -> list[Part]:
        """All parts of a shard, begun or not."""
        return [Part(shard, number) for number in range(len(self.ranges(shard) or (Range(),)))]

    def unfinished(self, shards: int) -> list[Part]:
        """The parts of so many shards that are not done; an InputError if others have begun."""
        parts = [part for shard in range(shards) for part in self.parts_of(shard)]
        if strays := set(self.begun()).difference(parts):
            raise self._stray(min(strays))
        return [part for part in parts if not self._is_done(part)]

    def records(self) -> int:
        """How many records need no more work."""
        found = 0
        for part in self.begun():
            if (done := self._done(part)) is not None:
                found += done.totals.records
            elif records := self.progress(part).records:
                found += records - self._range(part).start
        return found

    def begun(self) -> list[Part]:
        """The parts that have begun, in the order of the input."""
        names = (folder.name for folder in self.root.iterdir() if re.fullmatch(r"[0-9]{6}(\.[0-9]{6})?", folder.name))
        return sorted(Part(*map(int, name.split("."))) for name in names)

    def totals(self) -> Totals:
        """What all parts hold together; ValueError unless all are done."""
        return sum((self._totals(part) for part in self._parts()), Totals())

    def blocks(self, layout: Layout) -> Iterator[tuple[Part, Block]]:
        """All blocks with their part, in the order of the input; an InputError unless they are of this layout and hold
        together what `done.json` says.
        """
        for part in self._parts():
            told = self._totals(part)
            found = Totals(records=told.records)
            for number in range(self.progress(part).blocks):
                block = read_block(self._block(part, number), layout, within=self.root)
                found += Totals(
                    rows=len(block),
                    failed=len(block.failures),
                    ignored=block.ignored,
                    has_meta=block.meta is not None,
                )
                yield part, block
            if found != told:
                raise damaged(self._done_file(part), f"the blocks hold {found}, it says {told}")

    def _parts(self) -> list[Part]:
        begun = self.begun()
        # a folder that was put here may claim to be of any shard
        shards = min(len(begun), 1 + max((part.shard for part in begun), default=-1))
        parts = [part for shard in range(shards) for part in self.parts_of(shard)]
        unfinished = [part for part in parts if not self.progress(part).done]
        if unfinished or parts != begun:
            raise ValueError(
                f"found parts {', '.join(map(str, begun))}; not done: {', '.join(map(str, unfinished)) or 'none'}"
            )
        return parts

    def _is_done(self, part: Part) -> bool:
        # cheap enough to be asked of every part, time and again; a lost block is noticed by who takes the part up
        return os.path.lexists(self._done_file(part)) and self.progress(part).done

    def _totals(self, part: Part) -> Totals:
        done = self._done(part)
        if done is None:
            raise ValueError(f"not done: {part}")
        return done.totals

    def _done(self, part: Part) -> _Done | None:
        file = self._done_file(part)
        return validated(file, _DONE, within=self.root) if os.path.lexists(file) else None

    def _range(self, part: Part) -> Range:
        ranges = self.ranges(part.shard) or (Range(),)
        if part.range >= len(ranges):
            raise self._stray(part)
        return ranges[part.range]

    def _stray(self, part: Part) -> InputError:
        folder = self._folder(part)
        return InputError(f"{folder}: no part of this input", hint=f"run the same encode again, or delete {folder}")

    def _done_file(self, part: Part) -> Path:
        return self._folder(part) / "done.json"

    def _block(self, part: Part, number: int) -> Path:
        return self._folder(part) / f"{number:06d}.npz"

    def _folder(self, part: Part) -> Path:
        return self.root / str(part)

    def _source(self, part: Part) -> Path:
        return self._folder(part) / "source.json"

    def _cut(self, shard: int) -> Path:
        return self.root / f"{shard:06d}.ranges.json"
