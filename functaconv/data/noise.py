"""Warnings of libraries, collected while files are read and shown once each, with the name of the file."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_HERE = threading.local()
_MOST_LINES = 10
_LOGGERS = ("PIL", "tifffile")
# these are for developers
_UNHEARD = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


class Noise:
    """Each warning with the first file that caused it and its count."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()

    def add(self, message: Warning | str) -> None:
        text = " ".join(str(message).split())[:300]
        with self._lock:
            name, count = self._said.get(text, (getattr(_HERE, "name", ""), 0))
            self._said[text] = name, count + 1

    def lines(self) -> list[str]:
        lines = [
            (f"{name}: " if name else "") + text + (f" (and {count - 1} more times)" if count > 1 else "")
            for text, (name, count) in self._said.items()
        ]
        more = len(lines) - _MOST_LINES
        return lines if more < 2 else [*lines[:_MOST_LINES], f"and {more} more warnings of libraries"]


class _Handler(logging.Handler):
    def __init__(self, noise: Noise) -> None:
        super().__init__(logging.WARNING)
        self._noise = noise

    def emit(self, record: logging.LogRecord) -> None:
        self._noise.add(record.getMessage())


@contextmanager
def heard() -> Iterator[Noise]:
    """Collect what libraries warn of and log, in all threads, while the block runs."""
    # not about what was read before
    now_reading("")
    noise = Noise()
    handler = _Handler(noise)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for kind in _UNHEARD:
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = lambda message, *_, **__: noise.add(message)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(handler)
        try:
            yield noise
        finally:
            for name in _LOGGERS:
                logging.getLogger(name).removeHandler(handler)


def now_reading(name: str) -> None:
    """Warnings of this thread are from now on about the file `name`."""
    _HERE.name = name


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Warnings of this thread are about the file `name` while the block runs."""
    now_reading(name)
    try:
        yield
    finally:
        now_reading("")
