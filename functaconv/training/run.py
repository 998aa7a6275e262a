"""One training run: its data, its budget, its state on disk."""

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from functaconv.checkpoint import base_to_bytes, is_base, read_base
from functaconv.construction import build
from functaconv.data.items import Record
from functaconv.documents import differences
from functaconv.engines.ranks import trainers
from functaconv.errors import InputError, ItemError, OtherVariablesError, OutputExistsError
from functaconv.files import locked, replace_bytes
from functaconv.functaset.attributes import canonical
from functaconv.interruption import Stop
from functaconv.metrics import psnr
from functaconv.modalities import Axes
from functaconv.parallel import Ensemble, LostRankError
from functaconv.recipe import Recipe, validated
from functaconv.signals.batch import Batch, batched
from functaconv.signals.device import sweep_dtype_of
from functaconv.signals.geometry import Flat, Geometry, Globe
from functaconv.signals.grid import GlobeGrid
from functaconv.signals.loader import Collection, Position, Sampler, prefetched
from functaconv.signals.normalizer import Normalizer, levels_of
from functaconv.signals.signal import Signal
from functaconv.training.canonical import make_canonical
from functaconv.training.closed_form import Situation, fit_closed_form, learnable
from functaconv.training.floor import Floor, planar, sampled
from functaconv.training.held_out import held_out
from functaconv.training.learner import Learner
from functaconv.training.pace import Pace
from functaconv.training.validation import validation_psnr
from functaconv.training_state import TrainingState, read_state, write_state

STATE, CLOSED_FORM = "state.safetensors", "closed-form.safetensors"
HELD_OUT = 0.02
MOST_HELD_OUT = 256
LEAST_VALIDATED, VALIDATION_POINTS = 16, 1 << 20
"""large items are validated on fewer of them: it would take longer than the learning"""
TRIED_POINTS = 1 << 16
"""of validation items that are fitted to see how long all of them would take"""
LATENT_SAMPLE, LEAST_SAMPLE, SAMPLE_POINTS = 512, 8, 1 << 20
"""training items from which the range of the latents is taken: fewer where they are large"""
MOST_TOLD = 10
"""items that are left out, with the reason of each"""
MOST_CANONICAL = 4
"""batches from which the basis of the closed form's latents is taken"""
SAVE_EVERY = 20.0
"""seconds between training states"""
REPORT_EVERY = 0.5
VISIBLE_WITHIN = 60.0
"""seconds until every machine sees a file that another one wrote to their common disk"""
VALIDATIONS = 10
MOST_VALIDATING = 0.1
"""share of the time that may go into validations on the way; the last one is always made"""


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
    closed_form: dict[str, float | None]
    """PSNR (dB) of the same items with the closed form, and the seconds that it took"""
    learned: float | None = None
    """PSNR (dB) of the same items with the learned base; None where nothing was learned"""
    was_finished: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "base": str(self.path),
            "recipe": self.recipe.name,
            "latent": {"sites": list(self.recipe.latent.sites), "numbers": self.recipe.latent.numbers},
            "solver": self.recipe.solver.kind,
            "updates": self.updates,
            "seconds": round(self.seconds, 1),
            "validation_psnr": plain(round(self.psnr, 3)),
            "items": self.items,
            "validation_items": self.validation_items,
            "unusable": self.unusable,
            "network": self.recipe.network.kind,
            "closed_form": self.closed_form,
            "learned": {"psnr": plain(self.learned)},
            "already_finished": self.was_finished,
        }


FACTS = (
    "updates", "seconds", "psnr", "items", "validation_items", "unusable", "closed_form", "learned", "was_finished",
)  # fmt: skip
"""what is known of a finished run beside its file and its recipe"""


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
    closed_form_psnr: float | None = None


class Watcher:
    """Told how a training run goes. This one says nothing."""

    def announce(self, message: str) -> None:
        """Something a user wants to know once."""

    def report(self, progress: Progress) -> None:
        """Called a few times a second."""


