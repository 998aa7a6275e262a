"""A functaset while it grows: its settings, and a file for each block that is finished.

A block file is complete or absent, so the list of the files is the only record of what is done.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from functaconv.documents import differences
from functaconv.errors import InputError, OutputExistsError
from functaconv.files import replace_bytes, sync
from functaconv.functaset.attributes import Budgets, canonical, parse_attributes
from functaconv.functaset.blocks import Block, BlockFacts, read_block, read_facts, write_block
from functaconv.functaset.files import damaged, problems, read_json, read_root
from functaconv.functaset.schema import FORMAT, PARTS, VERSION, Layout

SETTINGS, REPLACED = "settings.json", "replaced"
_NAME = re.compile(r"(\d{6,9})-(\d{6,9})(\.last)?\.npz")


def plan_of(layout: Layout, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a functaset to be made, as JSON has it: runs with equal plans work on one functaset."""
    plan: dict[str, Any] = canonical(
        {"format": FORMAT, "version": VERSION, "layout": layout.model_dump(), "settings": dict(settings)}
    )
    return plan


def digest_of_plan(plan: Mapping[str, Any]) -> str:
    """Names the plan in each of its blocks."""
    return sha256(to_json(plan)).hexdigest()[:16]


@dataclass(frozen=True)
class Existing:
    """What is at the path of an output."""

    exists: bool
    """more than an empty folder"""
    plan: dict[str, Any] | None = None
    """its plan, sealed or not; None when it is no functaset"""
    budgets: Budgets | None = None
    run: str | None = None
    """which run of several processes began it"""
    is_finished: bool = False
    problem: InputError | None = None
    """why it cannot be continued"""

    def check(self, path: Path, plan: Mapping[str, Any], *, overwrite: bool) -> None:
        """OutputExistsError unless there is nothing, or a functaset which may be overwritten or has this plan."""
        if self.exists and self.plan is None:
            raise OutputExistsError(
                f"{path} exists and is not a functaset", hint="choose another name, or move it away"
            )
        if self.plan is None or overwrite:
            return
        if self.problem is not None:
            raise self.problem
        if changes := differences(self.plan, plan):
            raise OutputExistsError(
                f"{path} was made with other settings: {'; '.join(changes)}", hint="--overwrite or another name"
            )


def existing_at(path: Path) -> Existing:
    """What is at `path`."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return Existing(exists=False)
    root = _root_or_none(path)
    attributes = root.get("attributes") if root else None
    sealed = attributes.get("functaconv") if isinstance(attributes, dict) else None
    if isinstance(sealed, dict) and sealed.get("format") == FORMAT:
        try:
            known = parse_attributes(sealed, path)
        except InputError as error:
            return Existing(True, {}, is_finished=True, problem=error)
        plan = plan_of(known.layout, known.settings)
        return Existing(True, plan, known.budgets, known.run, is_finished=True)
    settings = _json_or_none(path, f"{PARTS}/{SETTINGS}")
    if settings is None or settings.get("format") != FORMAT:
        return Existing(exists=True)
    budgets, run = settings.pop("budgets", None), settings.pop("run", None)
    try:
        return Existing(True, settings, Budgets.model_validate(budgets), run)
    except ValidationError as error:
        return Existing(True, settings, problem=damaged(path / PARTS / SETTINGS, problems(error)))


def is_unfinished(path: Path) -> bool:
    """Whether there are blocks of an unfinished functaset at `path`; also true just after it was sealed."""
    settings = _json_or_none(path, f"{PARTS}/{SETTINGS}")
    return settings is not None and settings.get("format") == FORMAT


def create(
    path: Path,
    plan: Mapping[str, Any],
    budgets: Budgets,
    *,
    run: str | None,
    fill: Callable[[Path], None] = lambda _: None,
) -> None:
    """Put an unfinished functaset at `path`, in one step, in place of what is there. The caller holds the lock.

    `fill` may write first blocks into the folder that it is given.
    """
    staging = _staging(path)
    (staging / PARTS).mkdir(parents=True)
    settings = {**plan, "budgets": budgets.model_dump(), "run": run}
    replace_bytes(staging / PARTS / SETTINGS, to_json(settings))
    fill(staging / PARTS)
    if path.exists() and any(path.iterdir()):
        # below the blocks: `recover` puts it back if this process is killed now
        path.rename(staging / PARTS / REPLACED)
    staging.rename(path)
    sync(path.parent)
    shutil.rmtree(path / PARTS / REPLACED, ignore_errors=True)


def recover(path: Path) -> None:
    """Put back what a killed `create` had moved away. The caller holds the lock."""
    staging = _staging(path)
    replaced = staging / PARTS / REPLACED
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    shutil.rmtree(staging, ignore_errors=True)


def _staging(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _root_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_root(path / "zarr.json", within=path)
    except InputError:
        return None


def _json_or_none(path: Path, name: str) -> dict[str, Any] | None:
    try:
        content = read_json(path / name, within=path)
    except InputError:
        return None
    return content if isinstance(content, dict) else None


@dataclass(frozen=True)
class Listed:
    """The finished blocks of one shard."""

    files: dict[int, Path] = field(default_factory=dict)
    """by number"""
    last: int | None = None
    """number of the block that ends the shard"""

    @property
    def is_complete(self) -> bool:
        return self.last is not None and all(number in self.files for number in range(self.last + 1))


@dataclass(frozen=True)
class Parts:
    """The folder of the finished blocks."""

    root: Path

    def file(self, shard: int, number: int, *, is_last: bool) -> Path:
        return self.root / f"{shard:06d}-{number:06d}{'.last' if is_last else ''}.npz"

    def has(self, shard: int, number: int) -> bool:
        """The block is finished, by this process or another one."""
        return any(os.path.lexists(self.file(shard, number, is_last=is_last)) for is_last in (False, True))

    def write(self, block: Block) -> None:
        """Save a finished block; on return it survives a kill and a power cut."""
        write_block(self.file(block.shard, block.number, is_last=block.is_last), block)

    def listed(self) -> dict[int, Listed]:
        """The finished blocks by shard."""
        files_of: dict[int, dict[int, Path]] = {}
        last: dict[int, int] = {}
        with os.scandir(self.root) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            if (match := _NAME.fullmatch(name)) is None:
                continue
            shard, number = int(match[1]), int(match[2])
            files_of.setdefault(shard, {})[number] = self.root / name
            if match[3]:
                last[shard] = number
        return {shard: Listed(files, last.get(shard)) for shard, files in files_of.items()}

    @property
    def records(self) -> int:
        """How many records are in finished blocks."""
        facts = (self.facts_of(file) for listed in self.listed().values() for file in listed.files.values())
        return sum(one.stop - one.start for one in facts)

    def facts_of(self, file: Path) -> BlockFacts:
        return read_facts(file, within=self.root)

    def read(self, file: Path, layout: Layout) -> Block:
        return read_block(file, layout, within=self.root)
