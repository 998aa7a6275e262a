"""What of a functaset is done while it grows: folders of parts, and in each a file per block.

A block file is complete or absent, so the list of block files is the ledger: no second file can
contradict it. `done.json` comes last and only adds up what the blocks hold.
"""

import errno
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from functaconv.errors import InputError, OutputExistsError
from functaconv.functaset.blocks import Block, Failure, read_block, read_facts, write_block
from functaconv.functaset.files import read_json, replace_bytes, sync
from functaconv.functaset.schema import FORMAT, VERSION, Layout, canonical, parse_attributes

PARTS = "_parts"
_ABSENT = "nothing"


@dataclass(frozen=True)
class Progress:
    """How far a part is."""

    blocks: int
    records: int
    """records of the part that need no more work"""
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

    def begin(self, part: int, source: Mapping[str, Any]) -> Progress:
        folder = self._folder(part)
        folder.mkdir(exist_ok=True)
        sync(self.root)
        asked = canonical(dict(source))
        file = folder / "source.json"
        if not file.exists():
            replace_bytes(file, to_json(asked))
        elif changes := differences(read_json(file), asked):
            raise InputError(
                f"changed input: part {part} of {self.root.parent}: {'; '.join(changes)}",
                hint="put the input back as it was, or start again with --overwrite",
            )
        return self.progress(part)

    def progress(self, part: int) -> Progress:
        folder = self._folder(part)
        blocks = next(number for number in range(2**31) if not self._block(part, number).exists())
        done = read_json(folder / "done.json") if (folder / "done.json").exists() else None
        if done is not None and blocks >= done["blocks"]:
            return Progress(done["blocks"], done["totals"]["records"], done["last_key"], done=True)
        if not blocks:
            return Progress(0, 0, None, done=False)
        last = read_facts(self._block(part, blocks - 1))
        return Progress(blocks, last.records, last.last_key, done=False, failures=tuple(last.failures))

    def commit(self, part: int, number: int, block: Block) -> None:
        write_block(self._block(part, number), block)

    def end(self, part: int, records: int) -> None:
        progress = self.progress(part)
        totals = Totals(records=records)
        for number in range(progress.blocks):
            facts = read_facts(self._block(part, number))
            totals += Totals(facts.rows, len(facts.failures), facts.ignored, has_meta=facts.has_meta)
        done = {"blocks": progress.blocks, "last_key": progress.last_key, "totals": asdict(totals)}
        replace_bytes(self._folder(part) / "done.json", json.dumps(done).encode())

    def totals(self) -> Totals:
        """What all parts hold together; ValueError unless all are done."""
        return sum((self._totals(part) for part in self._parts()), Totals())

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """All blocks with their part, in the order of the input."""
        for part in self._parts():
            for number in range(self.progress(part).blocks):
                yield part, read_block(self._block(part, number))

    def _parts(self) -> range:
        numbers = sorted(int(folder.name) for folder in self.root.iterdir() if folder.name.isdigit())
        unfinished = [part for part in numbers if not self.progress(part).done]
        if unfinished or numbers != list(range(len(numbers))):
            raise ValueError(f"found parts {numbers}, of which {unfinished} are not done")
        return range(len(numbers))

    def _totals(self, part: int) -> Totals:
        return Totals(**read_json(self._folder(part) / "done.json")["totals"])

    def _block(self, part: int, number: int) -> Path:
        return self._folder(part) / f"{number:06d}.npz"

    def _folder(self, part: int) -> Path:
        return self.root / f"{part:06d}"


def open_store(path: Path, layout: Layout, settings: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Make sure that a store with these settings stands at `path`, and say whether it is finished."""
    exists = check_store(path, layout, settings, overwrite=overwrite)
    if overwrite or not exists:
        _create(path, _description(layout, settings), replaces=exists)
        # another process may have been first, with settings of its own
        check_store(path, layout, settings, overwrite=False)
    is_finished = _attributes(path) is not None
    if is_finished:
        # the last run may have been killed after sealing
        shutil.rmtree(path / PARTS, ignore_errors=True)
    return is_finished


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
        found = read_json(path / PARTS / "settings.json")
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
    found = _json_or_none(path / PARTS / "settings.json")
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


def _create(path: Path, description: dict[str, Any], *, replaces: bool) -> None:
    """Put an empty store at `path`, in one step, which takes the place of ours if there is one to replace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    (staging / PARTS).mkdir(parents=True)
    replace_bytes(staging / PARTS / "settings.json", to_json(description))
    sync(staging)
    replaced = Path(PARTS, "replaced")
    try:
        if replaces:
            # below the parts: should we be killed now, it goes when they go
            path.rename(staging / replaced)
        staging.rename(path)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        # another process was first, which is as good
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync(path.parent)
    shutil.rmtree(path / replaced, ignore_errors=True)


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