@dataclass(frozen=True)
class Request:
    """What is to be learned, from what, and where it goes."""

    shards: Sequence[str]
    validation: Sequence[str]
    output: Path
    recipe: Recipe
    axes: Axes
    tiles: int
    """of an item, at most"""
    identity: Mapping[str, Any]
    """settings and fingerprints: a run with another identity is another run"""
    device: torch.device
    may_keep_closed_form: bool = True
    """no other network was asked for: the base that validates better is written"""
    precision: str = "float32"
    log: Path | None = None


class Run:
    """A training run, new or to be continued.

    Each rank of an ensemble has one. All read the data and make the same updates; the first one validates and writes.
    """

    def __init__(self, request: Request, watcher: Watcher, stop: Stop, ensemble: Ensemble) -> None:
        self.request, self.watcher, self.stop, self.ensemble = request, watcher, stop, ensemble
        self.folder = training_folder(request.output)
        self._state_file = self.folder / STATE
        self._log = request.log or self.folder / "log.jsonl"
        self._reading = request.recipe.data.reading(request.axes)
        saved = self._saved()
        self._left_out = itertools.count(1)
        self._items = self._collection(request.shards)
        self._training, self._validation = self._split()
        self.seconds, self._validating, self._validated_at = 0.0, 0.0, -1
        self._validation_cost: float | None = None
        self._position = Position()
        self._shapes: set[tuple[int, ...]] = set()
        self._described_as = self._described(saved)
        self.floor = self._begin()
        if not learnable(request.recipe):
            return
        base = build(request.recipe, request.axes, *self._described_as).to(request.device)
        base.field.network.sweep_dtype = sweep_dtype_of(request.precision)
        self.learner = Learner(base, request.recipe.training, ensemble)
        if saved is not None:
            self._restore(saved)
            watcher.announce(f"going on after {self.learner.updates} updates ({self.seconds:.0f} s)")

    def train(self) -> Trained:
        """Run to the end of the budget and write the base."""
        if not learnable(self.request.recipe):
            ended = shared(self.ensemble, self._end_without_learning, self.request.output)
            assert ended is not None
            return ended
        training, learner, ensemble = self.request.recipe.training, self.learner, self.ensemble
        sampler = Sampler(
            self._items.__getitem__, self._training, training.batch_size, training.seed, self._position,
            pin=self.request.device.type == "cuda",
        )  # fmt: skip
        started = time.monotonic() - self.seconds
        saved_at = reported_at = time.monotonic()
        error, pace = math.nan, Pace(training, self.watcher.announce)
        batches = prefetched(iter(sampler))
        try:
            while (spent := self._spent()) < 1:
                began = time.monotonic()
                ensemble.at(f"update {learner.updates + 1}")
                batch, position = next(batches)
                rollbacks = learner.rollbacks
                error, norm = learner.update(batch, spent)
                if learner.rollbacks > rollbacks:
                    self.watcher.announce(
                        f"update {learner.updates}: no finite gradient; back to the last good state at half the rate"
                    )
                self._position = position
                if ensemble.count == 1:
                    # of several, all go by the time that they agreed on last
                    self.seconds = time.monotonic() - started
                self._shapes.add(batch.shape)
                now = time.monotonic()
                value = self._validate_if_due()
                if training.minutes:
                    left = self._allowed(training.minutes) - self.seconds
                    pace.note(now - began, updates=learner.updates, left=left)
                if value is not None or now - reported_at > REPORT_EVERY:
                    self._report(error, norm, value)
                    reported_at = now
                self.seconds, asked = ensemble.agree(time.monotonic() - started, self.stop.signal)
                if asked is not None:
                    ensemble.first(self._save)
                    self.stop.signal = asked
                    self.stop.check(f"{learner.updates} updates are saved in {self.folder}")
                if now - saved_at > SAVE_EVERY:
                    self._save()
                    saved_at = time.monotonic()
        except LostRankError:
            # the update that broke off has changed nothing
            self._save()
            raise
        finally:
            batches.close()
        trained = shared(ensemble, lambda: self._end(error), self.request.output)
        assert trained is not None
        return trained

    def _begin(self) -> Floor:
        """The closed form; ranks other than the first know what it is worth, not what it is."""
        floor: Floor | None = None

        def begun() -> tuple[float, float]:
            nonlocal floor
            floor = self._closed_form()
            return floor.psnr, floor.seconds

        known = self.ensemble.first(begun)
        return floor or Floor(b"", self.request.recipe, *known)

    def _closed_form(self) -> Floor:
        """That of an earlier start of this run, or a new one."""
        request, file = self.request, self.folder / CLOSED_FORM
        if (floor := Floor.read(file, canonical(dict(request.identity)))) is not None:
            return floor
        normalizer, geometry = self._described_as
        situation = Situation(request.axes, normalizer, planar(geometry), request.device)
        training = list(sampled(self._items.__getitem__, self._training, request.recipe))

        def tell(message: str) -> None:
            self.ensemble.at("the closed form")
            self.stop.check("nothing is saved yet")
            self.watcher.announce(f"closed form, {message}")

        found = fit_closed_form(request.recipe, situation, training, self._validation, tell=tell)
        self._shapes |= {batch.shape for batch in training}
        make_canonical(found.base, training[:MOST_CANONICAL])
        self.watcher.announce(f"closed form: {found.psnr:.2f} dB on held-out items after {found.seconds:.0f} s")
        floor = Floor.of(found, self._facts(found.psnr, 0, closed_form=(found.psnr, found.seconds)))
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(file, floor.content)
        return floor

    def _end_without_learning(self) -> Trained:
        if self.request.recipe.training.minutes != 0:
            self.watcher.announce("this network is linear in its latent: nothing is left to learn")
        return self._write(self.floor.content, self.floor.recipe, self.floor.psnr, learned=None)

    def _split(self) -> tuple[list[int], list[Batch]]:
        """Indices to train on, and batches to validate on, whose positions are the numbers of the records."""
        recipe, names = self.request.recipe, self.request.validation
        count, each = self._items.records, self._items.each
        others = self._collection(names) if names else self._items
        if names:
            order = np.random.default_rng((recipe.training.seed, 0)).permutation(others.records)
            chosen: list[int] = order[:MOST_HELD_OUT].tolist()
        else:
            chosen = held_out(count, min(MOST_HELD_OUT, math.ceil(HELD_OUT * count)))
        records = set(range(count))
        if not names and count > len(chosen):
            records -= set(chosen)
        elif not names:
            self.watcher.announce("too few items to hold any out: the validation PSNR is that of the training items")
        training = [record * each + number for record in sorted(records) for number in range(each)]
        if not self.ensemble.is_first:
            return training, []
        signals: list[tuple[int, Signal]] = []
        points = 0
        for record, signal in ((number, signal) for number in chosen for signal in others.signals(number)):
            if len(signals) >= LEAST_VALIDATED and points >= VALIDATION_POINTS:
                break
            signals.append((record, signal))
            points += math.prod(signal.shape)
        signals.sort(key=itemgetter(0))
        return training, list(batched(signals, min(64, recipe.training.batch_size)))

    def _collection(self, names: Sequence[str]) -> Collection:
        return Collection(names, self._decode, each=self.request.tiles, announce=self.watcher.announce)

    def _described(self, saved: TrainingState | None) -> tuple[Normalizer, Geometry]:
        """In which range the values of the training items lie, and where their points do."""
        axes = self.request.axes
        if saved is None and axes.modality.has_code_range:
            return Normalizer.of_code_range(axes.channels), Flat(axes.dims)
        values = self.ensemble.first(self._looked_through) if saved is None else saved.values
        geometry = values["geometry"]
        return (
            Normalizer(tuple(values["offset"]), tuple(values["scale"]), levels_of(values["levels"])),
            Flat(axes.dims) if geometry is None else Globe(**geometry),
        )

    def _looked_through(self) -> dict[str, Any]:
        """The same, from the training items themselves, in values that JSON has."""
        axes, data = self.request.axes, self.request.recipe.data
        grids: dict[GlobeGrid, None] = {}

        def seen() -> Iterator[Signal]:
            for signal in self._items.all(workers=os.cpu_count() or 1):
                self.ensemble.at("the range of the items")
                if isinstance(signal.own_grid, GlobeGrid):
                    grids[signal.own_grid] = None
                yield signal

        normalizer = Normalizer.of_range(seen(), data.levels)
        if normalizer.levels:
            self.watcher.announce(f"levels have ranges of their own: {', '.join(normalizer.levels)}")
        geometry = axes.modality.geometry(grids, axes, data.geometry)
        return _plainly(normalizer, geometry)

    def _spent(self) -> float:
        """How much of the budget is spent, by updates or by the clock, whichever is further."""
        training = self.request.recipe.training
        by_steps = self.learner.updates / training.steps if training.steps else 0.0
        by_clock = self.seconds / self._allowed(training.minutes) if training.minutes else 0.0
        return max(by_steps, by_clock)

    def _allowed(self, minutes: float) -> float:
        """Seconds for learning: the last validation comes on top, and is to be within the minutes too."""
        return 60 * minutes - min(self._validation_cost or 0.0, 30 * minutes)

    def _validate_if_due(self) -> float | None:
        if self._validation_cost is None:
            self._validation_cost = self.ensemble.first(self._cost_of_validation)
        due = int(self._spent() * VALIDATIONS)
        if due <= self._validated_at or due >= VALIDATIONS:
            return None
        self._validated_at = due
        if due == 0 or self._validating + self._validation_cost > MOST_VALIDATING * self.seconds:
            return None
        quality, cost = self.ensemble.first(self._timed_validation)
        self._validation_cost = cost
        self._validating += cost
        return float(quality)

    def _cost_of_validation(self) -> float:
        """Seconds, about: those of a few items, in proportion to all."""
        if not self._validation:
            return 0.0
        few = self._validation[0].items(slice(0, max(1, TRIED_POINTS // math.prod(self._validation[0].shape))))
        started = time.monotonic()
        self.learner.average.encode(few)
        return (time.monotonic() - started) * sum(map(len, self._validation)) / len(few)

    def _timed_validation(self) -> tuple[float, float]:
        started = time.monotonic()
        return self._validation_psnr(), time.monotonic() - started

    def _validation_psnr(self) -> float:
        return validation_psnr(self.learner.average, self._validation, before=lambda: self.ensemble.at("a validation"))

    def _sample(self) -> Iterator[Batch]:
        """Some training items, for the range of the latents."""
        training = self.request.recipe.training
        points = max((math.prod(shape) for shape in self._shapes), default=1)
        count = min(LATENT_SAMPLE, max(LEAST_SAMPLE, SAMPLE_POINTS // points))
        chosen = np.random.default_rng((training.seed, 1)).permutation(self._training)[:count]
        signals = ((int(index), signal) for index in sorted(chosen) if (signal := self._items[int(index)]) is not None)
        for batch in batched(signals, min(64, training.batch_size)):
            self.ensemble.at("the range of the latents")
            yield batch

    def _report(self, error: float, norm: float, quality: float | None) -> None:
        if not self.ensemble.is_first:
            return
        learner, spent = self.learner, self._spent()
        progress = Progress(
            learner.updates, round(self.seconds, 2), min(1.0, spent), float(psnr(error)), norm,
            learner.rate(min(1.0, spent)), learner.skipped, quality, self.floor.psnr,
        )  # fmt: skip
        self.watcher.report(progress)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: plain(value) for key, value in asdict(progress).items()}) + "\n")

    def _decode(self, record: Record) -> Sequence[Signal]:
        try:
            return [tile.signal for tile in self._reading.tiles(record)]
        except OtherVariablesError as error:
            raise InputError(
                f"mixed dataset: {record.key}: {error}",
                hint="put grids of different variables, or in different units, in shards of their own",
            ) from error
        except ItemError as error:
            number = next(self._left_out)
            if number <= MOST_TOLD:
                more = "; what else is left out is only counted" if number == MOST_TOLD else ""
                self.watcher.announce(f"left out {record.key}: {error}{more}")
            return ()

    def _saved(self) -> TrainingState | None:
        """The state to go on from, the same for all ranks."""
        saved: TrainingState | None = None

        def look() -> list[float] | None:
            nonlocal saved
            saved = self._read()
            return None if saved is None else [saved.values[name] for name in ("updates", "seconds")]

        sought = self.ensemble.first(look)
        if self.ensemble.is_first or sought is None:
            return saved
        deadline = time.monotonic() + VISIBLE_WITHIN
        while look() != sought:
            if time.monotonic() > deadline:
                raise InputError(
                    f"rank {self.ensemble.rank} does not see the training state after {sought[0]} updates that "
                    f"rank 0 sees in {self.folder}",
                    hint="the output must lie on a disk that all machines share",
                )
            time.sleep(0.5)
        return saved

    def _read(self) -> TrainingState | None:
        if not self._state_file.exists():
            return None
        saved = read_state(self._state_file)
        if changes := differences(saved.values["identity"], canonical(dict(self.request.identity))):
            raise OutputExistsError(
                f"an unfinished training in {self.folder} has other settings: {'; '.join(changes)}",
                hint="use the same settings to go on, another name, or --overwrite",
            )
        return saved

    def _save(self) -> None:
        if not self.ensemble.is_first:
            return
        tensors, values = self.learner.state()
        values |= {
            "identity": self.request.identity,
            "run": trainers().run,
            "seconds": self.seconds,
            "validated_at": self._validated_at,
            "position": asdict(self._position),
            "shapes": sorted(self._shapes),
        }
        values |= _plainly(self.learner.base.normalizer, self.learner.base.geometry)
        write_state(self._state_file, TrainingState(tensors, values))

    def _restore(self, saved: TrainingState) -> None:
        self.learner.restore(saved.tensors, saved.values)
        self.seconds, self._validated_at = float(saved.values["seconds"]), int(saved.values["validated_at"])
        position = saved.values["position"]
        self._position = Position(position["epoch"], position["index"], tuple(position["waiting"]))
        self._shapes = {tuple(shape) for shape in saved.values["shapes"]}

    def _end(self, error: float) -> Trained:
        """What is left when the budget is spent."""
        quality, seconds = self._timed_validation()
        self.seconds += seconds
        self._report(error, math.nan, quality)
        return self._finish(quality)

    def _finish(self, quality: float) -> Trained:
        """Write the base that was learned, or the closed form where that is better and nothing else was asked for."""
        average, floor = self.learner.average, self.floor
        if self.request.may_keep_closed_form and not quality > floor.psnr:
            self.watcher.announce(
                f"the closed form is written: {floor.psnr:.2f} dB on held-out items, the learned base has {quality:.2f}"
            )
            facts = self._facts(floor.psnr, self.learner.updates, learned=quality)
            return self._write(floor.with_facts(facts), floor.recipe, floor.psnr, learned=quality)
        if average.solver.exports_canonical:
            make_canonical(average, self._sample())
        elif latents := [average.encode(batch).latents.cpu() for batch in self._sample()]:
            average.describe_latents(torch.cat(latents))
        facts = self._facts(quality, self.learner.updates, learned=quality)
        content = base_to_bytes(average, self.request.recipe, facts)
        return self._write(content, self.request.recipe, quality, learned=quality)

    def _write(self, content: bytes, recipe: Recipe, quality: float, *, learned: float | None) -> Trained:
        facts = self._facts(quality, self.learner.updates if learned is not None else 0, learned=learned)
        replace_bytes(self.request.output, content)
        clear(self.folder)
        return Trained(
            path=self.request.output,
            recipe=recipe,
            psnr=quality,
            seconds=self.seconds,
            learned=learned,
            **{name: facts[name] for name in ("updates", "items", "validation_items", "unusable", "closed_form")},
        )

    def _facts(
        self,
        quality: float,
        updates: int,
        *,
        learned: float | None = None,
        closed_form: tuple[float, float] | None = None,
    ) -> dict[str, Any]:
        """What a base's file says of its training."""
        records = {index // self._items.each for index in self._training}
        unusable = sum(map(self._items.is_known_bad, records))
        floor, seconds = closed_form or (self.floor.psnr, self.floor.seconds)
        facts = {
            "identity": dict(self.request.identity),
            "updates": updates,
            "seconds": round(self.seconds, 1),
            "psnr": plain(quality),
            "closed_form": {"psnr": plain(floor), "seconds": round(seconds, 1)},
            "learned": {"psnr": plain(learned)},
            "items": len(records) - unusable,
            "validation_items": len({record for batch in self._validation for record in batch.positions}),
            "unusable": unusable,
            "skipped": self.learner.skipped if learned is not None else 0,
            "shapes": [list(shape) for shape in sorted(self._shapes)[:64]],
            "device": self.request.device.type,
            "precision": self.request.precision,
        }
        if (run := trainers().run) is not None:
            facts["run"] = run
        return facts


def shared(ensemble: Ensemble, work: Callable[[], Trained | None], output: Path) -> Trained | None:
    """The finished run that the first rank finds or makes, for all ranks."""

    def facts() -> dict[str, Any] | None:
        trained = work()
        if trained is None:
            return None
        return {name: getattr(trained, name) for name in FACTS} | {"recipe": trained.recipe.settings()}

    known = ensemble.first(facts)
    if known is None:
        return None
    return Trained(path=output, recipe=validated(known.pop("recipe")), **known)


def _plainly(normalizer: Normalizer, geometry: Geometry) -> dict[str, Any]:
    """In values that JSON has."""
    return {
        "offset": normalizer.offset,
        "scale": normalizer.scale,
        "levels": dict(normalizer.levels),
        "geometry": asdict(geometry) if isinstance(geometry, Globe) else None,
    }


def training_folder(output: Path) -> Path:
    """Where the state of a training stands until its base is complete."""
    return output.with_name(output.name + ".training")


def is_begun(output: Path, identity: Mapping[str, Any]) -> bool:
    """An unfinished training with these settings is to take the place of what is at `output`."""
    state = training_folder(output) / STATE
    return state.exists() and not differences(read_state(state).values["identity"], canonical(dict(identity)))


def is_of_this_run(output: Path) -> bool:
    """What is at `output`, or was begun there, was made by these ranks, before torchrun started them again."""
    run, state = trainers().run, training_folder(output) / STATE
    if run is None:
        return False
    try:
        if state.exists():
            return bool(read_state(state).values.get("run") == run)
        return is_base(output) and bool(read_base(output).description.training.get("run") == run)
    except InputError:
        # damaged, and to be overwritten
        return False


def clear(folder: Path) -> None:
    """Empty a training folder, but of nothing that is not ours."""
    for file in (*folder.glob(".state.safetensors.*.tmp"), folder / STATE, folder / CLOSED_FORM, folder / "log.jsonl"):
        file.unlink(missing_ok=True)


@contextmanager
def claimed(output: Path, together: Ensemble) -> Iterator[Path]:
    """The training folder of `output`, which no other run may use meanwhile; it goes when it is left empty."""
    folder = training_folder(output)
    with ExitStack() as lock:

        def claim() -> None:
            lock.enter_context(locked(output))
            folder.mkdir(parents=True, exist_ok=True)

        together.first(claim)
        try:
            yield folder
        finally:
            if together.is_first:
                # it is not empty where a state is saved
                with suppress(OSError):
                    folder.rmdir()


def plain(number: float | int | None) -> float | int | None:
    """JSON has no NaN."""
    return None if isinstance(number, float) and not math.isfinite(number) else number
