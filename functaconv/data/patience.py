"""How long a source is waited for, and how often it is asked again."""

import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from functaconv.errors import ServiceError, UsageError

Result = TypeVar("Result")

ATTEMPTS = 5
"""in a row without progress; with the pauses between them that is some ten seconds of a server's bad time"""
FIRST_PAUSE, MOST_PAUSE = 0.5, 30.0
"""seconds; a pause is twice the one before, and then up to half of it less, so that many readers do not come at once"""
PROGRESS = 1 << 20
"""bytes after which the attempts are counted anew: a long transfer may break off many times"""
TIMEOUT = 60.0
"""seconds without a byte"""
LEAST_RATE, PERIODS = 1 << 10, 5
"""bytes per second, and for how many timeouts a source may give fewer: a byte now and then is no answer either"""
TIMEOUT_VARIABLE = "FUNCTACONV_SOURCE_TIMEOUT"
SILENCE_HINT = f"run the command again, or wait longer: {TIMEOUT_VARIABLE}=300 (seconds)"


class LostError(Exception):
    """A connection that broke off, or was refused for now: to be tried again."""

    def __init__(self, reason: str, *, silent: float = 0.0, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.silent = silent
        """seconds waited in vain, if that is what was wrong"""
        self.pause = pause
        """seconds that the server asks to be left alone"""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds and counts, see the constants of this module."""

    attempts: int
    first_pause: float
    timeout: float
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def usual(cls) -> "Patience":
        return cls(ATTEMPTS, FIRST_PAUSE, source_timeout())


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


class Retries:
    """Counts what went wrong in a row, pauses after each time, and gives up when it was too often or too long."""

    def __init__(self, name: str, patience: Patience) -> None:
        self._name, self._patience = name, patience
        self._lost, self._silent, self._received = 0, 0.0, 0
        self._waited, self._given = 0.0, 0

    def received(self, count: int, waited: float = 0.0) -> None:
        """`count` more bytes than ever before, after `waited` seconds; ServiceError where they drip."""
        self._silent = 0.0
        self._waited, self._given = self._waited + waited, self._given + count
        if self._waited >= PERIODS * self._patience.timeout:
            if self._given < LEAST_RATE * self._waited:
                said = f"{self._name} has sent no more than {self._given} bytes in {self._waited:.0f} s"
                raise ServiceError(said, hint=SILENCE_HINT)
            self._waited, self._given = 0.0, 0
        self._received += count
        if self._received >= PROGRESS:
            self._lost = self._received = 0

    def run(self, step: Callable[[], Result], clean: Callable[[], None] = lambda: None) -> Result:
        """What `step` returns, tried again after every LostError and `clean`; ServiceError when enough is enough."""
        while True:
            try:
                return step()
            except LostError as error:
                lost = error
            clean()
            self._pause(lost)

    def _pause(self, error: LostError) -> None:
        self._lost += 1
        self._silent = self._silent + error.silent if error.silent else 0.0
        if self._silent >= self._patience.timeout:
            raise ServiceError(f"{self._name} has sent nothing for {self._patience.timeout:g} s", hint=SILENCE_HINT)
        if self._lost >= self._patience.attempts:
            raise ServiceError(
                f"{self._name}: {error} (tried {self._lost} times)",
                hint="run the command again when the server is well",
            )
        pause = min(MOST_PAUSE, self._patience.first_pause * 2 ** (self._lost - 1))
        # the jitter is no secret
        self._patience.sleep(max(pause * random.uniform(0.5, 1.0), min(MOST_PAUSE, error.pause)))  # noqa: S311
