"""Inspecting: what a base, a functaset or a set of shards holds, and whether all of it is sound."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from functaconv.checkpoint import StoredBase, base_from_bytes, read_base, read_state
from functaconv.errors import FunctaconvError, InputError, ItemError, VerificationError
from functaconv.functaset.blocks import read_block
from functaconv.functaset.checks import verify as verify_functaset
from functaconv.functaset.files import read_json
from functaconv.functaset.ledger import PARTS, Ledger, is_unfinished
from functaconv.functaset.reader import Functaset, read_attributes
from functaconv.functaset.schema import BASE
from functaconv.metrics import psnr
from functaconv.signals.loader import map_ahead
from functaconv.sources.decoders import decode, usable_field
from functaconv.sources.items import Item, Record
from functaconv.sources.webdataset import Tally, expand_shards, index_shard, read_records

FIRST_RECORDS = 64
MOST_LISTED = 1000
STATE = "state.safetensors"
TOLERANCE_DB = 0.01


@dataclass(frozen=True)
class Inspection:
    """What lies at a path."""

    kind: str
    """base, unfinished base, functaset, unfinished functaset or shards"""
    facts: dict[str, Any]
    """ready for JSON"""
    problems: list[str] = field(default_factory=list)
    complaint: VerificationError | None = None
    """why the exit code is not 0"""


_HINTS = {
    "functaset": "restore it from a copy, or encode again with --overwrite",
    "unfinished functaset": "delete the blocks named, or encode again with --overwrite",
    "base": "restore it from a copy, or make it again with fit-base",
    "unfinished base": "fit-base --overwrite begins anew",
    "shards": "encode leaves such items out and lists them in failed.jsonl; mend or pack them again to have them",
}


def inspect(path: str | Path | Sequence[str | Path], *, verify: bool = False) -> Inspection:
    """What the base, functaset or shards at a path hold, at a glance; a list of paths stands for shards.

    `verify` reads everything: every checksum of a functaset, every number of a base, every item of the shards.
    """
    if not isinstance(path, str | Path):
        return _judged(_shards([str(name) for name in path], verify), verify)
    place = Path(path)
    for is_kind, look in _KINDS:
        if is_kind(place):
            return _judged(look(place, verify), verify)
    try:
        return _judged(_shards([str(path)], verify), verify)
    except InputError as error:
        if os.path.lexists(path):
            raise
        raise InputError(
            f"there is nothing at {path}",
            hint=f"expected a base, a functaset, or shards (a tar, a folder of them, a pattern): {error}",
        ) from None


def _judged(found: Inspection, verify: bool) -> Inspection:
    """With a complaint when what was to be verified is damaged."""
    if not verify or not found.problems:
        return found
    count = len(found.problems)
    more = f"; {count - 1} more problem{'s' * (count > 2)}" if count > 1 else ""
    message = f"the {found.kind} do{'es' * (found.kind != 'shards')} not verify: {found.problems[0]}{more}"
    return replace(found, complaint=VerificationError(message, hint=_HINTS[found.kind]))


def _is_base(path: Path) -> bool:
    """A safetensors file, by name or by how it begins: the length of a JSON object, then the object."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (start[5:8] == b"\0\0\0" and start[8:] == b"{")


def _training_of(path: Path) -> Path:
    """The folder of an unfinished training, given itself or the base it is to become."""
    return path if path.suffix == ".training" else path.with_name(f"{path.name}.training")


def _is_training(path: Path) -> bool:
    return (path.suffix == ".training" or not path.exists()) and _training_of(path).is_dir()


def _is_functaset(path: Path) -> bool:
    return (path / "zarr.json").is_file() and not _is_only_begun(path)


def _is_only_begun(path: Path) -> bool:
    if not is_unfinished(path):
        return False
    try:
        read_attributes(path)
    except InputError:
        return True
    return False


def _base(path: Path, verify: bool) -> Inspection:
    facts: dict[str, Any] = {"bytes": path.stat().st_size}
    try:
        # reading checks all there is to check: layout, shapes, finite values
        stored = read_base(path)
    except InputError as error:
        if not verify:
            raise
        return Inspection("base", facts, [str(error)])
    return Inspection("base", {**_of_base(stored), **facts})


def _of_base(stored: StoredBase) -> dict[str, Any]:
    base, recipe, training = stored.base, stored.recipe, stored.description.training
    network = recipe.network
    return {
        "recipe": recipe.name,
        "items": f"{base.axes.described}, {base.axes.dims} axes, {base.axes.channels} channels",
        "network": f"{network.kind}, width {network.width}, depth {network.depth}, {network.modulation}",
        "parameters": sum(parameter.numel() for parameter in base.parameters()),
        "latent": {"sites": list(base.sites), "numbers": base.numbers, "canonical": base.is_canonical},
        "solver": {"name": recipe.solver.kind, "steps": recipe.solver.steps},
        "training": {
            name: training.get(name)
            for name in ("updates", "seconds", "psnr", "items", "validation_items", "shapes", "truncated_from")
        },
        "tool_version": stored.description.tool_version,
        "sha256": stored.sha256,
    }


def _training(path: Path, verify: bool) -> Inspection:
    folder = _training_of(path)
    facts: dict[str, Any] = {"folder": str(folder), "updates": 0}
    if not (folder / STATE).exists():
        return Inspection("unfinished base", facts)
    try:
        state = read_state(folder / STATE)
    except InputError as error:
        if not verify:
            raise
        return Inspection("unfinished base", facts, [str(error)])
    values: Mapping[str, Any] = state.values
    recipe = (values.get("identity") or {}).get("recipe") or {}
    facts |= {
        "recipe": recipe.get("name"),
        "latent": recipe.get("latent"),
        "updates": values.get("updates"),
        "seconds": round(float(values.get("seconds") or 0), 1),
        "budget": {name: (recipe.get("training") or {}).get(name) for name in ("steps", "minutes")},
        "psnr": _last_psnr(folder / "log.jsonl"),
        "shapes": values.get("shapes"),
    }
    problems = [
        f"{STATE}: {name} holds values that are not finite"
        for name, tensor in (state.tensors.items() if verify else ())
        if not tensor.isfinite().all()
    ]
    return Inspection("unfinished base", facts, problems)


def _last_psnr(log: Path) -> float | None:
    """The last validation in the log, in dB."""
    try:
        lines = log.read_text("utf-8").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            value = json.loads(line).get("validation_psnr")
        except (ValueError, AttributeError):
            # the last line of a killed run may be half a line
            continue
        if isinstance(value, int | float):
            return float(value)
    return None


def _functaset(path: Path, verify: bool) -> Inspection:
    functaset = read_attributes(path)
    attributes, layout, problems = functaset.attributes, functaset.layout, []
    summary = attributes.summary
    size: dict[str, Any] = {}
    try:
        found = functaset.nbytes()
        size = {"store": found.store, "base": found.base, "per_item": summary.get("bytes_per_item")}
    except OSError as error:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")
    facts = {
        "items": summary.get("items", attributes.count),
        "rows": attributes.count,
        "failed": attributes.failed,
        "ignored": summary.get("ignored"),
        "modality": attributes.modality,
        "axes": list(attributes.axes),
        "latent": {"sites": list(layout.sites), "numbers": layout.numbers, "canonical": attributes.canonical},
        "bits": layout.bits,
        "solver": {"name": attributes.solver.name, "steps": attributes.solver.steps},
        "psnr": summary.get("psnr_mean"),
        "bytes": size,
        "input": [source.get("name") for source in attributes.input],
        "base_sha256": attributes.base_sha256,
        "tool_version": attributes.tool_version,
    }
    if verify:
        problems += [problem for problem in (*verify_functaset(path), *_contents(functaset)) if problem not in problems]
    return Inspection("functaset", facts, problems)


def _contents(functaset: Functaset) -> Iterator[str]:
    """What the files say of each other, beyond their checksums."""
    try:
        content = functaset.base_bytes()
    except InputError:
        # told already
        return
    try:
        base = base_from_bytes(content, BASE).base
    except InputError as error:
        yield str(error)
        return
    layout, attributes = functaset.layout, functaset.attributes
    if (base.sites, base.latent, base.axes.dims) != (layout.sites, layout.latent, len(layout.axes)):
        yield f"{BASE}: it makes latents of {(*base.sites, base.latent)}, stored are {(*layout.sites, layout.latent)}"
    axes = base.axes
    if (axes.kind, axes.variables, axes.units) != (attributes.modality, attributes.variables, attributes.units):
        made_for, said = f"{axes.described} {axes.variables}", f"{attributes.modality} {attributes.variables}"
        yield f"{BASE}: it is for {made_for} in {axes.units}, zarr.json says {said} in {attributes.units}"
    if base.is_canonical != attributes.canonical:
        yield f"{BASE}: its latents are {'' if base.is_canonical else 'not '}canonical, zarr.json says otherwise"
    try:
        stored, told = psnr(functaset.mse), functaset.psnr
    except (FunctaconvError, KeyError):
        return
    with np.errstate(invalid="ignore"):
        off = np.flatnonzero(~(np.abs(stored - told) <= TOLERANCE_DB) & (stored != told))
    if len(off):
        yield f"psnr: contradicts mse in {len(off)} rows, the first is row {off[0]}"


def _begun(path: Path, verify: bool) -> Inspection:
    root = path / PARTS
    asked = read_json(root / "settings.json")
    ledger, problems = Ledger(root), []
    shards = asked.get("settings", {}).get("shards", [])
    unfinished, records = [], 0
    try:
        unfinished, records = ledger.unfinished(len(shards)), ledger.records()
    except InputError as error:
        problems.append(str(error))
    settings = asked.get("settings", {})
    facts = {
        "shards": len(shards),
        "shards_done": len(shards) - len({part.shard for part in unfinished}),
        "records_done": records,
        "latent": {name: asked.get("layout", {}).get(name) for name in ("sites", "latent")},
        "bits": asked.get("layout", {}).get("bits"),
        "solver": {"name": settings.get("solver"), "steps": settings.get("steps")},
    }
    for block in sorted(root.glob("*/*.npz")) if verify else ():
        try:
            read_block(block)
        except InputError as error:
            problems.append(str(error))
    return Inspection("unfinished functaset", facts, list(dict.fromkeys(problems)))


_KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path, bool], Inspection]], ...] = (
    (_is_base, _base),
    (_is_training, _training),
    (_is_functaset, _functaset),
    (_is_only_begun, _begun),
)


