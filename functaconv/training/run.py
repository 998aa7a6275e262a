"""One training run: the closed form, then updates until the budget is spent, then the better base is written."""

import json
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any

import torch

from functaconv.base import Base
from functaconv.checkpoint import base_to_bytes
from functaconv.construction import build, refinement_of
from functaconv.engines.ranks import trainers
from functaconv.files import replace_bytes
from functaconv.interruption import SIGNALS, Stop
from functaconv.metrics import psnr
from functaconv.recipe import Recipe
from functaconv.signals.device import HALF
from functaconv.signals.sampler import Position
from functaconv.training.best import Best
from functaconv.training.canonical import make_canonical
from functaconv.training.closed_form import Situation, fit_closed_form, learnable
from functaconv.training.closed_form.floor import Floor, planar
from functaconv.training.corrected import corrected
from functaconv.training.dataset import Dataset, plainly
from functaconv.training.distributed import Group, LostRankError
from functaconv.training.learner import Learner, Update
from functaconv.training.pace import Pace
from functaconv.training.progress import Progress, Trained, Watcher, plain
from functaconv.training.request import Request
from functaconv.training.sizing import narrowed, of_few_modulations, width_of, with_width
from functaconv.training.state import TrainingFolder, TrainingState, restoring
from functaconv.training.validation import Schedule, validation_psnr

# batches from which the basis of the closed form's latents is taken
MOST_CANONICAL = 4
# seconds between training states, and between reports
SAVE_EVERY, REPORT_EVERY = 20.0, 0.5


