"""Learning the base: an outer loop over items, around the inner loop that fits their latents.

Model-agnostic meta-learning (Finn et al. 2017) of the shared network, with the inner fit differentiated through
(second order), as functa does.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from functaconv.checkpoint import (
    TrainingState,
    base_to_bytes,
    is_base,
    read_base,
    read_state,
    write_atomically,
    write_state,
)
from functaconv.errors import FunctaconvError, InputError, ItemError, OutputExistsError
from functaconv.functaset.ledger import differences
from functaconv.functaset.schema import canonical
from functaconv.interruption import Stop, stopping
from functaconv.metrics import psnr
from functaconv.networks import Placement
from functaconv.recipe import Recipe, Situation, build, from_toml, validated
from functaconv.recipe import preset as preset_of
from functaconv.signals.batch import Axes, Batch, Signal, batched
from functaconv.signals.device import device_of, free_memory, matmul_precision
from functaconv.signals.grid import Grid
from functaconv.signals.loader import Collection, Position, Sampler, prefetched
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.reading import Reading
from functaconv.sources.decoders import decode, usable_field
from functaconv.sources.items import Item, Record
from functaconv.sources.webdataset import expand_shards, fingerprint, read_records

FIRST_ITEMS = 64
HELD_OUT = 0.02
MOST_HELD_OUT = 256
LATENT_SAMPLE = 512
SAVE_EVERY = 20.0
"""seconds between training states"""
VALIDATIONS = 10
MOST_VALIDATING = 0.1
"""share of the time that may go into validations on the way; the last one is always made"""
MOST_SKIPS = 5
"""updates in a row without a finite gradient before the run goes back to its last good state"""
MOST_ROLLBACKS = 5


@dataclass(frozen=True)
class Trained:
    """What came of `fit_base`."""

    path: Path
    recipe: Recipe
    updates: int
    seconds: float
    psnr: float
    """mean PSNR (dB) of the validation items, fitted with the exported base"""
    items: int
    validation_items: int
    unusable: int
    was_finished: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "base": str(self.path),
            "recipe": self.recipe.name,
            "latent": {"sites": list(self.recipe.latent.sites), "numbers": self.recipe.latent.numbers},
            "solver": self.recipe.solver.kind,
            "updates": self.updates,
            "seconds": round(self.seconds, 1),
            "validation_psnr": _plain(round(self.psnr, 3)),
            "items": self.items,
            "validation_items": self.validation_items,
            "unusable": self.unusable,
            "already_finished": self.was_finished,
        }


@dataclass(frozen=True)
class Progress:
    """One line of the log."""

    update: int
    seconds: float
    fraction: float
    """of the budget that is spent"""
    train_psnr: float
    gradient_norm: float
    rate: float
    skipped: int
    validation_psnr: float | None = None


class Watcher:
    """Told how a training run goes. This one says nothing."""

    def announce(self, message: str) -> None:
        """Something a user wants to know once."""

    def report(self, progress: Progress) -> None:
        """Called a few times a second."""


class _Bar(Watcher):
    """A bar of tqdm, in a terminal or a notebook."""

    def __init__(self) -> None:
        self._bar = tqdm(total=100, unit="%")

    def announce(self, message: str) -> None:
        self._bar.write(message)

    def report(self, progress: Progress) -> None:
        self._bar.set_postfix(updates=progress.update, dB=f"{progress.train_psnr:.2f}", refresh=False)
        self._bar.update(round(100 * progress.fraction) - self._bar.n)


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
    it is left alone. With `progress` a bar shows how far it is.
    """
    output, watcher = Path(output), watcher or (_Bar() if progress else Watcher())
    placed = device_of(device)
    names = expand_shards(_listed(shards))
    if "-" in names:
        raise InputError(
            "fit-base reads its items many times and cannot take them from a pipe",
            hint="write the tar to a file first",
        )
    chosen, axes = _recipe(names, placed, preset, recipe, settings or {}, watcher)
    validation_names = expand_shards(_listed(validation)) if validation else []
    identity = {
        "recipe": chosen.settings(),
        "data": [fingerprint(name) for name in names],
        "validation": [fingerprint(name) for name in validation_names],
    }
    finished = _already(output, identity, overwrite)
    if finished is not None:
        watcher.announce(f"{output} is finished, with these settings: nothing to do")
        return finished
    with matmul_precision(precision, placed), stopping(watcher.announce) as stop:
        run = _Run(names, validation_names, output, chosen, axes, identity, placed, watcher, log, stop)
        return run.train()


