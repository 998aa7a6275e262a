"""A run of `encode`: it begins or joins a functaset, makes the blocks that are missing, and seals it."""

import math
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from functaconv.conversion.block import Job
from functaconv.conversion.options import EncodeOptions
from functaconv.conversion.progress import Bar, Progress, Watcher
from functaconv.conversion.reading import check_first_items
from functaconv.conversion.retry import reopen
from functaconv.conversion.seal import NothingUsableError, complaint_of, seal
from functaconv.conversion.tasks import check_unchanged, expected_records, is_done, tasks
from functaconv.conversion.work import Work
from functaconv.engines import ENGINES
from functaconv.engines.ranks import Ranks, in_turn
from functaconv.engines.ranks import ranks as ranks_of_environment
from functaconv.errors import (
    FunctaconvError,
    InputError,
    OutputExistsError,
    ServiceError,
    UsageError,
    lookup,
)
from functaconv.files import locked
from functaconv.functaset.blocks import Block
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import PARTS
from functaconv.functaset.unfinished import Existing, Parts, create, existing_at, recover
from functaconv.functaset.writer import sweep
from functaconv.interruption import AskedToStop, Stop, stopping
from functaconv.signals.device import said_of_precision

PIPED = "what came through a pipe cannot be resumed: --overwrite begins anew"
# seconds that a rank waits for another process to begin the functaset
PATIENCE = 60.0


@dataclass(frozen=True)
class Encoded:
    """The result of `encode`."""

    path: Path
    report: dict[str, Any]
    """as `report.json` in the functaset"""
    complaint: FunctaconvError | None = None
    """why the exit code is not 0 although the functaset is there"""
    was_finished: bool = False
    reported_elsewhere: bool = False
    """another process of the run prints this report"""


def encode(
    base: Path | str,
    shards: str | Sequence[str],
    output: Path | str,
    options: EncodeOptions | None = None,
    *,
    stdin: BinaryIO | None = None,
    ranks: Ranks | None = None,
    watcher: Watcher | None = None,
    progress: bool = False,
    **keywords: Any,
) -> Encoded:
    """Fit a latent to every item of the shards and write a functaset. `keywords` are those of `EncodeOptions`.

    Interrupted and called again with the same arguments it goes on. Items that cannot be converted become lines of
    `failed.jsonl`. The functaset is complete when this returns; `complaint` tells of damaged shards, too many failures,
    or too low a PSNR. With `progress` a bar shows how far it is.

    Several processes that are given the same arguments, as `ranks` of one run (default: those that torchrun, srun or a
    SLURM array tells in the environment), share the blocks. Each returns when the functaset is complete.
    """
    options = replace(options or EncodeOptions(), **keywords)
    watcher = watcher or (Bar() if progress else Watcher())
    work = Work.of(base, shards, options, stdin)
    if message := said_of_precision(options.precision, work.precision):
        watcher.announce(message)
    return Run(work, Path(os.path.realpath(output)), ranks or ranks_of_environment(), watcher).encode()


