"""Inspecting: what a base, a functaset or a set of shards holds, and whether all of it is sound."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from functaconv.base import Base
from functaconv.checkpoint import StoredBase, base_from_bytes, read_base, read_state
from functaconv.data.decoders import decode, parse_field, usable_field
from functaconv.data.ignored import MOST_KINDS, OTHERS, ignore
from functaconv.data.items import Item, Record
from functaconv.data.naming import hinted, is_local, shown
from functaconv.data.noise import reading
from functaconv.data.shards import (
    MOST_COMPARED,
    Tally,
    count_named,
    expand_shards,
    fingerprint,
    index_shard,
    is_read_once,
    is_seekable,
    read_records,
)
from functaconv.documents import parse_json
from functaconv.errors import FunctaconvError, InputError, ItemError, UsageError, VerificationError
from functaconv.functaset import schema
from functaconv.functaset.reader import Functaset, read_attributes
from functaconv.functaset.schema import BASE, PARTS
from functaconv.functaset.unfinished import Parts, is_unfinished, read_begun
from functaconv.functaset.verify import Problem, changed, joined, problems_of, runs
from functaconv.metrics import psnr
from functaconv.modalities.reading import count_ignored
from functaconv.signals.loader import map_ahead
from functaconv.summary import Items, Size, of_measures, summarise

FIRST_RECORDS = 64
STATE = "state.safetensors"
MOST_NAMED = 100
LAST_OF_LOG = 1 << 20
"""bytes"""
TOLERANCE_DB = 0.01
TOLERANCE = 1e-4
"""of numbers that another machine may round differently"""


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


def inspect(
    path: str | Path | Sequence[str | Path],
    *,
    verify: bool = False,
    field: str | None = None,
    allow_pipe: bool = False,
) -> Inspection:
    """What the base, functaset or shards at a path hold, at a glance; a list of paths stands for shards.

    `verify` reads everything: every checksum of a functaset, every number of a base, every item of the shards. Without
    it the records of a shard that is compressed or comes from afar are not counted. `field` is the suffix of the member
    that holds the array, in shards. `allow_pipe` runs `pipe:COMMAND`.
    """
    if field is not None:
        parse_field(field)
    if not isinstance(path, str | Path):
        return _judged(_shards([str(name) for name in path], verify, field, allow_pipe), verify)
    place = Path(path)
    # the name of a URL may be longer than that of any file
    for is_kind, look in _KINDS if is_local(str(path)) else ():
        if is_kind(place):
            if field is not None:
                raise UsageError(f"--field chooses a member of shards, {place} is none", hint="leave it out")
            return _judged(look(place, verify), verify)
    try:
        return _judged(_shards([str(path)], verify, field, allow_pipe), verify)
    except InputError as error:
        if os.path.lexists(path) or not is_local(str(path)):
            raise
        raise InputError(
            f"there is nothing at {hinted(str(path))}",
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
    return {
        "recipe": recipe.name,
        "items": f"{base.axes.described}, {base.axes.dims} axes, {base.axes.channels} channels",
        "network": recipe.network.described,
        "parameters": sum(parameter.numel() for parameter in base.parameters()),
        "latent": {
            "sites": list(base.sites),
            "numbers": base.numbers,
            "interpolation": recipe.latent.interpolation,
            "canonical": base.is_canonical,
        },
        "solver": {"name": recipe.solver.kind, "steps": recipe.solver.steps},
        "training": {
            name: training.get(name)
            for name in (
                "updates",
                "seconds",
                "psnr",
                "closed_form",
                "learned",
                "items",
                "validation_items",
                "shapes",
                "truncated_from",
            )
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
    recipe = _table(_table(values.get("identity")).get("recipe"))
    facts |= {
        "recipe": recipe.get("name"),
        "latent": recipe.get("latent"),
        "updates": values.get("updates"),
        "seconds": round(float(values.get("seconds") or 0), 1),
        "budget": {name: _table(recipe.get("training")).get(name) for name in ("steps", "minutes")},
        "psnr": _last_psnr(folder / "log.jsonl"),
        "shapes": values.get("shapes"),
    }
    problems = [
        f"{STATE}: {name} holds values that are not finite"
        for name, tensor in (state.tensors.items() if verify else ())
        if not tensor.isfinite().all()
    ]
    return Inspection("unfinished base", facts, problems)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _last_psnr(log: Path) -> float | None:
    """The last validation in the log, in dB."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_OF_LOG))
            lines = file.read(LAST_OF_LOG).splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            value = parse_json(line, most_values=LAST_OF_LOG).get("validation_psnr")
        except (ValueError, AttributeError):
            # the last line of a killed run may be half a line
            continue
        if isinstance(value, int | float):
            return float(value)
    return None