def _listed(shards: str | Sequence[str]) -> list[str]:
    return [shards] if isinstance(shards, str) else list(shards)


def _recipe(
    names: Sequence[str],
    device: torch.device,
    preset_name: str | None,
    recipe_file: Path | str | None,
    settings: Mapping[str, Any],
    watcher: Watcher,
) -> tuple[Recipe, Axes]:
    written = from_toml(Path(recipe_file)) if recipe_file is not None else {}
    preset_name = preset_name or written.pop("preset", None)
    data = {**written.get("data", {}), **settings.get("data", {})}
    items = _first_items(names, data.get("field"), data.get("channels"))
    axes = Axes.of(items, data.get("channel_axis", "auto"))
    first = _first_signal(items, axes)
    asked = {**written.get("latent", {}), **settings.get("latent", {})}
    latent = validated({"latent": asked}).latent if asked else None
    situation = Situation(first.shape, axes.channels, device.type == "cuda", latent)
    chosen = preset_name or {"image": "images", "array": "arrays"}[axes.kind]
    recipe = preset_of(str(chosen), situation).changed(written).changed(settings)
    budget = {**written.get("training", {}), **settings.get("training", {})}
    if ("steps" in budget) != ("minutes" in budget):
        # the budget that was asked for replaces the preset's, whichever kind that was
        dropped = "minutes" if "steps" in budget else "steps"
        table = recipe.settings()
        table["training"].pop(dropped, None)
        recipe = validated(table)
    if recipe.training.steps is None and recipe.training.minutes is None:
        recipe = recipe.changed({"training": {"minutes": 10.0}})
    if not preset_name:
        shape = "x".join(map(str, first.shape))
        watcher.announce(
            f"{axes.kind}s of {shape}, {axes.channels} channel{'s' * (axes.channels > 1)}, on {device.type}: "
            f"recipe {chosen!r} ({_described(recipe)})"
        )
    return recipe, axes


def _described(recipe: Recipe) -> str:
    network, latent, training = recipe.network, recipe.latent, recipe.training
    sites = "x".join(map(str, [*latent.sites, latent.numbers]))
    budget = f"{training.minutes:g} minutes" if training.minutes else f"{training.steps} steps"
    return (
        f"{network.kind} {network.width}x{network.depth}, latent {sites}, {recipe.solver.kind} solver, "
        f"batch {training.batch_size}, {budget}"
    )


def _first_items(names: Sequence[str], field: str | None, channels: int | None) -> list[Item]:
    items: list[Item] = []
    problems: list[str] = []
    seen = 0
    for number, name in enumerate(names):
        for record in islice(read_records(name, number), FIRST_ITEMS):
            seen += 1
            if record.problem is not None or usable_field(record, field) is None:
                continue
            try:
                items.append(decode(record, field=field, channels=channels))
            except ItemError as error:
                problems.append(f"{record.key}: {error}")
            if len(items) >= FIRST_ITEMS:
                return items
    if not items:
        why = f"; the first problem: {problems[0]}" if problems else ""
        raise InputError(
            f"no usable item in {', '.join(names[:3])} ({seen} records looked at){why}",
            hint="shards hold png, jpg, webp, bmp, tif, npy or npz members; --field names another suffix",
        )
    return items


