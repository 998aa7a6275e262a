"""From shards to a base: which recipe, what is there already, then the run."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from functaconv.checkpoint import is_base, read_base
from functaconv.data.expansion import expand_shards
from functaconv.data.storage import fingerprint
from functaconv.documents import differences
from functaconv.engines.ranks import trainers
from functaconv.errors import InputError, OutputExistsError, UsageError
from functaconv.functaset.attributes import canonical
from functaconv.interruption import stopping
from functaconv.recipe import validated
from functaconv.signals.device import device_of, matmul_precision, said_of_precision
from functaconv.training.choice import choose, precision_for
from functaconv.training.distributed import Group, group_of
from functaconv.training.options import FitOptions
from functaconv.training.progress import Bar, Trained, Watcher
from functaconv.training.request import Request
from functaconv.training.run import Run
from functaconv.training.state import TrainingFolder


def fit_base(
    shards: str | Sequence[str],
    output: Path | str,
    options: FitOptions | None = None,
    *,
    watcher: Watcher | None = None,
    progress: bool = False,
    **keywords: Any,
) -> Trained:
    """Meta-learn a base from shards and write it to `output`. `keywords` are those of `FitOptions`.

    Without a preset the first items choose one. Stopped and started again with the same settings, the run goes on;
    finished, it is left alone. With `progress` a bar shows how far it is. The ranks of torchrun train one base
    together: the first one prints and writes, and all return the same.
    """
    options, output = replace(options or FitOptions(), **keywords), Path(output)
    device, ranks = device_of(options.device), trainers()
    if options.overwrite:
        ranks.check_named()
    with group_of(ranks, device) as group:
        if not group.is_first:
            watcher, progress = None, False
        watcher = watcher or (Bar() if progress else Watcher())
        request = _request(shards, output, options, watcher)
        _check_alike(group, request.identity)
        folder = TrainingFolder(output)
        overwrite = options.overwrite and not group.first(folder.is_of_this_run)
        finished = group.first(lambda: _already(output, request.identity, overwrite))
        if finished is not None:
            watcher.announce(f"{output} is finished, with these settings: nothing to do")
            return finished
        with (
            matmul_precision(request.precision, device),
            stopping(watcher.announce) as stop,
            folder.claimed(group),
        ):
            if overwrite:
                # the old base stays until the new one takes its place
                group.first(folder.clear)
            return Run(request, watcher, stop, group).train()


def _request(shards: str | Sequence[str], output: Path, options: FitOptions, watcher: Watcher) -> Request:
    names = expand_shards(shards, allow_pipe=options.allow_pipe)
    if "-" in names:
        raise InputError(
            "fit-base reads its items many times and cannot take them from stdin",
            hint="write the tar to a file first",
        )
    device = device_of(options.device)
    choice = choose(names, device, options, watcher)
    validation = expand_shards(options.validation, allow_pipe=options.allow_pipe) if options.validation else []
    precision = precision_for(options.precision, device, choice.recipe)
    if said := said_of_precision(options.precision, precision):
        watcher.announce(said)
    identity = {
        "recipe": choice.recipe.settings(),
        "precision": options.precision,
        "data": [fingerprint(name) for name in names],
        "validation": [fingerprint(name) for name in validation],
        "may_keep_closed_form": choice.is_free,
    }
    workers = _workers() if options.workers is None else options.workers
    log = None if options.log is None else Path(options.log)
    return Request(names, validation, choice, device, workers, output, canonical(identity), precision, log)


def _workers() -> int:
    """The cores that this rank has, if those of a machine share them."""
    ranks_here = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, (os.cpu_count() or 1) // (int(ranks_here) if ranks_here.isdecimal() else 1))


def _check_alike(group: Group, identity: Mapping[str, Any]) -> None:
    """All ranks are to learn the same from the same."""
    if changes := differences(group.first(lambda: identity), identity):
        raise UsageError(
            f"rank {group.rank} was asked for another training than rank 0: {'; '.join(changes)}",
            hint="give all ranks the same command, and the same shards under the same names",
        )


def _already(output: Path, identity: Mapping[str, Any], overwrite: bool) -> Trained | None:
    """The finished run with these very settings, if the output is one; anything else there is an error."""
    if not output.exists():
        return None
    folder = TrainingFolder(output)
    if not is_base(output):
        raise OutputExistsError(f"{output} exists and is not a base", hint="choose another name")
    if overwrite or folder.is_begun(identity):
        return None
    hint = "choose another name, or pass --overwrite"
    try:
        stored = read_base(output)
    except InputError as error:
        raise OutputExistsError(f"{output} exists and is damaged: {error}", hint=hint) from None
    training = stored.description.training
    known = dict(training.get("identity", {}))
    known["recipe"] = validated(known.get("recipe", {})).settings()
    if changes := differences(known, identity):
        raise OutputExistsError(f"{output} was made with other settings: {'; '.join(changes)}", hint=hint)
    # killed between writing the base and clearing up
    with suppress(OSError):
        folder.clear()
    return Trained.of(output, stored.recipe, training, was_finished=True)
