"""Whether the minutes of a run are enough, told while it runs."""

import math
from collections import deque
from collections.abc import Callable
from statistics import median

from functaconv.recipe import TrainingRecipe

LEAST_UPDATES = 500
"""in which a base learns something; the presets make thousands"""
LOOK_AFTER, LOOK_SHARE = 20, 0.1
"""updates, or the share of the minutes, after which the pace is judged"""


class Pace:
    """Warns, once, when few updates will fit into a run.

    It goes on looking: learning through several steps is slower than through the first.
    """

    def __init__(self, training: TrainingRecipe, announce: Callable[[str], None]) -> None:
        self._minutes, self._steps, self._announce = training.minutes, training.steps, announce
        self._seconds: deque[float] = deque(maxlen=LOOK_AFTER)
        self._is_told = False

    def note(self, seconds: float, *, updates: int, left: float) -> None:
        """An update took so many seconds; `updates` are made so far, and so many seconds `left`."""
        if self._is_told or self._minutes is None:
            return
        self._seconds.append(seconds)
        if len(self._seconds) < LOOK_AFTER and left > (1 - LOOK_SHARE) * 60 * self._minutes:
            return
        # the first update may be slow
        each = max(1e-9, median(self._seconds))
        expected = updates + math.floor(max(0.0, left) / each)
        if expected >= min(LEAST_UPDATES, self._steps or LEAST_UPDATES):
            return
        self._is_told = True
        enough = math.ceil(self._minutes + (LEAST_UPDATES - expected) * each / 60)
        self._announce(
            f"warning: at {1 / each:.2g} updates/s about {expected} will fit into {self._minutes:g} minutes, where a "
            f"base needs {LEAST_UPDATES} or more: --minutes {enough}, or a smaller network (network.width, "
            "latent.map_width)"
        )