def _functaset(path: Path, verify: bool) -> Inspection:
    functaset = read_attributes(path)
    attributes, layout, problems = functaset.attributes, functaset.layout, list[Problem]()
    summary = attributes.summary
    size: dict[str, Any] = {}
    try:
        found = functaset.nbytes()
        size = {"store": found.store, "base": found.base, "per_item": summary.get("bytes_per_item")}
    except InputError as error:
        problems.append(Problem(str(error)))
    facts: dict[str, Any] = {
        "items": summary.get("items", attributes.count),
        "rows": attributes.count,
        "failed": attributes.failed,
        "ignored": attributes.ignored,
        "duplicate_keys": summary.get("duplicate_keys"),
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
        problems += [*problems_of(functaset), *_contents(functaset), *_report(functaset)]
        if not problems:
            # what is lost has no size to compare
            problems += _sizes(functaset, size)
        problems += changed(functaset)
        facts["affected"] = _affected(functaset, problems)
    return Inspection("functaset", facts, list(dict.fromkeys(problem.text for problem in problems)))


def _affected(functaset: Functaset, problems: Sequence[Problem]) -> dict[str, Any]:
    """How many rows are worth less for the problems, and the keys of the first of them."""
    # as runs: how many rows there are is one of the things that may be wrong
    affected = joined((run for problem in problems for run in problem.rows), _rows_there(functaset))
    rows = list(islice((row for start, stop in affected for row in range(start, stop)), MOST_NAMED))
    try:
        keys = functaset.stored("key")
        names = [] if keys is None or not rows else keys.read(np.array(rows)).tolist()
    except (FunctaconvError, IndexError):
        names = []
    names = names or [f"row {row}" for row in rows]
    return {"rows": sum(stop - start for start, stop in affected), "keys": names}


def _rows_there(functaset: Functaset) -> int:
    """How many rows there can be: no more than the longest array has."""
    lengths = [0]
    for column, _ in functaset.expected():
        if column.name not in schema.VECTORS:
            with suppress(FunctaconvError):
                lengths.append(len(functaset.stored(column.name) or ()))
    return min(len(functaset), max(lengths))


def _contents(functaset: Functaset) -> Iterator[Problem]:
    """What the files say of each other, beyond their checksums."""
    try:
        content = functaset.base_bytes()
    except InputError:
        # told already
        return
    try:
        base = base_from_bytes(content, BASE).base
    except InputError as error:
        yield Problem(str(error), ((0, len(functaset)),))
        return
    yield from map(Problem, _of_the_base(functaset, base))
    try:
        stored, told = psnr(functaset.mse), functaset.psnr
        with np.errstate(invalid="ignore"):
            off = np.flatnonzero(~(np.abs(stored - told) <= TOLERANCE_DB) & (stored != told))
        if len(off):
            yield Problem(f"psnr: contradicts mse in {len(off)} rows, the first is row {off[0]}", runs(off))
        if functaset.tiles is not None and len(functaset.tiles) == len(functaset.shapes):
            origin, whole = np.split(functaset.tiles.astype(np.int64), 2, axis=1)
            off = np.flatnonzero(~((origin >= 0) & (origin + functaset.shapes <= whole)).all(axis=1))
            if len(off):
                text = f"tile: {len(off)} rows do not lie in their image, the first is row {off[0]}"
                yield Problem(text, runs(off))
    except (FunctaconvError, ValueError):
        # arrays that are lost, or of different lengths, have been told of
        return


def _of_the_base(functaset: Functaset, base: Base) -> Iterator[str]:
    """Where the base is another one than zarr.json speaks of."""
    layout, attributes = functaset.layout, functaset.attributes
    if (base.sites, base.latent, base.axes.dims) != (layout.sites, layout.latent, len(layout.axes)):
        yield f"{BASE}: it makes latents of {(*base.sites, base.latent)}, stored are {(*layout.sites, layout.latent)}"
    axes = base.axes
    if (axes.kind, axes.variables, axes.units) != (attributes.modality, attributes.variables, attributes.units):
        made_for, said = f"{axes.described} {axes.variables}", f"{attributes.modality} {attributes.variables}"
        yield f"{BASE}: it is for {made_for} in {axes.units}, zarr.json says {said} in {attributes.units}"
    if base.is_canonical != attributes.canonical:
        yield f"{BASE}: its latents are {'' if base.is_canonical else 'not '}canonical, zarr.json says otherwise"
    constants, normalizer = attributes.normaliser, base.normalizer
    if [constants["offset"], constants["scale"]] != [list(normalizer.offset), list(normalizer.scale)]:
        yield f"{BASE}: it has the normaliser {normalizer.offset}, {normalizer.scale}, zarr.json says otherwise"


def _report(functaset: Functaset) -> Iterator[Problem]:
    """Where the numbers that sum up the functaset are not those of its columns."""
    try:
        found, expected = functaset.report, _summed_up(functaset)
    # columns that are lost, or of different lengths, have been told of
    except (FunctaconvError, ValueError):
        return
    summary = functaset.attributes.summary
    claims = {
        "summary.items": (summary.get("items", len(functaset)), expected["count"]),
        "summary.psnr_mean": (summary.get("psnr_mean"), expected["psnr"]["mean"]),
        "summary.psnr_of_mean_mse": (summary.get("psnr_of_mean_mse"), expected["psnr_of_mean_mse"]),
    }
    for name, (claimed, known) in claims.items():
        if not _alike(claimed, known):
            yield Problem(f"zarr.json: {name} is {schema.shown(claimed)}, by its arrays it is {known}")
    for line in _differences(found, expected):
        yield Problem(f"report.json: {line}")


def _summed_up(functaset: Functaset) -> dict[str, Any]:
    """The report as the columns have it, but for what they do not know."""
    attributes, layout = functaset.attributes, functaset.layout
    items = Items.of(None, functaset.shapes, functaset.tiles)
    measures = {name: functaset.measure(name) for name in schema.MEASURES.get(layout.modality, ())}
    found = summarise(
        items.mse(functaset.mse, functaset.shapes), failed=attributes.failed, ignored=attributes.ignored,
        solver=attributes.solver.name, steps=attributes.solver.steps, sites=layout.sites, numbers=layout.numbers,
        size=Size(0, 0, 0), items_per_second=None,
        measures=of_measures(measures, attributes.variables, attributes.units),
    )  # fmt: skip
    return {name: value for name, value in found.items() if name not in ("bytes", "items_per_second")}


def _sizes(functaset: Functaset, size: Mapping[str, Any]) -> Iterator[Problem]:
    """Where the files are not as large as the report says."""
    said = functaset.report.get("bytes")
    if not isinstance(said, dict):
        yield Problem(f"report.json: bytes is {schema.shown(said)}")
        return
    for name in ("store", "base"):
        if not _alike(said.get(name), size[name]):
            yield Problem(f"report.json: bytes.{name} is {schema.shown(said.get(name))}, the files have {size[name]}")
    per_item = functaset.attributes.summary.get("bytes_per_item")
    if not _alike(per_item, said.get("per_item")):
        yield Problem(f"zarr.json: summary.bytes_per_item is {schema.shown(per_item)}, report.json says otherwise")


def _differences(found: Any, expected: Any, name: str = "") -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            yield from _differences(found.get(key), value, f"{name}.{key}".removeprefix("."))
    elif not _alike(found, expected):
        yield f"{name} is {schema.shown(found)}, by its arrays it is {schema.shown(expected)}"


def _alike(found: Any, expected: Any) -> bool:
    """The same, but for the rounding of numbers."""
    if isinstance(expected, float) and isinstance(found, int | float):
        return abs(found - expected) <= TOLERANCE_DB + TOLERANCE * abs(expected)
    return bool(found == expected)


def _begun(path: Path, verify: bool) -> Inspection:
    begun, parts, problems = read_begun(path), Parts(path / PARTS), list[str]()
    listed, records = parts.listed(), 0
    for file in (file for one in listed.values() for file in one.files.values()):
        try:
            facts = parts.facts_of(file)
            records += facts.stop - facts.start
            if verify:
                parts.read(file, begun.layout)
        except InputError as error:
            if not verify:
                raise
            problems.append(str(error))
    found = {
        "shards": len(begun.settings.shards),
        "shards_done": sum(one.is_complete for one in listed.values()),
        "records_done": records,
        "latent": {"sites": list(begun.layout.sites), "latent": begun.layout.latent},
        "bits": begun.layout.bits,
        "solver": {"name": begun.settings.solver, "steps": begun.settings.steps},
    }
    return Inspection("unfinished functaset", found, problems)


_KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path, bool], Inspection]], ...] = (
    (_is_base, _base),
    (_is_training, _training),
    (_is_functaset, _functaset),
    (_is_only_begun, _begun),
)


