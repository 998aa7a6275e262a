"""How long to wait for a source, and how often to ask it again."""

import math
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from functaconv.errors import ServiceError, UsageError

Result = TypeVar("Result")

# seconds without a byte
TIMEOUT = 60.0
TIMEOUT_VARIABLE = "FUNCTACONV_SOURCE_TIMEOUT"
SILENCE_HINT = f"run the command again, or wait longer: {TIMEOUT_VARIABLE}=300 (seconds)"
# failures in a row: with the pauses between them some ten seconds of a server's bad time
_ATTEMPTS = 5
# the first pause is this part of the timeout, half a second by default; each is twice the one before
_FIRST_PAUSE, _MAX_PAUSE = 1 / 120, 30.0
# bytes after which failures are counted anew: a long transfer may break off many times
_PROGRESS = 1 << 20


class LostError(Exception):
    """A connection broke off, or was refused for now: try again. `silent`: seconds without an answer."""

    def __init__(self, reason: str, *, silent: float = 0.0) -> None:
        super().__init__(reason)
        self.silent = silent


def source_timeout() -> float:
    """Seconds that a source may be silent: FUNCTACONV_SOURCE_TIMEOUT, by default 60."""
    text = os.environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{TIMEOUT_VARIABLE} is {text!r}, expected a number of seconds", hint="60 is the default")
    return seconds


@contextmanager
def in_our_words(judge: Callable[[Exception, float], Exception | None]) -> Iterator[None]:
    """Raise what `judge` makes of a library's error and the seconds it took; the error itself where that is None."""
    started = time.monotonic()
    try:
        yield
    except Exception as error:
        judged = judge(error, time.monotonic() - started)
        if judged is None:
            raise
    else:
        return
    raise judged


class Retries:
    """Counts failures in a row, pauses after each, and gives up after too many, or after too long a silence."""

    def __init__(self, name: str, timeout: float) -> None:
        self._name, self._timeout = name, timeout
        self._failures, self._silent, self._received = 0, 0.0, 0

    def received(self, count: int) -> None:
        """`count` more bytes than ever before."""
        self._silent = 0.0
        self._received += count
        if self._received >= _PROGRESS:
            self._failures = self._received = 0

    def run(self, step: Callable[[], Result], clean: Callable[[], None] = lambda: None) -> Result:
        """What `step` returns, tried again after every LostError and `clean`; ServiceError when it fails for good."""
        while True:
            try:
                return step()
            except LostError as error:
                lost = error
            clean()
            self._pause(lost)

    def _pause(self, error: LostError) -> None:
        self._failures += 1
        self._silent = self._silent + error.silent if error.silent else 0.0
        if self._silent >= self._timeout:
            raise ServiceError(f"{self._name} has sent nothing for {self._timeout:g} s", hint=SILENCE_HINT)
        if self._failures >= _ATTEMPTS:
            raise ServiceError(
                f"{self._name}: {error} (tried {self._failures} times)",
                hint="run the command again when the server is well",
            )
        pause = min(_MAX_PAUSE, _FIRST_PAUSE * self._timeout * 2 ** (self._failures - 1))
        # jitter: many readers must not come back at the same moment
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
