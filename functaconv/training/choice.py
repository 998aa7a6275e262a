"""Which recipe suits the first items, and how they are read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from functaconv.data.decoders import USABLE_HINT, decode, usable_field
from functaconv.data.ignored import most_ignored
from functaconv.data.items import Item
from functaconv.data.naming import shown
from functaconv.data.noise import reading
from functaconv.data.shards import index_shard, read_records
from functaconv.data.storage import is_seekable
from functaconv.defaults import REFINED, Situation
from functaconv.errors import InputError, ItemError, UsageError
from functaconv.modalities import Axes
from functaconv.modalities.reading import check_possible, count_ignored
from functaconv.networks.refinement import knots_of
from functaconv.presets import SIZED
from functaconv.presets import preset as preset_of
from functaconv.recipe import DataRecipe, Recipe, validated
from functaconv.signals.device import half_is_fast, usable_precision
from functaconv.signals.tiles import Tile, tiles_of
from functaconv.solvers import SOLVERS
from functaconv.training.closed_form import learnable
from functaconv.training.options import FitOptions, layered
from functaconv.training.progress import Watcher
from functaconv.words import counted

# items looked at before any work: so many in all, but so many of every shard, up to a limit
FIRST_ITEMS, LEAST_OF_EACH, MOST_LOOKED_AT = 64, 4, 256
# with fewer a global latent's refinement learns small photographs by heart
MANY_ITEMS = 4096
# settings of a network that the closed form has, too
CLOSED_FORM_SETTINGS = {"features", "mean_features"}
# of a network whose Jacobians are computed sooner in half precision
LEAST_WIDTH = 64


@dataclass(frozen=True)
class Choice:
    """What is to be learned."""

    recipe: Recipe
    axes: Axes
    tiles: int
    """of an item, at most"""
    is_free: bool
    """no published preset, solver or network was asked for: the base that validates better is written"""
    may_be_narrower: bool
    """neither was a width: on a slow machine it may be a smaller one"""


def choose(names: Sequence[str], device: torch.device, options: FitOptions, watcher: Watcher) -> Choice:
    """Settings as asked for, and what suits the first items of the shards for all else."""
    preset_name, asked = options.asked()
    data = validated({"data": asked.get("data", {})}).data
    items = _first_items(names, data, watcher)
    axes = Axes.of(items, data.channel_axis, data.modality)
    check_possible(axes, data.transform, data.tile)
    cut = _first_tiles(items, axes, data.tile)
    first = cut[0][0].signal
    latent = asked.get("latent", {})
    if preset_name in (None, *SIZED) and latent.get("sites") and latent.get("kernel", 1) == 1:
        # seamless unless something else was asked for
        latent = {"interpolation": "window"} | latent
    solver = asked.get("solver", {}).get("kind")
    if solver is None and asked.get("solver", {}).get("chord") is False:
        # other steps than a correction takes
        solver = "gauss-newton"
    # what corrects the closed form goes with a network and a solver that are chosen below
    layout = {name: value for name, value in latent.items() if name not in ("map_width", "knots")}
    is_refinable = axes.modality.preset in REFINED
    situation = Situation(
        first.shape, axes.channels, device.type == "cuda", validated({"latent": layout}).latent if layout else None,
        solver, has_network=not asked.get("network", {}).keys() <= CLOSED_FORM_SETTINGS,
        is_refinable=is_refinable, has_many=is_refinable and not layout and _has_many(names),
    )  # fmt: skip
    chosen = preset_name or axes.modality.preset
    recipe = validated(layered(preset_of(str(chosen), situation).settings(), asked))
    if chosen in SIZED:
        recipe = _suited(recipe, asked)
    if recipe.latent.is_refined and not recipe.latent.knots:
        recipe = recipe.changed({"latent": {"knots": knots_of(first.shape)}})
    is_free = not _network_asked_for(preset_name, asked)
    training, budget = recipe.training, asked.get("training", {})
    is_learned = not recipe.network.has_closed_form and not is_free
    if training.steps is None and (
        training.minutes is None or (is_learned and training.minutes == 0 and "minutes" not in budget)
    ):
        recipe = recipe.changed({"training": {"minutes": 10.0}})
    if not learnable(recipe) and is_learned:
        raise UsageError(
            f"without minutes there is only the closed form, which is not this network: {recipe.network.described}",
            hint="leave out --solver, network.kind and network.modulation, or allow --minutes",
        )
    if not preset_name:
        shape = "x".join(map(str, first.shape))
        watcher.announce(
            f"{axes.described} of {shape}, {counted(axes.channels, 'channel')}, on {device.type}: "
            f"recipe {chosen!r} ({_described(recipe)})"
        )
    has_width = "width" in asked.get("network", {}) or "map_width" in asked.get("latent", {})
    return Choice(recipe, axes, max(map(len, cut)), is_free, is_free and not has_width)


def _has_many(names: Sequence[str]) -> bool:
    """Whether the headers of local shards tell of thousands of records."""
    count = 0
    for name in names:
        if count >= MANY_ITEMS or not is_seekable(name):
            break
        count += len(index_shard(name))
    return count >= MANY_ITEMS


def precision_for(name: str, device: torch.device, recipe: Recipe) -> str:
    """What is learned with; `auto`: Jacobians in bfloat16 where the processor has units for it and the network is large
    enough to gain, else float32. The base keeps it, and encodes with it where it can.
    """
    if name != "auto":
        return usable_precision(name, device)
    needs_jacobian = SOLVERS[recipe.solver.kind].needs_jacobian
    gains = needs_jacobian and recipe.network.sweep_width >= LEAST_WIDTH and learnable(recipe)
    return "bfloat16" if gains and device.type == "cpu" and half_is_fast("bfloat16") else "float32"


def _suited(recipe: Recipe, asked: Mapping[str, Any]) -> Recipe:
    """A sized preset was made for a SIREN: with what suits another network that was asked for."""
    if recipe.network.has_closed_form:
        return recipe
    rates = {
        name: getattr(recipe.training, name) * recipe.network.haste
        for name in ("rate", "matrix_rate")
        if name not in asked.get("training", {})
    }
    recipe = recipe.changed({"training": rates})
    if recipe.network.wants_chords and recipe.solver.kind == "gauss-newton" and "chord" not in asked.get("solver", {}):
        # the step that all items share costs least to learn through
        one_step = {"one_step": 1.0} | asked.get("training", {})
        recipe = recipe.changed({"solver": {"chord": True}, "training": {"one_step": one_step["one_step"]}})
    return recipe


def _network_asked_for(preset: str | None, settings: Mapping[str, Any]) -> bool:
    """A published preset, a solver or a network was chosen: that is what is written, whatever the closed form has."""
    return (
        (preset or SIZED[0]) not in SIZED
        or "kind" in settings.get("solver", {})
        or not settings.get("network", {}).keys().isdisjoint(("kind", "modulation"))
    )


def _described(recipe: Recipe) -> str:
    network, latent, training = recipe.network, recipe.latent, recipe.training
    sites = "x".join(map(str, [*latent.sites, latent.numbers]))
    if not learnable(recipe):
        return f"closed form, latent {sites}"
    budget = f"{training.minutes:g} minutes" if training.minutes else f"{training.steps} steps"
    learned = f"{network.described}, latent {sites}, {recipe.solver.kind} solver"
    if latent.map_width:
        learned = f"closed form, latent {sites}, {latent.described}"
    return f"{learned}, batch {training.batch_size}, {budget}"


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
    problem, cut = "", list[list[Tile]]()
    for item in items:
        try:
            cut.append(list(tiles_of(axes.signal(item), tile)))
        except ItemError as error:
            problem = f"{item.key}: {error}"
    if cut:
        return cut
    raise InputError(f"none of the first {len(items)} items can be used; {problem}")