def _shards(specs: Sequence[str], verify: bool, field: str | None, allow_pipe: bool) -> Inspection:
    names = expand_shards(specs, allow_pipe=allow_pipe)
    survey = _Survey(field)
    for number, name in enumerate(names):
        survey.read(name, number, whole=verify or is_read_once(name))
    return Inspection("shards", survey.facts(names, verify), survey.listed())


@dataclass
class _Survey:
    """Counts what shards hold, as they are read."""

    chosen: str | None = None
    """the suffix of the member that holds the array"""
    records: int | None = 0
    """None when only reading everything would tell"""
    looked_at: int = 0
    unusable: int = 0
    without_array: int = 0
    damaged: int = 0
    repeated: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    labels: Counter[bool] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    kinds: dict[str, tuple[str, int]] = field(default_factory=dict)
    """problem, but for its numbers -> the first of its kind, and how many there are"""
    seen: set[int] = field(default_factory=set)

    def read(self, name: str, number: int, *, whole: bool) -> None:
        """All records with their arrays, or the headers of all and the arrays of the first."""
        tally = self.tally if whole else Tally()
        # of several shards each shows a few
        records = islice(read_records(name, number, tally=tally), None if whole else self._room())
        try:
            for looked in map_ahead(self._look, records, workers=os.cpu_count() or 1):
                self._count(int(whole and not looked.record.is_joined))
                self._note(shown(name), looked)
                # not held while the next one is decoded
                del looked
            if not whole:
                known = index_shard(name, tally=self.tally) if is_seekable(name) else None
                self._count(None if known is None else sum(not location.is_joined for location in known))
        except InputError as error:
            self.damaged += 1
            self._tell(str(error))

    def _look(self, record: Record) -> "_Looked":
        """The record's item, or why there is none."""
        ignored = Counter[str]()
        if record.problem is None and usable_field(record, self.chosen) is None:
            count_ignored(replace(record, ignored={}), self.chosen, ignored)
            return _Looked(record, None, ignored)
        try:
            with reading(record.key):
                return _Looked(record, decode(record, field=self.chosen, ignored=ignored), ignored)
        except ItemError as error:
            return _Looked(record, str(error), ignored)

    def _count(self, records: int | None) -> None:
        self.records = None if self.records is None or records is None else self.records + records

    def _room(self) -> int:
        return max(1, FIRST_RECORDS - self.looked_at)

    def _note(self, name: str, looked: "_Looked") -> None:
        record, found = looked.record, looked.found
        if record.is_joined:
            return
        self.looked_at += 1
        for suffix in record.fields:
            count_named(self.suffixes, f".{suffix}")
        for kind, count in looked.ignored.items():
            ignore(self.tally.ignored, kind, count)
        # a number in place of the key: there may be millions
        key = hash(record.key)
        self.repeated += key in self.seen
        if len(self.seen) < MOST_COMPARED:
            self.seen.add(key)
        if isinstance(found, str):
            self.unusable += 1
            self._tell(found, f"{name}: record {record.record} ({record.key})")
        elif found is None:
            self.without_array += 1
        else:
            self.forms[f"{found.kind} {'x'.join(map(str, found.array.shape))} {found.array.dtype}"] += 1
            self.labels[found.label >= 0] += 1

    def _tell(self, problem: str, place: str = "") -> None:
        """Count a problem; the first of its kind is listed. Those that differ in numbers alone are of one kind."""
        kind = re.sub(r"\d+", "", problem.partition(" (")[0]) if place else problem
        if kind not in self.kinds and len(self.kinds) == MOST_KINDS:
            kind = OTHERS
        first, count = self.kinds.get(kind, (f"{place}: {problem}" if place else problem, 0))
        self.kinds[kind] = first, count + 1

    def listed(self) -> list[str]:
        return [first if count == 1 else f"{count} records like {first}" for first, count in self.kinds.values()]

    def facts(self, names: Sequence[str], verify: bool) -> dict[str, Any]:
        found: dict[str, Any] = {
            "shards": len(names),
            "records": self.records,
            "bytes": sum(map(_bytes, names)),
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


def _bytes(name: str) -> int:
    """Of a shard; 0 where nobody says."""
    try:
        return int(fingerprint(name).get("size", 0))
    except InputError:
        # told already
        return 0


@dataclass(frozen=True)
class _Looked:
    """A record, and what is in it: an item, or why there is none; None when it holds no array."""

    record: Record
    found: Item | str | None
    ignored: Counter[str]
