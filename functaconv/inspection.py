"""Inspecting a base, a functaset or shards: what they hold, and whether they are sound."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from functaconv.checkpoint import StoredBase, base_of, begins_like_base, read_base
from functaconv.data.decoders import parse_field
from functaconv.data.expansion import expand_shards
from functaconv.data.naming import hinted, is_local
from functaconv.data.storage import is_read_once
from functaconv.errors import FunctaconvError, InputError, UsageError, VerificationError
from functaconv.functaset.opening import read_attributes
from functaconv.functaset.reader import Functaset
from functaconv.functaset.unfinished import is_unfinished
from functaconv.functaset.verify import problems_of
from functaconv.survey import Survey
from functaconv.words import counted

OF_TRAINING = (
    *("updates", "seconds", "psnr", "closed_form", "learned"),
    *("items", "validation_items", "shapes", "truncated_from"),
)


@dataclass(frozen=True)
class Inspection:
    """The content of a path, in facts and problems."""

    kind: str
    """base, functaset or shards"""
    facts: dict[str, Any]
    """ready for JSON"""
    problems: list[str] = field(default_factory=list)
    complaint: VerificationError | None = None
    """why the exit code is not 0"""


_HINTS = {
    "functaset": "restore it from a copy, or encode again with --overwrite",
    "base": "restore it from a copy, or make it again with fit-base",
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
    # a URL may be longer than any file name
    for is_kind, inspect_kind in _KINDS if is_local(str(path)) else ():
        if is_kind(place):
            if field is not None:
                raise UsageError(f"--field chooses a member of shards, {place} is none", hint="leave it out")
            return _judged(inspect_kind(place, verify), verify)
    try:
        return _judged(_shards([str(path)], verify, field, allow_pipe), verify)
    except InputError as error:
        if os.path.lexists(path) or not is_local(str(path)):
            raise
        raise InputError(
            f"there is nothing at {hinted(str(path))}",
            hint=f"expected a base, a functaset, or shards (a tar, a folder of them, a pattern): {error}",
        ) from None


def _judged(inspection: Inspection, verify: bool) -> Inspection:
    """The inspection, with a complaint when it verified and found problems."""
    if not verify or not inspection.problems:
        return inspection
    count = len(inspection.problems)
    more = f"; {counted(count - 1, 'more problem')}" if count > 1 else ""
    verb = "do" if inspection.kind == "shards" else "does"
    message = f"the {inspection.kind} {verb} not verify: {inspection.problems[0]}{more}"
    return replace(inspection, complaint=VerificationError(message, hint=_HINTS[inspection.kind]))


def _is_base(path: Path) -> bool:
    """A safetensors file, by name or by how it begins: the length of a JSON object, then the object."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or begins_like_base(file.read(9))


def _is_functaset(path: Path) -> bool:
    return (path / "zarr.json").is_file() or is_unfinished(path)


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
        "network": {
            "kind": recipe.network.kind,
            "modulation": getattr(recipe.network, "modulation", None),
            "described": ", ".join(filter(None, (recipe.network.described, recipe.latent.described))),
        },
        "parameters": sum(parameter.numel() for parameter in base.parameters()),
        "latent": {
            "sites": list(base.sites),
            "numbers": base.numbers,
            "interpolation": recipe.latent.interpolation,
            "canonical": base.is_canonical,
        },
        "solver": {"name": recipe.solver.kind, "steps": recipe.solver.steps},
        "training": {name: training.get(name) for name in OF_TRAINING},
        "tool_version": stored.description.tool_version,
        "sha256": stored.sha256,
    }


def _functaset(path: Path, verify: bool) -> Inspection:
    functaset = read_attributes(path)
    attributes, layout, problems = functaset.attributes, functaset.layout, list[str]()
    summary = attributes.summary
    size: dict[str, Any] = {}
    try:
        size = {**functaset.nbytes()._asdict(), "per_item": summary.bytes_per_item}
    except InputError as error:
        problems.append(str(error))
    facts: dict[str, Any] = {
        "items": attributes.items,
        "rows": attributes.count,
        "failed": summary.failed,
        "ignored": summary.ignored,
        "duplicate_keys": summary.duplicate_keys,
        "modality": attributes.modality,
        "axes": list(attributes.axes),
        "latent": {"sites": list(layout.sites), "numbers": layout.numbers, "canonical": attributes.canonical},
        "bits": layout.bits,
        "solver": {"name": attributes.solver.name, "steps": attributes.solver.steps},
        "psnr": summary.psnr_mean,
        "bytes": size,
        "input": [source.get("name") for source in attributes.input],
        "base_sha256": attributes.base_sha256,
        "tool_version": attributes.tool_version,
    }
    if verify:
        problems = list(dict.fromkeys([*problems, *problems_of(functaset), *_misfits(functaset)]))
    return Inspection("functaset", facts, problems)


def _misfits(functaset: Functaset) -> Iterator[str]:
    """A base that does not fit the attributes; a missing one is reported elsewhere."""
    with suppress(FunctaconvError):
        functaset.base_bytes()
        try:
            base_of(functaset)
        except InputError as error:
            yield str(error)


_KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path, bool], Inspection]], ...] = (
    (_is_base, _base),
    (_is_functaset, _functaset),
)


def _shards(specs: Sequence[str], verify: bool, field: str | None, allow_pipe: bool) -> Inspection:
    names = expand_shards(specs, allow_pipe=allow_pipe)
    survey = Survey(field)
    for number, name in enumerate(names):
        survey.read(name, number, whole=verify or is_read_once(name))
    return Inspection("shards", survey.facts(names, verify), survey.listed())
