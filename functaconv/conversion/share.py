"""What one process does of a conversion: block after block, of parts that nobody else has."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from functaconv.conversion.encoding import Pace, encode_block
from functaconv.conversion.parts import Parts, Task
from functaconv.conversion.work import Work
from functaconv.errors import ServiceError
from functaconv.functaset.blocks import Block
from functaconv.functaset.claims import Claims, Held
from functaconv.functaset.writer import FunctasetWriter
from functaconv.interruption import Stop
from functaconv.signals.loader import prefetched
from functaconv.signals.tiles import Tile
from functaconv.sources.webdataset import shown

PIPED = "what came through a pipe cannot be resumed: --overwrite begins anew"
FAR_FROM_TRAINING = 1.5
"""an image this many times larger or smaller along an axis than any in training deserves a warning"""


class Watcher:
    """Told how an encoding goes. This one says nothing."""

    def announce(self, message: str) -> None:
        """Something a user wants to know once."""

    def report(self, done: int, failed: int, total: int | None, mean_psnr: float) -> None:
        """Called after every batch: items so far, and of how many where that is known."""


@dataclass
class Share:
    """The share of one process."""

    work: Work
    writer: FunctasetWriter
    claims: Claims
    stop: Stop
    watcher: Watcher
    pace: Pace = field(default_factory=Pace)
    _before: int = 0
    """records that others had done, or a run before this one"""
    _has_warned: bool = False

    def convert(self) -> list[Held]:
        """Bring every part to its end that nobody else works on; the parts that somebody does."""
        self._before = self.writer.records()
        if self._before:
            self.watcher.announce(f"going on: {self._before} records are done already")
        self._total, self._started = self.work.expected(), time.monotonic()
        parts = Parts(self.work, self.writer, self.claims)
        try:
            while (left := self._round(parts)) is None:
                pass
        except (OSError, ServiceError):
            if self.pace.records and not self.work.is_piped:
                self.watcher.announce(f"{self._saved}: the same command goes on")
            raise
        return left

    def _round(self, parts: Parts) -> list[Held] | None:
        """All parts that can be taken now; None when there may be more."""
        # the next block is decoded while this one is fitted, unless it is large
        for task in prefetched(parts.tasks(), depth=1, is_large=lambda task: task.block.is_large):
            self._do(task)
            self._check_stop()
            # nothing of it is held while the next one is made
            del task
        left = parts.left()
        self._check_stop()
        return left

    def _do(self, task: Task) -> None:
        block, rows = task.block, None
        self._warn_of_sizes(tile for read in block.reads for tile in read.tiles)
        if block.reads or block.damage:
            rows = encode_block(self.work, shown(self.work.names[task.part.shard]), block, self.pace, self._tell)
        is_saved = self._save(task, rows)
        if is_saved:
            self.pace.records += len(block.reads)
            self.pace.seconds = time.monotonic() - self._started
        if block.is_last or not is_saved:
            self.claims.give_back(str(task.part))

    def _save(self, task: Task, rows: Block | None) -> bool:
        """Save a block; not, where we were silent for so long that another process has taken over its part."""
        part = task.part
        if not self.claims.has(str(part)):
            return False
        try:
            if rows is not None:
                self.writer.commit(part, task.number, rows)
            if task.block.is_last:
                self.writer.end(part, task.block.consumed, task.start)
        except FileNotFoundError:
            # who takes over sweeps away what was half written
            if self.claims.has(str(part)):
                raise
            return False
        return True

    @property
    def _saved(self) -> str:
        return f"{self._before + self.pace.records} records are saved in {self.writer.path}"

    def _check_stop(self) -> None:
        self.stop.check(self._saved, PIPED) if self.work.is_piped else self.stop.check(self._saved)

    def _tell(self, done: int) -> None:
        """`done` records of the block in hand."""
        pace = self.pace
        self.watcher.report(self._before + pace.records + done, pace.failed, self._total, pace.mean_psnr)

    def _warn_of_sizes(self, tiles: Iterable[Tile]) -> None:
        """Once, however many items it is about."""
        trained = self.work.stored.description.training.get("shapes") or []
        if not trained or self._has_warned:
            return
        low, high = np.min(trained, axis=0), np.max(trained, axis=0)
        for tile in tiles:
            shape = np.array(tile.signal.shape)
            if (shape > FAR_FROM_TRAINING * high).any() or (FAR_FROM_TRAINING * shape < low).any():
                size, usual = "x".join(map(str, shape)), "x".join(map(str, high))
                is_cut = self.work.stored.base.axes.kind == "image" and self.work.tile is None
                advice = f"; --tile {min(high)} would cut it" if is_cut and (shape > min(high)).any() else ""
                self._has_warned = True
                self.watcher.announce(
                    f"warning: {tile.signal.key} is {size}, the base was learned on {usual}: expect a low PSNR{advice}"
                )
                return