class Run:
    """A training run, new or to be continued.

    Each rank of a group has one. All make the same updates, from their shares of each batch; the first one validates
    and writes.
    """

    def __init__(self, request: Request, watcher: Watcher, stop: Stop, group: Group) -> None:
        self.request, self.watcher, self.stop, self.group = request, watcher, stop, group
        self.folder = TrainingFolder(request.output)
        self._log = request.log or self.folder.log
        self.seconds, self._position, self._schedule = 0.0, Position(), Schedule(request.recipe.training)
        saved = group.first(lambda: self.folder.read(request.identity))
        self.data = Dataset(request, watcher, group)
        self._described_as = self.data.described(None if saved is None else saved.values)
        if request.recipe.latent.is_refined:
            # settings that do not suit the items are found before anything is computed
            refinement_of(request.recipe, request.choice.axes, self._described_as[1], None)
        self.floor = group.first(self._closed_form)
        self._best = Best()
        if not learnable(request.recipe):
            return
        recipe = request.recipe
        if saved is not None:
            recipe = with_width(recipe, saved.values.get("width", width_of(recipe)))
        elif request.choice.may_be_narrower and group.count == 1:
            recipe = self._narrowed(recipe)
        if saved is None and (warning := of_few_modulations(recipe)):
            watcher.announce(warning)
        base, self.recipe = self._fresh(recipe)
        self.learner = Learner(base, recipe.training, group)
        if saved is not None:
            with restoring():
                self._restore(saved)
            watcher.announce(f"going on after {self.learner.updates} updates ({self.seconds:.0f} s)")

    def _fresh(self, recipe: Recipe) -> tuple[Base, Recipe]:
        """A base that has not learned yet, and its recipe."""
        if recipe.latent.map_width:
            base, recipe = corrected(self.floor, recipe)
        else:
            base = build(recipe, self.request.choice.axes, *self._described_as)
        base = base.to(self.request.device)
        base.field.network.sweep_dtype = HALF.get(self.request.precision)
        return base, recipe

    def _narrowed(self, recipe: Recipe) -> Recipe:
        """No wider than its minutes allow on this machine."""
        learner = Learner(self._fresh(recipe)[0], recipe.training, self.group)
        with closing(self.data.batches(Position())) as batches:
            return narrowed(recipe, learner, next(batches)[0], self.watcher.announce)

    def train(self) -> Trained:
        """Run to the end of the budget and write the base."""
        if not learnable(self.request.recipe):
            return self.group.first(self._end_without_learning)
        try:
            update = self._learn()
        except LostRankError:
            # the update that broke off has changed nothing
            self._save()
            raise
        # what each rank found of its shares
        for bad, shapes in self.group.gather((self.data.bad, self.data.shapes)):
            self.data.bad.update(bad)
            self.data.shapes |= shapes
        return self.group.first(lambda: self._end(update))

    def _learn(self) -> Update:
        """Updates until the budget is spent; the last one."""
        training, learner = self.request.recipe.training, self.learner
        started = time.monotonic() - self.seconds
        saved_at = reported_at = time.monotonic()
        update, pace = Update(math.nan, math.nan), Pace(training, self.watcher.announce)
        with closing(self.data.batches(self._position)) as batches:
            while (spent := self._spent()) < 1:
                began = time.monotonic()
                own, draw = next(batches)
                rollbacks = learner.rollbacks
                update = learner.update(own, spent, self._notes(started))
                if learner.rollbacks > rollbacks:
                    self.watcher.announce(
                        f"update {learner.updates}: no finite gradient; back to the last good state at half the rate"
                    )
                self._position = draw.position
                self.data.note(own)
                asked = self._agree(update, started)
                now = time.monotonic()
                value = self._validate_if_due()
                if training.minutes:
                    left = self._schedule.seconds - self.seconds
                    pace.note(now - began, updates=learner.updates, left=left)
                if value is not None or now - reported_at > REPORT_EVERY:
                    self._report(update, value)
                    reported_at = now
                if self.group.count == 1:
                    self.seconds, asked = time.monotonic() - started, self.stop.signal
                if asked is not None:
                    self.group.first(self._save)
                    self.stop.signal = asked
                    self.stop.check(f"{learner.updates} updates are saved in {self.folder.path}")
                if now - saved_at > SAVE_EVERY:
                    self._save()
                    saved_at = time.monotonic()
        return update

    def _notes(self, started: float) -> list[float]:
        """The first rank's clock, and whether this rank was asked to stop: summed with the gradients."""
        clock = time.monotonic() - started if self.group.is_first else 0.0
        return [clock, *(float(self.stop.signal == number) for number in SIGNALS)]

    def _agree(self, update: Update, started: float) -> int | None:
        """Take the first rank's clock; the signal that any rank was asked to stop with."""
        if self.group.count == 1:
            self.seconds = time.monotonic() - started
            return self.stop.signal
        self.seconds, *asked = update.notes
        return next((int(number) for number, ranks in zip(SIGNALS, asked, strict=True) if ranks), None)

    def _spent(self) -> float:
        """How much of the budget is spent, by updates or by the clock, whichever is further."""
        return self._schedule.spent(self.learner.updates, self.seconds)

    def _validate_if_due(self) -> float | None:
        schedule = self._schedule
        if schedule.cost is None:
            schedule.cost = self.group.first(lambda: schedule.estimate(self.learner.average, self.data.validation))
        if not schedule.is_due(self._spent(), self.seconds):
            return None
        quality, cost = self.group.first(self._timed_validation)
        schedule.note(cost)
        # when a validation is due depends on the clock: what a run of so many steps writes must not
        if self.request.recipe.training.minutes is not None:
            self._best.note(quality, self.learner.average)
        return quality

    def _timed_validation(self) -> tuple[float, float]:
        started = time.monotonic()
        return validation_psnr(self.learner.average, self.data.validation), time.monotonic() - started

    def _report(self, update: Update, quality: float | None) -> None:
        if not self.group.is_first:
            return
        learner, spent = self.learner, self._spent()
        progress = Progress(
            learner.updates, round(self.seconds, 2), min(1.0, spent), float(psnr(update.error)), update.norm,
            learner.rate(min(1.0, spent)), learner.skipped, quality, self.floor.psnr,
        )  # fmt: skip
        self.watcher.report(progress)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: plain(value) for key, value in asdict(progress).items()}) + "\n")

    def _closed_form(self) -> Floor:
        """That of an earlier start of this run, or a new one."""
        request = self.request
        if (floor := Floor.read(self.folder.closed_form, request.identity)) is not None:
            return floor
        normalizer, geometry = self._described_as
        situation = Situation(request.choice.axes, normalizer, planar(geometry), request.device)
        training = self.data.closed_form_sample()

        def tell(message: str) -> None:
            self.stop.check("nothing is saved yet")
            self.watcher.announce(f"closed form, {message}")

        fit = fit_closed_form(request.recipe, situation, training, self.data.validation, tell=tell)
        make_canonical(fit.base, training[:MOST_CANONICAL])
        self.watcher.announce(f"closed form: {fit.psnr:.2f} dB on held-out items after {fit.seconds:.0f} s")
        floor = Floor.of(fit, self._facts(fit.psnr, 0, floor=(fit.psnr, fit.seconds)))
        replace_bytes(self.folder.closed_form, floor.content)
        return floor

    def _save(self) -> None:
        if not self.group.is_first:
            return
        tensors, values = self.learner.state()
        values |= {
            "identity": self.request.identity,
            "run": trainers().run,
            "seconds": self.seconds,
            "width": width_of(self.recipe),
            "validated_at": self._schedule.validated_at,
            "position": asdict(self._position),
            "shapes": sorted(self.data.shapes),
        }
        values |= plainly(self.learner.base.normalizer, self.learner.base.geometry)
        best, its_values = self._best.state()
        self.folder.write(TrainingState(tensors | best, values | its_values))

    def _restore(self, saved: TrainingState) -> None:
        self.learner.restore(saved.tensors, saved.values)
        self.seconds, self._schedule.validated_at = float(saved.values["seconds"]), int(saved.values["validated_at"])
        self._position = Position(saved.values["position"]["epoch"], saved.values["position"]["index"])
        self._best.restore(saved.tensors, saved.values)
        self.data.shapes |= {tuple(shape) for shape in saved.values["shapes"]}

    def _end_without_learning(self) -> Trained:
        if self.request.recipe.training.minutes != 0:
            self.watcher.announce("this network is linear in its latent: nothing is left to learn")
        return self._write(self.floor.content, self.floor.recipe, self._facts(self.floor.psnr, 0))

    def _end(self, update: Update) -> Trained:
        """Validate; write the base that was learned, or the closed form if it is better and no other was asked for."""
        quality, seconds = self._timed_validation()
        self.seconds += seconds
        self._report(Update(update.error, math.nan), quality)
        average, floor = self.learner.average, self.floor
        if self._best.psnr > quality:
            self.watcher.announce(
                f"an earlier base is written: {self._best.psnr:.2f} dB on held-out items, the last has {quality:.2f}"
            )
            quality = self._best.psnr
            self._best.put_into(average)
        if self.request.choice.is_free and not quality > floor.psnr:
            self.watcher.announce(
                f"the closed form is written: {floor.psnr:.2f} dB on held-out items, the learned base has {quality:.2f}"
            )
            facts = self._facts(floor.psnr, self.learner.updates, learned=quality)
            return self._write(floor.with_facts(facts), floor.recipe, facts)
        if average.solver.exports_canonical:
            make_canonical(average, self.data.latent_sample())
        elif latents := [average.encode(batch).latents.cpu() for batch in self.data.latent_sample()]:
            average.describe_latents(torch.cat(latents))
        facts = self._facts(quality, self.learner.updates, learned=quality)
        return self._write(base_to_bytes(average, self.recipe, facts), self.recipe, facts)

    def _write(self, content: bytes, recipe: Recipe, facts: Mapping[str, Any]) -> Trained:
        replace_bytes(self.request.output, content)
        self.folder.clear()
        return Trained.of(self.request.output, recipe, facts)

    def _facts(
        self, quality: float, updates: int, *, learned: float | None = None, floor: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """What a base's file says of its training: plain values, for JSON."""
        data, (floor_psnr, floor_seconds) = self.data, floor or (self.floor.psnr, self.floor.seconds)
        unusable = len(data.records & data.bad)
        facts = {
            "identity": self.request.identity,
            "updates": updates,
            "seconds": round(self.seconds, 1),
            "psnr": plain(quality),
            "closed_form": {"psnr": plain(floor_psnr), "seconds": round(floor_seconds, 1)},
            "learned": {"psnr": plain(learned)},
            "items": len(data.records) - unusable,
            "validation_items": len({record for batch in data.validation for record in batch.positions}),
            "unusable": unusable,
            "skipped": self.learner.skipped if learned is not None else 0,
            "shapes": [list(shape) for shape in sorted(data.shapes)[:64]],
            "device": self.request.device.type,
            "precision": self.request.precision,
        }
        if (run := trainers().run) is not None:
            facts["run"] = run
        return facts
