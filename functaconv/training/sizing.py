"""How wide what is learned may be: from what this machine makes in a second of trial updates.

A base that is as wide as a fast machine affords makes too few updates on a slow one to learn anything.
"""

import math
import time
from collections.abc import Callable, Sequence

from functaconv.networks import SirenOptions
from functaconv.recipe import Recipe
from functaconv.signals.batch import Batch
from functaconv.training.learner import Learner

WANTED_UPDATES = 1000
"""in a budget; the presets make several thousand on a fast machine"""
TRIAL_SECONDS, TRIAL_SHARE = 1.0, 0.02
"""of trial updates, after a first one; at most so much of the budget"""
LEAST_WIDTH, MULTIPLE = 32, 16


def width_of(recipe: Recipe) -> int | None:
    """The width that decides what an update costs; None where there is none to choose."""
    if recipe.latent.map_width:
        return recipe.latent.map_width
    return recipe.network.width if isinstance(recipe.network, SirenOptions) else None


def with_width(recipe: Recipe, width: int | None) -> Recipe:
    """The recipe with another width, if there is one to choose."""
    if width == width_of(recipe):
        return recipe
    section, name = ("latent", "map_width") if recipe.latent.map_width else ("network", "width")
    return recipe.changed({section: {name: width}})


def affordable(width: int, updates: float) -> int:
    """The width that leaves room for the wanted updates where `width` leaves room for so many: the time of an update
    grows with its square.
    """
    if updates >= WANTED_UPDATES:
        return width
    fitting = MULTIPLE * int(width * math.sqrt(updates / WANTED_UPDATES) / MULTIPLE)
    return min(width, max(LEAST_WIDTH, fitting))


def narrowed(
    recipe: Recipe,
    learner: Learner,
    batches: Sequence[Batch],
    tell: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Recipe:
    """The recipe, no wider than its minutes allow on this machine; the learner, which has a base of its own, makes
    trial updates with the batches.
    """
    width, minutes = width_of(recipe), recipe.training.minutes
    if width is None or not minutes:
        return recipe
    # the first one may be slow
    learner.update(batches, 0.0)
    started, made = clock(), 0
    while not made or clock() - started < min(TRIAL_SECONDS, TRIAL_SHARE * 60 * minutes):
        learner.update(batches, 0.0)
        made += 1
    updates = 60 * minutes * made / (clock() - started)
    narrow, numbers = affordable(width, updates), recipe.latent.numbers
    if recipe.network.tells_apart(numbers):
        wider = range(narrow, width, MULTIPLE)
        narrow = next((one for one in wider if with_width(recipe, one).network.tells_apart(numbers)), width)
    if narrow < width:
        tell(f"{narrow} wide, not {width}: {minutes:g} minutes allow {updates:.0f} updates here")
    return with_width(recipe, narrow)


def of_few_modulations(recipe: Recipe) -> str:
    """A warning where the network is modulated by fewer numbers than a latent has; else empty."""
    modulations, numbers = recipe.network.modulations, recipe.latent.numbers
    if recipe.network.tells_apart(numbers):
        return ""
    return (
        f"{modulations} numbers modulate the network, fewer than the latent's {numbers}: a larger network.width "
        "(of lowrank: network.rank) makes better use of them"
    )
