"""Progress on stderr: a bar on a terminal, otherwise a line every 30 seconds."""

import math
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from functaconv import conversion, training
from functaconv.cli.console import say

EVERY = 30.0


class Meter:
    """Shows how far something is; `silent` shows nothing."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._bar: Progress | None = None
        if not silent and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=None, facts="")
        self._told = self._begun = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, description: str, done: int, total: int | None, facts: str) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.update(self._task, description=description, completed=done, total=total, facts=facts)
        elif time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            of = f" of {total}" if total else ""
            say(f"{description} {done}{of}, {facts}, {self._told - self._begun:.0f} s")

    def line(self, message: str) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            say(message)


class TrainingMeter(training.Watcher):
    def __init__(self, meter: Meter) -> None:
        self._meter, self._validation = meter, ""

    def announce(self, message: str) -> None:
        self._meter.line(message)

    def report(self, progress: training.Progress) -> None:
        if progress.validation_psnr is not None and math.isfinite(progress.validation_psnr):
            self._validation = f", validation {progress.validation_psnr:.2f} dB"
        total = round(progress.update / progress.fraction) if progress.fraction > 0.01 else None
        floor = progress.closed_form_psnr
        beside = "" if floor is None or not math.isfinite(floor) else f", closed form {floor:.2f} dB"
        facts = f"{progress.train_psnr:.2f} dB{self._validation}{beside}"
        self._meter.show("updates", progress.update, total, facts)


class EncodingMeter(conversion.Watcher):
    def __init__(self, meter: Meter) -> None:
        self._meter, self._begun = meter, time.monotonic()
        self._first: int | None = None

    def announce(self, message: str) -> None:
        self._meter.line(message)

    def report(self, done: int, failed: int, total: int | None, mean_psnr: float) -> None:
        self._first = done if self._first is None else self._first
        speed = (done - self._first) / max(1e-9, time.monotonic() - self._begun)
        facts = f"{mean_psnr:.2f} dB, {speed:.0f} items/s" + (f", {failed} failed" if failed else "")
        self._meter.show("items", done, total, facts)
