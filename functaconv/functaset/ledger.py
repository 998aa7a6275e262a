"""What of a functaset is done while it grows: folders of parts, and in each a file per block.

A part is a shard, or one of the ranges of records that a shard is cut into. A block file is complete or absent, so
the list of block files is the ledger: no second file can contradict it. `done.json` comes last and only adds up what
the blocks hold.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_json

from functaconv.documents import differences
from functaconv.errors import ChangedInputError
from functaconv.functaset.blocks import Block, Failure, read_block, read_facts, write_block
from functaconv.functaset.files import read_json, replace_bytes, sync
from functaconv.functaset.schema import canonical


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

    start: int = 0
    stop: int | None = None
    """None: to the end of the shard, wherever that is"""
    begin: tuple[int, int] | None = None
    """number and offset of a record at which reading can begin: the one before the first"""
    is_counted: bool = False
    """the shard was seen to have records up to `stop`"""


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

    rows: int = 0
    failed: int = 0
    ignored: int = 0
    records: int = 0
    has_meta: bool = False

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            rows=self.rows + other.rows,
            failed=self.failed + other.failed,
            ignored=self.ignored + other.ignored,
            records=self.records + other.records,
            has_meta=self.has_meta or other.has_meta,
        )


@dataclass(frozen=True)
class Ledger:
    """The parts below a folder."""

    root: Path

    def ranges(self, shard: int) -> tuple[Range, ...] | None:
        """How the shard is cut, if that was settled."""
        file = self._cut(shard)
        return tuple(map(_range, read_json(file))) if file.exists() else None

    def cut(self, shard: int, ranges: Sequence[Range]) -> None:
        """Settle how a shard is cut, before any of its parts begins."""
        replace_bytes(self._cut(shard), json.dumps([asdict(one) for one in ranges]).encode())

    def begin(self, part: Part, source: Mapping[str, Any]) -> Progress:
        folder = self._folder(part)
        folder.mkdir(exist_ok=True)
        sync(self.root)
        for leftover in folder.glob(".*.tmp"):
            # whoever wrote it is gone: a part has one writer
            leftover.unlink(missing_ok=True)
        self.check(part, source)
        if not self._source(part).exists():
            replace_bytes(self._source(part), to_json(canonical(dict(source))))
        return self.progress(part)

    def forget(self, part: Part) -> None:
        """What the part, without blocks by now, was made of; its shard need not be cut as it was."""
        self._source(part).unlink(missing_ok=True)
        self._cut(part.shard).unlink(missing_ok=True)

    def check(self, part: Part, source: Mapping[str, Any]) -> None:
        """ChangedInputError if the part was begun with another source."""
        if not self._source(part).exists():
            return
        if changes := differences(read_json(self._source(part)), canonical(dict(source))):
            raise ChangedInputError(
                f"changed input: part {part} of {self.root.parent}: {'; '.join(changes)}",
                hint="put the input back as it was, or start again with --overwrite",
            )

    def progress(self, part: Part) -> Progress:
        folder = self._folder(part)
        blocks = next(number for number in range(2**31) if not self._block(part, number).exists())
        done = read_json(folder / "done.json") if (folder / "done.json").exists() else None
        if done is not None and blocks >= done["blocks"]:
            return Progress(done["blocks"], done["end"], done["last_key"], done=True)
        if not blocks:
            return Progress(0, 0, None, done=False)
        last = read_facts(self._block(part, blocks - 1))
        return Progress(blocks, last.records, last.last_key, done=False, failures=tuple(last.failures))

    def commit(self, part: Part, number: int, block: Block) -> None:
        write_block(self._block(part, number), block)

    def end(self, part: Part, end: int, start: int = 0) -> None:
        progress = self.progress(part)
        totals = Totals(records=end - start)
        for number in range(progress.blocks):
            facts = read_facts(self._block(part, number))
            totals += Totals(facts.rows, len(facts.failures), facts.ignored, has_meta=facts.has_meta)
        done = {"blocks": progress.blocks, "end": end, "last_key": progress.last_key, "totals": asdict(totals)}
        replace_bytes(self._folder(part) / "done.json", json.dumps(done).encode())

    def parts_of(self, shard: int) -> list[Part]:
        """All parts of a shard, begun or not."""
        return [Part(shard, number) for number in range(len(self.ranges(shard) or (Range(),)))]

    def unfinished(self, shards: int) -> list[Part]:
        """The parts of so many shards that are not done."""
        return [part for shard in range(shards) for part in self.parts_of(shard) if not self._is_done(part)]

    def records(self) -> int:
        """How many records need no more work."""
        found = 0
        for part in self.begun():
            if (file := self._folder(part) / "done.json").exists():
                found += int(read_json(file)["totals"]["records"])
            elif records := self.progress(part).records:
                found += records - (self.ranges(part.shard) or (Range(),))[part.range].start
        return found

    def begun(self) -> list[Part]:
        """The parts that have begun, in the order of the input."""
        names = (folder.name for folder in self.root.iterdir() if re.fullmatch(r"\d{6}(\.\d{6})?", folder.name))
        return sorted(Part(*map(int, name.split("."))) for name in names)

    def totals(self) -> Totals:
        """What all parts hold together; ValueError unless all are done."""
        return sum((self._totals(part) for part in self._parts()), Totals())

    def blocks(self) -> Iterator[tuple[Part, Block]]:
        """All blocks with their part, in the order of the input."""
        for part in self._parts():
            for number in range(self.progress(part).blocks):
                yield part, read_block(self._block(part, number))

    def _parts(self) -> list[Part]:
        begun = self.begun()
        shards = 1 + max((part.shard for part in begun), default=-1)
        parts = [part for shard in range(shards) for part in self.parts_of(shard)]
        unfinished = [part for part in parts if not self.progress(part).done]
        if unfinished or parts != begun:
            raise ValueError(
                f"found parts {', '.join(map(str, begun))}; not done: {', '.join(map(str, unfinished)) or 'none'}"
            )
        return parts

    def _is_done(self, part: Part) -> bool:
        # cheap enough to be asked of every part, time and again; a lost block is noticed by who takes the part up
        return (self._folder(part) / "done.json").exists() and self.progress(part).done

    def _totals(self, part: Part) -> Totals:
        return Totals(**read_json(self._folder(part) / "done.json")["totals"])

    def _block(self, part: Part, number: int) -> Path:
        return self._folder(part) / f"{number:06d}.npz"

    def _folder(self, part: Part) -> Path:
        return self.root / str(part)

    def _source(self, part: Part) -> Path:
        return self._folder(part) / "source.json"

    def _cut(self, shard: int) -> Path:
        return self.root / f"{shard:06d}.ranges.json"


def _range(found: Mapping[str, Any]) -> Range:
    begin = found["begin"]
    return Range(found["start"], found["stop"], None if begin is None else (begin[0], begin[1]), found["is_counted"])
