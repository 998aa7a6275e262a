"""Stopping between whole steps: signals set a flag that workflows check there."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from functaconv.errors import StoppedError

Item = TypeVar("Item")
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
# option of prctl, from linux/prctl.h
PR_SET_PDEATHSIG = 1


def stop_with_parent() -> None:
    """A worker of torchrun stops, with everything saved, when torchrun is gone, be it by kill -9. Linux only."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        # it was gone before we had asked
        os.kill(os.getpid(), signal.SIGTERM)


class AskedToStop(BaseException):
    """A signal came while the process waited for input."""


class Stop:
    """Whether someone asked to stop, and how."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.is_waiting = False
        """nothing is in hand: a signal ends this at once"""

    def while_waiting(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; a signal that comes while the next one is waited for raises AskedToStop, and so does one
        that came before.
        """
        while True:
            self.is_waiting = True
            try:
                if self.signal is not None:
                    raise AskedToStop
                item = next(items)
            except StopIteration:
                return
            finally:
                self.is_waiting = False
            yield item
            # not held while the next one is made
            del item

    def check(self, saved: str, hint: str = "run the same command again to go on") -> None:
        """Raise if a stop was asked for; `saved` says what is safe on disk."""
        if self.signal is None:
            return
        if self.signal == signal.SIGINT:
            raise CtrlCError(f"stopped by Ctrl-C; {saved}", hint=hint)
        name = signal.Signals(self.signal).name
        raise StoppedError(f"stopped by {name}; {saved}", hint=hint)


class CtrlCError(StoppedError):
    """Ctrl-C, after the step in hand was finished and saved."""

    exit_code = 130


@contextmanager
def stopping(announce: Callable[[str], None] = lambda _: None) -> Iterator[Stop]:
    """Catch SIGINT, SIGTERM and SIGUSR1 while a workflow runs; a second Ctrl-C stops at once.

    Outside the main thread nothing is caught: signals are not ours there.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number
        if stop.is_waiting:
            raise AskedToStop
        announce("stopping as soon as what is in hand is saved; Ctrl-C stops at once")

    with kept_handlers():
        for number in SIGNALS:
            signal.signal(number, note)
        yield stop


@contextmanager
def kept_handlers() -> Iterator[None]:
    """The handlers of the signals that ask to stop are the same after the block, which may set others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