def _first_signal(items: Sequence[Item], axes: Axes) -> Signal:
    problem = ""
    for item in items:
        try:
            return Signal.of(item, axes)
        except ItemError as error:
            problem = f"{item.key}: {error}"
    raise InputError(f"none of the first {len(items)} items can be used; {problem}")


def _already(output: Path, identity: Mapping[str, Any], overwrite: bool) -> Trained | None:
    """The finished run with these very settings, if the output is one; anything else there is an error."""
    if not output.exists():
        if overwrite:
            _clear(_training_folder(output))
        return None
    if not is_base(output):
        raise OutputExistsError(f"{output} exists and is not a base", hint="choose another name")
    if overwrite:
        output.unlink()
        _clear(_training_folder(output))
        return None
    hint = "choose another name, or pass --overwrite"
    try:
        stored = read_base(output)
    except InputError as error:
        raise OutputExistsError(f"{output} exists and is damaged: {error}", hint=hint) from None
    training = stored.description.training
    if changes := differences(training.get("identity", {}), canonical(dict(identity))):
        raise OutputExistsError(f"{output} was made with other settings: {'; '.join(changes)}", hint=hint)
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
        was_finished=True,
    )


def _clear(folder: Path) -> None:
    """Remove a training folder, but nothing in it that is not ours."""
    if folder.is_dir():
        for file in (*folder.glob(".state.safetensors.*.partial"), folder / "state.safetensors", folder / "log.jsonl"):
            file.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _training_folder(output: Path) -> Path:
    return output.with_name(output.name + ".training")


