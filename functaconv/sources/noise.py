"""Warnings of libraries: heard while files are read, and told once each, with the name of the file."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Noise", "heard", "now_reading"]

_HERE = threading.local()
_UNHEARD = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""for developers"""


class Noise:
    """What was said, by which file first, and how often."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()

    def add(self, message: Warning | str) -> None:
        text = " ".join(str(message).split())[:300]
        with self._lock:
            name, count = self._said.get(text, (getattr(_HERE, "name", ""), 0))
            self._said[text] = name, count + 1

    def lines(self) -> list[str]:
        return [
            (f"{name}: " if name else "") + text + (f" (and {count - 1} more times)" if count > 1 else "")
            for text, (name, count) in self._said.items()
        ]


@contextmanager
def heard() -> Iterator[Noise]:
    """Python's warnings, of all threads, meanwhile."""
    noise = Noise()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for kind in _UNHEARD:
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = lambda message, *_, **__: noise.add(message)
        yield noise


def now_reading(name: str) -> None:
    """What this thread reads from now on is the file `name`."""
    _HERE.name = name
