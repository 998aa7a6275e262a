"""From shards to a base: which recipe, what is there already, then the run."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from functaconv.checkpoint import is_base, read_base
from functaconv.data.decoders import USABLE_HINT, decode, usable_field
from functaconv.data.ignored import most_ignored
from functaconv.data.items import Item
from functaconv.data.noise import reading
from functaconv.data.shards import expand_shards, fingerprint, read_records, shown
from functaconv.documents import differences
from functaconv.engines.ranks import trainers
from functaconv.errors import InputError, ItemError, OutputExistsError, UsageError
from functaconv.functaset.attributes import canonical
from functaconv.interruption import stopping
from functaconv.modalities import Axes
from functaconv.modalities.reading import check_possible, count_ignored
from functaconv.parallel import Ensemble, ensemble
from functaconv.presets import SIZED, Situation
from functaconv.presets import preset as preset_of
from functaconv.recipe import DataRecipe, Recipe, merged, validated
from functaconv.settings import from_toml, of_earlier
from functaconv.signals.device import (
    device_of,
    half_is_fast,
    matmul_precision,
    precision_of,
    said_of_precision,
    usable_precision,
)
from functaconv.signals.tiles import Tile, tiles_of
from functaconv.solvers import SOLVERS
from functaconv.training.closed_form import learnable
from functaconv.training.run import (
    Progress,
    Request,
    Run,
    Trained,
    Watcher,
    claimed,
    clear,
    is_begun,
    is_of_this_run,
    shared,
    training_folder,
)

LEAST_WIDTH = 64
"""of a network whose Jacobians are computed sooner in half precision"""
FIRST_ITEMS, LEAST_OF_EACH, MOST_LOOKED_AT = 64, 4, 256
"""items looked at before any work: so many in all, but so many of every shard, up to a limit"""


def fit_base(
    shards: str | Sequence[str],
    output: Path | str,
    *,
    preset: str | None = None,
    recipe: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    validation: str | Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    log: Path | str | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    progress: bool = False,
) -> Trained:
    """Meta-learn a base from shards and write it to `output`.

    Settings come from the preset, then the recipe file, then `settings` (nested tables, as in the file). Without a
    preset the first items choose one. Stopped and started again with the same settings, the run goes on; finished,
    it is left alone. With `progress` a bar shows how far it is. The ranks of torchrun train one base together: the
    first one talks and writes, and all return the same.
    """
    output, placed = Path(output), device_of(device)
    if overwrite:
        trainers().check_named()
    with ensemble(trainers(), placed) as together:
        if not together.is_first:
            watcher, progress = None, False
        watcher = watcher or (_Bar() if progress else Watcher())
        names = expand_shards(_listed(shards))
        if "-" in names:
            raise InputError(
                "fit-base reads its items many times and cannot take them from a pipe",
                hint="write the tar to a file first",
            )
        chosen, axes, tiles = _recipe(names, placed, preset, recipe, settings or {}, watcher)
        validation_names = expand_shards(_listed(validation)) if validation else []
        asked = precision_of(precision, placed) if precision != "auto" else precision
        used = _precision(precision, placed, chosen)
        if said := said_of_precision(precision, used):
            watcher.announce(said)
        precision = used
        is_free = not _network_asked_for(preset, recipe, settings or {})
        if not learnable(chosen) and not is_free and not chosen.network.has_closed_form:
            raise UsageError(
                f"without minutes there is only the closed form, which is not this network: {chosen.network.described}",
                hint="leave out --solver, network.kind and network.modulation, or allow --minutes",
            )
        identity = {
            "recipe": chosen.settings(),
            "precision": asked,
            "data": [fingerprint(name) for name in names],
            "validation": [fingerprint(name) for name in validation_names],
            "may_keep_closed_form": is_free,
        }
        _check_alike(together, identity)
        overwrite = overwrite and not together.first(lambda: is_of_this_run(output))
        finished = shared(together, lambda: _already(output, identity, overwrite), output)
        if finished is not None:
            watcher.announce(f"{output} is finished, with these settings: nothing to do")
            return finished
        with (
            matmul_precision(precision, placed),
            stopping(watcher.announce) as stop,
            claimed(output, together) as folder,
        ):
            if overwrite:
                # the old base stays until the new one takes its place
                together.first(lambda: clear(folder))
            request = Request(
                names, validation_names, output, chosen, axes, tiles, identity, placed, is_free,
                precision, None if log is None else Path(log),
            )  # fmt: skip
            return Run(request, watcher, stop, together).train()


def _precision(name: str, device: torch.device, recipe: Recipe) -> str:
    """What is learned with; `auto`: Jacobians in bfloat16 where the processor has units for it and the network is large
    enough to gain, else float32. The base keeps it, and encodes with it where it can.
    """
    if name != "auto":
        return usable_precision(name, device)
    needs_jacobian = SOLVERS[recipe.solver.kind].needs_jacobian
    gains = needs_jacobian and recipe.network.sweep_width >= LEAST_WIDTH and learnable(recipe)
    return "bfloat16" if gains and device.type == "cpu" and half_is_fast("bfloat16") else "float32"


def _network_asked_for(preset: str | None, recipe: Path | str | None, settings: Mapping[str, Any]) -> bool:
    """A published preset, a solver or a network was chosen: that is what is written, whatever the closed form has."""
    written = merged({} if recipe is None else from_toml(Path(recipe)), settings)
    network = written.get("network", {})
    return (
        (preset or written.get("preset") or SIZED[0]) not in SIZED
        or "kind" in written.get("solver", {})
        or not network.keys().isdisjoint(("kind", "modulation"))
    )


def _check_alike(together: Ensemble, identity: Mapping[str, Any]) -> None:
    """All ranks are to learn the same from the same."""
    own = canonical(dict(identity))
    if changes := differences(together.first(lambda: own), own):
        raise UsageError(
            f"rank {together.rank} was asked for another training than rank 0: {'; '.join(changes)}",
            hint="give all ranks the same command, and the same shards under the same names",
        )


def _listed(shards: str | Sequence[str]) -> list[str]:
    return [shards] if isinstance(shards, str) else list(shards)


def _recipe(
    names: Sequence[str],
    device: torch.device,
    preset_name: str | None,
    recipe_file: Path | str | None,
    settings: Mapping[str, Any],
    watcher: Watcher,
) -> tuple[Recipe, Axes, int]:
    """The recipe, how items are read, and how many tiles one has at most."""
    written = from_toml(Path(recipe_file)) if recipe_file is not None else {}
    preset_name = preset_name or written.pop("preset", None)
    data = validated({"data": merged(written.get("data", {}), settings.get("data", {}))}).data
    items = _first_items(names, data, watcher)
    axes = Axes.of(items, data.channel_axis, data.modality)
    check_possible(axes, data.transform, data.tile)
    cut = _first_tiles(items, axes, data.tile)
    first = cut[0][0].signal
    asked = {**written.get("latent", {}), **settings.get("latent", {})}
    if preset_name in (None, *SIZED) and asked.get("sites") and asked.get("kernel", 1) == 1:
        # seamless unless something else was asked for
        asked = {"interpolation": "window"} | asked
    latent = validated({"latent": asked}).latent if asked else None
    solver = {**written.get("solver", {}), **settings.get("solver", {})}.get("kind")
    situation = Situation(first.shape, axes.channels, device.type == "cuda", latent, solver)
    chosen = preset_name or axes.modality.preset
    recipe = preset_of(str(chosen), situation).changed(written).changed(settings)
    budget = {**written.get("training", {}), **settings.get("training", {})}
    if ("steps" in budget) != ("minutes" in budget):
        # the budget that was asked for replaces the preset's, whichever kind that was
        dropped = "minutes" if "steps" in budget else "steps"
        table = recipe.settings()
        table["training"].pop(dropped, None)
        recipe = validated(table)
    is_learned = not recipe.network.has_closed_form and _network_asked_for(preset_name, recipe_file, settings)
    if recipe.training.steps is None and (
        recipe.training.minutes is None or (is_learned and recipe.training.minutes == 0 and "minutes" not in budget)
    ):
        recipe = recipe.changed({"training": {"minutes": 10.0}})
    if not preset_name:
        shape = "x".join(map(str, first.shape))
        watcher.announce(
            f"{axes.described} of {shape}, {axes.channels} channel{'s' * (axes.channels > 1)}, on {device.type}: "
            f"recipe {chosen!r} ({_described(recipe)})"
        )
    return recipe, axes, max(map(len, cut))


def _described(recipe: Recipe) -> str:
    network, latent, training = recipe.network, recipe.latent, recipe.training
    sites = "x".join(map(str, [*latent.sites, latent.numbers]))
    if not learnable(recipe):
        return f"closed form, latent {sites}"
    budget = f"{training.minutes:g} minutes" if training.minutes else f"{training.steps} steps"
    return f"{network.described}, latent {sites}, {recipe.solver.kind} solver, batch {training.batch_size}, {budget}"


def _first_items(names: Sequence[str], data: DataRecipe, watcher: Watcher) -> list[Item]:
    items: list[Item] = []
    problems: list[str] = []
    ignored = Counter[str]()
    seen = 0
    # of every shard some: a second kind of item need not be in the first one
    each = max(LEAST_OF_EACH, FIRST_ITEMS // len(names))
    for number, name in enumerate(names):
        for record in islice(read_records(name, number, unplaced=ignored), each):
            seen += 1
            count_ignored(record, data.field, ignored)
            if record.problem is not None or usable_field(record, data.field) is None:
                continue
            try:
                with reading(record.key):
                    items.append(
                        decode(
                            record, field=data.field, channels=data.channels, transform=data.transform, ignored=ignored
                        )
                    )
            except ItemError as error:
                problems.append(f"{record.key}: {error}")
        if len(items) >= MOST_LOOKED_AT:
            break
    if not items:
        why = f"; the first problem: {problems[0]}" if problems else ""
        why += f"; not read: {most_ignored(ignored)}" if ignored else ""
        raise InputError(
            f"no usable item in {', '.join(map(shown, names[:3]))} ({seen} records looked at){why}",
            hint=USABLE_HINT,
        )
    if ignored:
        watcher.announce(f"not used of the first {seen} records: {most_ignored(ignored)}")
    return items


def _first_tiles(items: Sequence[Item], axes: Axes, tile: int | None) -> list[list[Tile]]:
    """Those of each item that can be used."""
    problem, found = "", list[list[Tile]]()
    for item in items:
        try:
            found.append(list(tiles_of(axes.signal(item), tile)))
        except ItemError as error:
            problem = f"{item.key}: {error}"
    if found:
        return found
    raise InputError(f"none of the first {len(items)} items can be used; {problem}")


def _already(output: Path, identity: Mapping[str, Any], overwrite: bool) -> Trained | None:
    """The finished run with these very settings, if the output is one; anything else there is an error."""
    if not output.exists():
        return None
    if not is_base(output):
        raise OutputExistsError(f"{output} exists and is not a base", hint="choose another name")
    if overwrite or is_begun(output, identity):
        return None
    hint = "choose another name, or pass --overwrite"
    try:
        stored = read_base(output)
    except InputError as error:
        raise OutputExistsError(f"{output} exists and is damaged: {error}", hint=hint) from None
    training = stored.description.training
    known = dict(training.get("identity", {}))
    known["recipe"] = validated(of_earlier(known.get("recipe", {}))).settings()
    if changes := differences(known, canonical(dict(identity))):
        raise OutputExistsError(f"{output} was made with other settings: {'; '.join(changes)}", hint=hint)
    # killed between writing the base and clearing up
    with suppress(OSError):
        clear(training_folder(output))
        training_folder(output).rmdir()
    quality = training["psnr"]
    return Trained(
        path=output,
        recipe=stored.recipe,
        updates=training["updates"],
        seconds=training["seconds"],
        psnr=math.nan if quality is None else quality,
        items=training["items"],
        validation_items=training["validation_items"],
        unusable=training["unusable"],
        closed_form=training["closed_form"],
        learned=training["learned"]["psnr"],
        was_finished=True,
    )


class _Bar(Watcher):
    """A bar of tqdm, in a terminal or a notebook."""

    def __init__(self) -> None:
        self._bar = tqdm(total=100, unit="%")

    def announce(self, message: str) -> None:
        self._bar.write(message)

    def report(self, progress: Progress) -> None:
        self._bar.set_postfix(updates=progress.update, dB=f"{progress.train_psnr:.2f}", refresh=False)
        self._bar.update(round(100 * progress.fraction) - self._bar.n)