def _shards(specs: Sequence[str], verify: bool) -> Inspection:
    names = expand_shards(specs)
    survey = _Survey()
    for number, name in enumerate(names):
        survey.read(name, number, whole=verify or name == "-")
    return Inspection("shards", survey.facts(names, verify), survey.listed())


@dataclass
class _Survey:
    """Counts what shards hold, as they are read."""

    records: int = 0
    looked_at: int = 0
    unusable: int = 0
    without_array: int = 0
    damaged: int = 0
    repeated: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    labels: Counter[bool] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    problems: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def read(self, name: str, number: int, *, whole: bool) -> None:
        """All records with their arrays, or the headers of all and the arrays of the first."""
        tally = self.tally if whole else Tally()
        # of several shards each shows a few
        records = islice(read_records(name, number, tally=tally), None if whole else self._room())
        try:
            for record, found in map_ahead(_decoded, records, workers=os.cpu_count() or 1):
                self.records += whole
                self._note(name, record, found)
            if not whole:
                self.records += len(index_shard(name, tally=self.tally))
        except InputError as error:
            self.damaged += 1
            self._tell(str(error))

    def _room(self) -> int:
        return max(1, FIRST_RECORDS - self.looked_at)

    def _note(self, name: str, record: Record, found: Item | str | None) -> None:
        self.looked_at += 1
        self.suffixes.update(f".{suffix}" for suffix in record.fields)
        # a number in place of the key: there may be millions
        key = hash(record.key)
        self.repeated += key in self.seen
        self.seen.add(key)
        if isinstance(found, str):
            self.unusable += 1
            self._tell(f"{name}: record {record.record} ({record.key}): {found}")
        elif found is None:
            self.without_array += 1
        else:
            self.forms[f"{found.kind} {'x'.join(map(str, found.array.shape))} {found.array.dtype}"] += 1
            self.labels[found.label >= 0] += 1

    def _tell(self, problem: str) -> None:
        if len(self.problems) < MOST_LISTED:
            self.problems.append(problem)

    def listed(self) -> list[str]:
        more = self.unusable + self.damaged - len(self.problems)
        return [*self.problems, *([f"and {more} more like these"] if more else [])]

    def facts(self, names: Sequence[str], verify: bool) -> dict[str, Any]:
        found: dict[str, Any] = {
            "shards": len(names),
            "records": self.records,
            "bytes": sum(Path(name).stat().st_size for name in names if name != "-"),
            "looked_at": self.looked_at,
            "suffixes": dict(sorted(self.suffixes.items())),
            "ignored": dict(sorted(self.tally.ignored.items())),
            "arrays": dict(self.forms.most_common(8)),
            "labelled": self.labels[True],
            "without_array": self.without_array,
        }
        if verify:
            found |= {"unusable": self.unusable, "damaged_shards": self.damaged, "duplicate_keys": self.repeated}
        return found


def _decoded(record: Record) -> tuple[Record, Item | str | None]:
    """The record's item, or why there is none; None when it holds no array."""
    if record.problem is None and usable_field(record, None) is None:
        return record, None
    try:
        return record, decode(record)
    except ItemError as error:
        return record, str(error)
