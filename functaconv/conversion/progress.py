"""Progress of an encoding, and warnings about its items."""

import time

import numpy as np
from tqdm.auto import tqdm

from functaconv.conversion.work import Work
from functaconv.functaset.blocks import Block
from functaconv.metrics import psnr

# an item this many times larger or smaller along an axis than any in training deserves a warning
FAR_FROM_TRAINING = 1.5
# items from which on their sizes are compared, and the share of distinct ones that deserves a warning
LEAST_COMPARED, MOST_DISTINCT = 16, 0.5


class Watcher:
    """Receives the progress of an encoding; this one ignores it."""

    def announce(self, message: str) -> None:
        """Something a user wants to know once."""

    def report(self, done: int, failed: int, total: int | None, mean_psnr: float) -> None:
        """Called after every batch: records so far, and of how many where that is known."""


class Bar(Watcher):
    """A bar of tqdm, in a terminal or a notebook."""

    def __init__(self) -> None:
        self._bar = tqdm(unit="item")

    def announce(self, message: str) -> None:
        self._bar.write(message)

    def report(self, done: int, failed: int, total: int | None, mean_psnr: float) -> None:
        self._bar.total = total
        self._bar.set_postfix(dB=f"{mean_psnr:.2f}", failed=failed, refresh=False)
        self._bar.update(done - self._bar.n)


class Progress:
    """Counts what this process has done and reports it to a watcher."""

    def __init__(self, watcher: Watcher, work: Work, *, before: int, total: int | None) -> None:
        """`before` records were done when it began."""
        self.watcher, self._work, self._total = watcher, work, total
        self.records = before
        """that are saved"""
        self._items = self._failed = 0
        self._started, self._seconds = time.monotonic(), 0.0
        # rows and the sum of their PSNR: of blocks that are saved, and of the one in hand
        self._saved, self._in_hand = (0, 0.0), (0, 0.0)
        self._warnings = [_far_from_training, _many_sizes]
        if before:
            watcher.announce(f"going on: {before} records are done already")

    @property
    def items_per_second(self) -> float | None:
        return self._items / self._seconds if self._items and self._seconds else None

    def batch(self, done: int, mse: np.ndarray) -> None:
        """A batch was fitted, with these errors; so many records of its block are done."""
        self._in_hand = _with(self._in_hand, mse)
        self._report(self.records + done)

    def saved(self, block: Block) -> None:
        """A block is saved."""
        was_told = self._in_hand[0] > 0
        self._saved, self._in_hand = _with(self._saved, block.columns["mse"]), (0, 0.0)
        self.records += block.stop - block.start
        self._items += len(np.unique(block.columns["record"]))
        self._failed += len(block.failures)
        self._seconds = time.monotonic() - self._started
        if not was_told:
            self._report(self.records)
        # once of each kind, however many items it is about
        for warning in list(self._warnings):
            if message := warning(self._work, block):
                self._warnings.remove(warning)
                self.watcher.announce(f"warning: {message}")

    def _report(self, done: int) -> None:
        rows, total = (sum(pair) for pair in zip(self._saved, self._in_hand, strict=True))
        self.watcher.report(done, self._failed, self._total, total / rows if rows else float("nan"))


def _with(known: tuple[int, float], mse: np.ndarray) -> tuple[int, float]:
    return known[0] + len(mse), known[1] + float(psnr(mse).sum())


def _far_from_training(work: Work, block: Block) -> str | None:
    """An item that is much larger or smaller than those of the training."""
    trained = work.stored.description.training.get("shapes") or []
    if not trained:
        return None
    low, high, shapes = np.min(trained, axis=0), np.max(trained, axis=0), block.columns["shape"]
    is_far = (shapes > FAR_FROM_TRAINING * high).any(1) | (FAR_FROM_TRAINING * shapes < low).any(1)
    if not is_far.any():
        return None
    row = int(np.argmax(is_far))
    size, usual = "x".join(map(str, shapes[row])), "x".join(map(str, high))
    is_cut = work.layout.kind.can_transform and not work.layout.tiled
    advice = f"; --tile {min(high)} would cut it" if is_cut and (shapes[row] > min(high)).any() else ""
    return f"{block.columns['key'][row]} is {size}, the base was learned on {usual}: expect a low PSNR{advice}"


def _many_sizes(work: Work, block: Block) -> str | None:
    """Items of so many sizes that few can be fitted together."""
    if len(block) < LEAST_COMPARED:
        return None
    sizes = len(np.unique(block.columns["shape"], axis=0))
    if sizes <= MOST_DISTINCT * len(block):
        return None
    advice = "; --resize, --crop or --tile makes them alike" if work.layout.kind.can_transform else ""
    return f"{sizes} sizes among {len(block)} items: few can be fitted together, which is slow{advice}"
