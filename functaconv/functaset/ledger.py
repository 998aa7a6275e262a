"""What of a functaset is done while it grows: folders of parts, and in each a file per block.

A part is a shard, or one of the ranges of records that a shard is cut into. A block file is complete or absent, so
the list of block files is the ledger: no second file can contradict it. `done.json` comes last and only adds up what
the blocks hold.
"""

import errno
import glob
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_json

from functaconv.errors import ChangedInputError, OutputExistsError
from functaconv.functaset.blocks import Block, Failure, read_block, read_facts, write_block
from functaconv.functaset.claims import Claims, Owner, locked
from functaconv.functaset.files import read_json, replace_bytes, sync
from functaconv.functaset.schema import FORMAT, VERSION, Layout, canonical, parse_attributes

PARTS = "_parts"
SETTINGS = "settings.json"
FORGOTTEN = 3600.0
"""seconds after which the beginning of a store that nobody completed is swept away"""
_ABSENT = "nothing"


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


def open_store(
    path: Path, layout: Layout, settings: Mapping[str, Any], *, overwrite: bool, run: str | None = None
) -> bool:
    """Make sure that a store with these settings stands at `path`, and say whether it is finished.

    What another process of the same `run` began is not overwritten again. OutputExistsError when what is to be
    overwritten is being written.
    """

    def is_old() -> bool:
        return run is None or _run_of(path) != run

    overwrite = overwrite and is_old()
    exists = check_store(path, layout, settings, overwrite=overwrite)
    if overwrite or not exists:
        clear_staging(path)
        _create(path, {**_description(layout, settings), "run": run}, replaces=is_old if exists else None)
        # another process may have been first, with settings of its own
        check_store(path, layout, settings, overwrite=False)
    is_finished = _attributes(path) is not None
    if is_finished:
        # the last run may have been killed after sealing
        shutil.rmtree(path / PARTS, ignore_errors=True)
    return is_finished


def is_finished(path: Path) -> bool:
    """There is a sealed functaset at `path`."""
    return _attributes(path) is not None


def check_store(path: Path, layout: Layout, settings: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether there is a store at `path`; an error unless it is ours and, but to `overwrite`, has these settings."""
    asked = _description(layout, settings)
    exists = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if exists and not is_ours(path):
        raise OutputExistsError(f"{path} exists and is not a functaset", hint="choose another name, or move it away")
    if overwrite or not exists:
        return exists
    attributes = _attributes(path)
    if attributes is not None:
        sealed = parse_attributes(attributes, path)
        found = _description(sealed.layout, sealed.settings)
    else:
        found = {name: value for name, value in read_json(path / PARTS / SETTINGS).items() if name != "run"}
    if changes := differences(found, asked):
        raise OutputExistsError(
            f"{path} was made with other settings: {'; '.join(changes)}", hint="--overwrite or another name"
        )
    return True


def is_ours(path: Path) -> bool:
    """There is a functaset at `path`, finished or not."""
    return _attributes(path) is not None or is_unfinished(path)


def is_unfinished(path: Path) -> bool:
    """There is the beginning of a functaset at `path`; true also just after it was finished."""
    found = _json_or_none(path / PARTS / SETTINGS)
    return isinstance(found, dict) and found.get("format") == FORMAT


def differences(found: Any, asked: Any, name: str = "") -> list[str]:
    """Each place where two JSON values differ, with both values."""
    if isinstance(found, dict) and isinstance(asked, dict):
        names = sorted(found.keys() | asked.keys())
        return [
            line
            for key in names
            for line in differences(found.get(key, _ABSENT), asked.get(key, _ABSENT), f"{name}.{key}".removeprefix("."))
        ]
    return [] if found == asked else [f"{name}: found {found!r}, asked for {asked!r}"]


def _description(layout: Layout, settings: Mapping[str, Any]) -> dict[str, Any]:
    content = {"format": FORMAT, "version": VERSION, "layout": layout.model_dump(), "settings": settings}
    description: dict[str, Any] = canonical(content)
    return description


def _create(
    path: Path,
    description: dict[str, Any],
    *,
    replaces: Callable[[], bool] | None,
    fill: Callable[[Path], None] = lambda _: None,
) -> None:
    """Put a store without arrays at `path`, in one step. It takes the place of ours if there is one, and it is one that
    `replaces`: asked when nobody else can replace it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    replaced = Path(PARTS, "replaced")
    try:
        (staging / PARTS).mkdir(parents=True)
        replace_bytes(staging / PARTS / SETTINGS, to_json(description))
        fill(staging)
        sync(staging)
        with _alone_with(path):
            if path.exists() and replaces is not None:
                if not replaces():
                    # another process of ours was first
                    shutil.rmtree(staging)
                    return
                check_alone(path)
                # below the parts: should we be killed now, it goes when they go
                path.rename(staging / replaced)
            staging.rename(path)
    except BaseException as error:
        if (staging / replaced).exists() and not path.exists():
            (staging / replaced).rename(path)
        shutil.rmtree(staging, ignore_errors=True)
        # another process was first, which is as good
        if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync(path.parent)
    shutil.rmtree(path / replaced, ignore_errors=True)


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Of those who would replace the folder at `path`, at most one at a time goes on. There need not be a folder."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            yield
            return
        try:
            with locked(descriptor):
                # while we waited somebody may have put another in its place
                if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                    yield
                    return
        finally:
            os.close(descriptor)


def check_alone(path: Path) -> None:
    """OutputExistsError when a live process is writing the store at `path`."""
    with closing(Claims(path / PARTS, Owner(uuid.uuid4().hex))) as claims:
        claims.check_alone()


def replace_store(path: Path, layout: Layout, settings: Mapping[str, Any], fill: Callable[[Path], None]) -> None:
    """Put an unfinished store in the place of a finished one; `fill` makes its parts, below the folder it is given."""
    description = {**_description(layout, settings), "run": None}
    _create(path, description, replaces=lambda: is_finished(path), fill=fill)


def forget_failed(root: Path) -> int:
    """Undo the parts below `root` in which a record failed, so that they are done anew; how many records those had."""
    check_alone(root.parent)
    ledger, records = Ledger(root), 0
    for part in ledger.begun():
        files = sorted((root / str(part)).glob("[0-9]*.npz"))
        if any(read_facts(file).failures for file in files):
            records += max(read_facts(file).records for file in files)
            # from the end: what is left of it at any time is a part that has not come that far
            (root / str(part) / "done.json").unlink(missing_ok=True)
            for file in reversed(files):
                file.unlink()
    return records


def clear_staging(path: Path) -> None:
    """Remove beginnings of a store at `path` that were killed before they had its name."""
    for staging in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        with suppress(OSError):
            if time.time() - staging.stat().st_mtime > FORGOTTEN and not (staging / PARTS / "replaced").exists():
                shutil.rmtree(staging, ignore_errors=True)


def _run_of(path: Path) -> str | None:
    """The run that made or makes what is at `path`."""
    attributes = _attributes(path)
    found = attributes if attributes is not None else _json_or_none(path / PARTS / SETTINGS)
    return found.get("run") if isinstance(found, dict) else None


def _attributes(path: Path) -> dict[str, Any] | None:
    """The attributes of a sealed store, unchecked."""
    root = _json_or_none(path / "zarr.json")
    attributes = root.get("attributes") if isinstance(root, dict) else None
    found = attributes.get("functaconv") if isinstance(attributes, dict) else None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def _json_or_none(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