class _Run:
    """One training run: its data, its state, its files."""

    def __init__(
        self,
        names: Sequence[str],
        validation_names: Sequence[str],
        output: Path,
        recipe: Recipe,
        axes: Axes,
        identity: Mapping[str, Any],
        device: torch.device,
        watcher: Watcher,
        log: Path | str | None,
        stop: Stop,
    ) -> None:
        self.output, self.recipe, self.axes, self.identity = output, recipe, axes, identity
        self.device, self.watcher, self.stop = device, watcher, stop
        self.folder = _training_folder(output)
        self.state_file = self.folder / "state.safetensors"
        self.log = Path(log) if log is not None else self.folder / "log.jsonl"
        self.reading = Reading(axes, recipe.data.field)
        saved = self._saved()
        self.items = Collection(names, self._decode)
        held_out = MOST_HELD_OUT if validation_names else min(MOST_HELD_OUT, math.ceil(HELD_OUT * len(self.items)))
        others = Collection(validation_names, self._decode) if validation_names else self.items
        order = np.random.default_rng((recipe.training.seed, 0)).permutation(len(others))
        chosen = sorted(order[:held_out].tolist())
        self.training_indices = list(range(len(self.items)))
        # a handful of items is too few to hold any out: then the report is on the training items
        if not validation_names and len(self.items) - len(chosen) >= 1:
            self.training_indices = sorted(set(self.training_indices) - set(chosen))
        workers = os.cpu_count() or 1
        if saved is not None:
            normalizer = Normalizer(tuple(saved.values["offset"]), tuple(saved.values["scale"]))
        elif axes.kind == "image":
            normalizer = Normalizer.of_code_range(axes.channels)
        else:
            normalizer = Normalizer.of_range(s for s in self.items.all(workers=workers) if s is not None)
        self.validation = list(
            batched(
                ((i, s) for i in chosen if (s := others[i]) is not None),
                max(1, min(64, recipe.training.batch_size)),
            )
        )
        self.base = build(recipe, axes, normalizer).to(device)
        self.average = deepcopy(self.base).requires_grad_(False)
        training = recipe.training
        solver = list(self.base.solver.parameters())
        own = {id(parameter) for parameter in solver}
        shared = [parameter for parameter in self.base.parameters() if id(parameter) not in own]
        self.shared = shared
        self.optimizer = torch.optim.Adam([{"params": shared}, {"params": solver}])
        self.rates = (training.rate, training.solver_rate)
        self.updates, self.seconds, self.skipped, self.rollbacks, self.slowdown = 0, 0.0, 0, 0, 1.0
        self.position = Position()
        self.validated_at = -1
        self._validation_seconds = 0.0
        self._placements: dict[tuple[int, ...], Placement] = {}
        self.last_psnr = math.nan
        self.shapes: set[tuple[int, ...]] = set()
        if saved is not None:
            self._restore(saved)
            watcher.announce(f"going on after {self.updates} updates ({self.seconds:.0f} s)")

    def train(self) -> Trained:
        """Run to the end of the budget and write the base."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sampler = Sampler(
            self.items.__getitem__, self.training_indices, self.recipe.training.batch_size,
            self.recipe.training.seed, self.position, pin=self.device.type == "cuda",
        )  # fmt: skip
        started = time.monotonic() - self.seconds
        saved_at = reported_at = time.monotonic()
        in_a_row, error = 0, math.nan
        good = self._snapshot()
        batches = prefetched(iter(sampler))
        try:
            while self._fraction() < 1:
                batch, position = next(batches)
                error, norm = self._update(batch)
                self.position = position
                self.updates += 1
                self.seconds = time.monotonic() - started
                self.shapes.add(batch.shape)
                if math.isfinite(norm) and math.isfinite(error):
                    in_a_row = 0
                    if self.updates % 50 == 0:
                        good = self._snapshot()
                else:
                    self.skipped += 1
                    in_a_row += 1
                    if in_a_row >= MOST_SKIPS:
                        self._roll_back(good)
                        in_a_row = 0
                now = time.monotonic()
                value = self._validate_if_due()
                if value is not None or now - reported_at > 0.5:
                    self._report(error, norm, value)
                    reported_at = now
                self.seconds = time.monotonic() - started
                if now - saved_at > SAVE_EVERY or self.stop.signal is not None:
                    self._save()
                    saved_at = time.monotonic()
                self.stop.check(f"{self.updates} updates are saved in {self.folder}")
        finally:
            batches.close()
        self.last_psnr = self._validation_psnr()
        self._report(error, math.nan, self.last_psnr)
        return self._finish()

    def _update(self, batch: Batch) -> tuple[float, float]:
        training = self.recipe.training
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self._schedule() * self.slowdown
        inner, outer = self._points(batch)
        problem = self.base.problem(batch, points=inner)
        fitted = self.base.fit(problem, second_order=training.second_order, recompute=self._recompute(batch, inner))
        if outer is inner:
            loss = fitted.error.mean()
        else:
            loss = self.base.problem(batch, points=outer).error(fitted.latents).mean()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.shared, training.clip or math.inf)
        solver_norm = nn.utils.get_total_norm([p.grad for p in self.base.solver.parameters() if p.grad is not None])
        # the one moment an update waits for the device
        error, size, rates_size = torch.stack([loss.detach(), norm, solver_norm.to(norm.device)]).tolist()
        if math.isfinite(error) and math.isfinite(size) and math.isfinite(rates_size):
            self.optimizer.step()
            self.base.solver.project()
            self._average()
            return error, size
        return error, math.nan

    def _points(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Points of the inner fit and of the outer loss, the same for all items; None for all points.

        They are a function of seed and update alone: a run that is stopped goes on as if it had not been.
        """
        training, count = self.recipe.training, batch.values.shape[1]
        generator = torch.Generator().manual_seed((training.seed << 32) + self.updates)
        if self.base.is_coupled:
            return None, None
        if self.base.field.sites.count > 1:
            if training.inner_points is None or training.inner_points >= count:
                return None, None
            placement = self._sorted(batch.shape)
            cells = len(placement.index)
            chosen = torch.randperm(cells, generator=generator)[: max(1, training.inner_points * cells // count)]
            index = placement.index[chosen]
            if placement.valid is not None:
                index = index[placement.valid[chosen, :, 0] > 0]
            # the fit of a cell says nothing about points elsewhere: inner and outer points are the same
            return (points := index.flatten()), points
        return tuple(  # type: ignore[return-value]
            None if wanted is None or wanted >= count else torch.randperm(count, generator=generator)[:wanted]
            for wanted in (training.inner_points, training.outer_points)
        )

    def _sorted(self, shape: tuple[int, ...]) -> Placement:
        """A grid's points by cell, on the CPU, where points are drawn."""
        if shape not in self._placements:
            self._placements[shape] = self.base.field.sites.place(Grid(shape).coords())
        return self._placements[shape]

    def _recompute(self, batch: Batch, inner: Tensor | None) -> bool:
        if self.recipe.training.recompute != "auto":
            return self.recipe.training.recompute == "yes"
        points = batch.values.shape[1] if inner is None else len(inner)
        network = self.base.field.network
        # forward and pullback of a step keep about six tensors of activation size per layer
        kept = 4 * 6 * len(batch) * points * network.width * len(network.w0) * (self.base.solver.steps + 1)
        return kept > 0.5 * free_memory(self.device)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.training.ema, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.base.parameters()), 1 - decay)

    def _fraction(self) -> float:
        """How much of the budget is spent, by updates or by the clock, whichever is further."""
        training = self.recipe.training
        by_steps = self.updates / training.steps if training.steps else 0.0
        by_clock = self.seconds / (60 * training.minutes) if training.minutes else 0.0
        return max(by_steps, by_clock)

    def _schedule(self) -> float:
        training, spent = self.recipe.training, self._fraction()
        if training.warmup and spent < training.warmup:
            # the very first update of a run by the clock would otherwise have no rate at all
            return max(spent / training.warmup, 0.01)
        if training.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (spent - training.warmup) / max(1e-9, 1 - training.warmup)))

    def _validate_if_due(self) -> float | None:
        due = int(self._fraction() * VALIDATIONS)
        if due <= self.validated_at or due >= VALIDATIONS:
            return None
        if self.validated_at < 0:
            self.validated_at = due
            return None
        self.validated_at = due
        if self._validation_seconds > MOST_VALIDATING * self.seconds:
            return None
        started = time.monotonic()
        self.last_psnr = self._validation_psnr()
        self._validation_seconds += 2 * (time.monotonic() - started)
        return self.last_psnr

    def _validation_psnr(self) -> float:
        values = [psnr(self.average.encode(batch).error.cpu().numpy()) for batch in self.validation]
        return float(np.concatenate(values).mean()) if values else math.nan

    def _report(self, error: float, norm: float, value: float | None) -> None:
        progress = Progress(
            self.updates, round(self.seconds, 2), min(1.0, self._fraction()), float(psnr(error)), norm,
            self.rates[0] * self._schedule() * self.slowdown, self.skipped, value,
        )  # fmt: skip
        self.watcher.report(progress)
        line = {key: _plain(number) for key, number in asdict(progress).items()}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _sample(self) -> Iterator[Batch]:
        """Some training items, for the range of the latents."""
        chosen = np.random.default_rng((self.recipe.training.seed, 1)).permutation(self.training_indices)[
            :LATENT_SAMPLE
        ]
        signals = ((int(i), s) for i in sorted(chosen) if (s := self.items[int(i)]) is not None)
        return batched(signals, max(1, min(64, self.recipe.training.batch_size)))

    def _snapshot(self) -> dict[str, Any]:
        return {
            "base": {name: tensor.clone() for name, tensor in self.base.state_dict().items()},
            "average": {name: tensor.clone() for name, tensor in self.average.state_dict().items()},
            "optimizer": deepcopy(self.optimizer.state_dict()),
        }

    def _roll_back(self, good: Mapping[str, Any]) -> None:
        self.rollbacks += 1
        if self.rollbacks > MOST_ROLLBACKS:
            raise FunctaconvError(
                f"training diverged: no finite gradient after {self.rollbacks - 1} returns to a good state",
                hint="lower the rate (--set training.rate=1e-4) or w0 (--set network.w0_hidden=10)",
            )
        self.base.load_state_dict(good["base"])
        self.average.load_state_dict(good["average"])
        self.optimizer.load_state_dict(deepcopy(good["optimizer"]))
        self.slowdown /= 2
        self.watcher.announce(
            f"update {self.updates}: no finite gradient; back to the last good state at half the rate"
        )

    def _decode(self, record: Record) -> Signal | None:
        try:
            return self.reading.signal(record)
        except ItemError as error:
            self.watcher.announce(f"left out {record.key}: {error}")
            return None

    def _saved(self) -> TrainingState | None:
        if not self.state_file.exists():
            return None
        saved = read_state(self.state_file)
        if changes := differences(saved.values["identity"], canonical(dict(self.identity))):
            raise OutputExistsError(
                f"an unfinished training in {self.folder} has other settings: {'; '.join(changes)}",
                hint="use the same settings to go on, another name, or --overwrite",
            )
        return saved

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        for prefix, module in (("base", self.base), ("average", self.average)):
            tensors |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{slot}": value for slot, value in slots.items()}
        values = {
            "identity": self.identity,
            "updates": self.updates,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "slowdown": self.slowdown,
            "validated_at": self.validated_at,
            "position": asdict(self.position),
            "shapes": sorted(self.shapes),
            "offset": self.base.normalizer.offset,
            "scale": self.base.normalizer.scale,
        }
        write_state(self.state_file, TrainingState(tensors, values))

    def _restore(self, saved: TrainingState) -> None:
        values = saved.values
        for prefix, module in (("base", self.base), ("average", self.average)):
            module.load_state_dict(
                {name: saved.tensors[f"{prefix}.{name}"] for name in module.state_dict()},
            )
        table = self.optimizer.state_dict()
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in saved.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "adam":
                index, slot = rest.split(".")
                slots.setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict({"state": slots, "param_groups": table["param_groups"]})
        self.updates, self.seconds = int(values["updates"]), float(values["seconds"])
        self.skipped, self.rollbacks = int(values["skipped"]), int(values["rollbacks"])
        self.slowdown, self.validated_at = float(values["slowdown"]), int(values["validated_at"])
        position = values["position"]
        self.position = Position(position["epoch"], position["index"], tuple(position["waiting"]))
        self.shapes = {tuple(shape) for shape in values["shapes"]}

    def _finish(self) -> Trained:
        usable = sum(len(batch) for batch in self.validation)
        unusable = sum(1 for index in self.training_indices if self.items.is_known_bad(index))
        trained = Trained(
            self.output, self.recipe, self.updates, self.seconds, self.last_psnr, len(self.training_indices) - unusable,
            usable, unusable,
        )  # fmt: skip
        training = {
            "identity": dict(self.identity),
            "updates": self.updates,
            "seconds": round(self.seconds, 1),
            "psnr": _plain(self.last_psnr),
            "items": trained.items,
            "validation_items": usable,
            "unusable": unusable,
            "skipped": self.skipped,
            "shapes": [list(shape) for shape in sorted(self.shapes)[:64]],
            "device": self.device.type,
        }
        latents = [self.average.encode(batch).latents.cpu() for batch in self._sample()]
        if latents:
            self.average.describe_latents(torch.cat(latents))
        content = base_to_bytes(self.average, self.recipe, training)
        write_atomically(self.output, content)
        _clear(self.folder)
        return trained


def _plain(number: float | int | None) -> float | int | None:
    """JSON has no NaN."""
    return None if isinstance(number, float) and not math.isfinite(number) else number