@dataclass
class Run:
    """One process of a run."""

    work: Work
    path: Path
    ranks: Ranks
    watcher: Watcher
    stop: Stop = field(default_factory=Stop)

    def encode(self) -> Encoded:
        self._check_request()
        existing = self._existing()
        if existing.is_finished and not self._replaces(existing) and not self.work.options.retry_failed:
            return self._finished()
        if not existing.exists or self._replaces(existing):
            # before anything is made or replaced
            check_first_items(self.work)
        with stopping(self.watcher.announce) as self.stop, ExitStack() as locks:
            # ranks share an output: they hold its lock only while they begin it, and while they seal it
            is_alone = self.ranks.run is None
            locks.enter_context(locked(self.path, patience=0.0 if is_alone else PATIENCE, check=self._check_stop))
            if not self._begun():
                return self._finished()
            if not is_alone:
                locks.close()
            try:
                items_per_second = self._convert()
                if not is_alone:
                    locks.enter_context(locked(self.path, patience=math.inf, check=self._check_stop))
                return self._sealed(items_per_second)
            except (OSError, KeyError, ValueError, FunctaconvError):
                # another process may have sealed it and removed the blocks
                if not existing_at(self.path).is_finished:
                    raise
                return self._finished()

    def _check_request(self) -> None:
        options, ranks = self.work.options, self.ranks
        lookup(ENGINES, options.engine, what="engine")
        if self.work.is_piped and (ranks.count > 1 or options.engine != "local"):
            raise UsageError("several processes cannot share a pipe", hint="write the tar to a file first")
        is_plain = ranks.count == 1 and not self.work.is_piped and not options.overwrite and options.limit is None
        if options.retry_failed and not is_plain:
            raise UsageError(
                "--retry-failed is for one process, files as input, and without --overwrite and --limit",
                hint="run it once by itself: it does only what failed",
            )
        if options.retry_failed and not self.path.exists():
            raise InputError(f"no such functaset: {self.path}", hint="nothing has failed yet: leave --retry-failed out")
        if options.overwrite:
            ranks.check_named()

    def _existing(self) -> Existing:
        """What is at the output; an error unless it is nothing, or may be continued or replaced."""
        existing = existing_at(self.path)
        replaces = self._replaces(existing)
        if existing.exists and self.work.is_piped and not replaces:
            raise OutputExistsError(
                f"{self.path} exists, and {PIPED.partition(':')[0]}", hint="--overwrite, or another name"
            )
        existing.check(self.path, self.work.plan, overwrite=replaces)
        return existing

    def _replaces(self, existing: Existing) -> bool:
        """Whether it is to be replaced; ranks do not replace what another rank of their run has begun."""
        return self.work.options.overwrite and (self.ranks.run is None or existing.run != self.ranks.run)

    def _begun(self) -> bool:
        """Begin the functaset, or join the run that began it; False where it is finished. The caller holds the lock."""
        recover(self.path)
        existing = self._existing()
        if not existing.exists or self._replaces(existing):
            create(self.path, self.work.plan, self.work.budgets, run=self.ranks.run)
            return True
        if existing.budgets is not None:
            self.work = self.work.with_budgets(existing.budgets)
        if not self.work.options.retry_failed:
            return not existing.is_finished
        if not existing.is_finished:
            raise UsageError(f"{self.path} is not finished", hint="leave --retry-failed out until it is")
        functaset = open_functaset(self.path)
        if not functaset.attributes.summary.failed:
            return False
        self._check_sources(functaset)
        records = reopen(self.work, functaset)
        self.watcher.announce(
            f"{records} records are done anew: those that failed, and what is saved together with them"
        )
        return True

    def _convert(self) -> float | None:
        """Make the blocks that are missing; with how many items per second."""
        parts = Parts(self.path / PARTS)
        progress = Progress(self.watcher, self.work, before=parts.records, total=expected_records(self.work))
        job = Job(self.work, parts, progress)
        # with a limit, how far a shard reaches depends on those before it: one process knows what it has read
        knows_records = self.ranks.count == 1 and self.work.options.engine == "local"
        coming = in_turn(
            self.ranks,
            tasks(self.work, parts, job.records.get if knows_records else lambda _: None),
            turn=lambda task: task.turn,
            is_done=lambda task: is_done(parts, task),
        )

        def check_stop() -> None:
            self._check_stop(f"{progress.records} records are saved in {self.path}")

        try:
            block: Block
            with closing(ENGINES[self.work.options.engine](job, coming, self.stop)) as blocks:
                for block in blocks:
                    block.check(self.work.layout)
                    parts.write(block)
                    progress.saved(block)
                    check_stop()
        except AskedToStop:
            check_stop()
        except (OSError, ServiceError):
            if progress.records and not self.work.is_piped:
                self.watcher.announce(f"{progress.records} records are saved in {self.path}: the same command goes on")
            raise
        return progress.items_per_second

    def _check_stop(self, saved: str = "what is finished is saved") -> None:
        self.stop.check(saved, PIPED) if self.work.is_piped else self.stop.check(saved)

    def _sealed(self, items_per_second: float | None) -> Encoded:
        """Make a functaset of the blocks. The caller holds the lock."""
        existing = existing_at(self.path)
        if existing.is_finished:
            return self._finished()
        # meanwhile another run may have put its own output there
        existing.check(self.path, self.work.plan, overwrite=False)
        try:
            report, duplicates = seal(self.work, self.path, run=self.ranks.run, items_per_second=items_per_second)
        except NothingUsableError:
            if self.ranks.run is None:
                shutil.rmtree(self.path)
            raise
        if duplicates:
            self.watcher.announce(
                f"warning: {duplicates} of {report['count']} items have the key of an earlier one; all are stored, "
                "and of those with one key the first is found by it"
            )
        return Encoded(self.path, report, complaint_of(open_functaset(self.path), self.work.options))

    def _finished(self) -> Encoded:
        """The functaset that is there, of these shards."""
        functaset = open_functaset(self.path)
        sweep(self.path)
        self._check_sources(functaset)
        self.watcher.announce(f"{self.path} is finished, with these settings: nothing to do")
        run, ranks = functaset.attributes.run, self.ranks
        return Encoded(
            self.path, functaset.report, complaint_of(functaset, self.work.options), was_finished=True,
            reported_elsewhere=ranks.count > 1 and (run == ranks.run or not ranks.is_first),
        )  # fmt: skip

    def _check_sources(self, functaset: Functaset) -> None:
        """ChangedInputError where a local shard is another one now; with --retry-failed one that was damaged may be."""
        is_retry = self.work.options.retry_failed
        repaired = {one.input for one in functaset.each_failure() if one.is_damage} if is_retry else set()
        for number, (name, known) in enumerate(zip(self.work.names, functaset.attributes.input, strict=True)):
            if number not in repaired:
                check_unchanged(name, known)
