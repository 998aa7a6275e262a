"""How a training goes, and what came of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tqdm.auto import tqdm

from functaconv.recipe import Recipe

_OF_FACTS = ("updates", "seconds", "items", "validation_items", "unusable", "closed_form")


@dataclass(frozen=True)
class Trained:
    """What came of `fit_base`."""

    path: Path
    recipe: Recipe
    updates: int
    seconds: float
    psnr: float
    """mean PSNR (dB) of the validation items, fitted with the exported base"""
    items: int
    validation_items: int
    unusable: int
    closed_form: dict[str, float | None]
    """PSNR (dB) of the same items with the closed form, and the seconds that it took"""
    learned: float | None = None
    """PSNR (dB) of the same items with the learned base; None where nothing was learned"""
    was_finished: bool = False

    @classmethod
    def of(cls, path: Path, recipe: Recipe, facts: Mapping[str, Any], *, was_finished: bool = False) -> Self:
        """As the base's file says of its training."""
        return cls(
            path=path,
            recipe=recipe,
            psnr=math.nan if facts["psnr"] is None else facts["psnr"],
            learned=facts["learned"]["psnr"],
            was_finished=was_finished,
            **{name: facts[name] for name in _OF_FACTS},
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "base": str(self.path),
            "recipe": self.recipe.name,
            "latent": {"sites": list(self.recipe.latent.sites), "numbers": self.recipe.latent.numbers},
            "solver": self.recipe.solver.kind,
            "updates": self.updates,
            "seconds": round(self.seconds, 1),
            "validation_psnr": plain(round(self.psnr, 3)),
            "items": self.items,
            "validation_items": self.validation_items,
            "unusable": self.unusable,
            "network": self.recipe.network.kind,
            "closed_form": self.closed_form,
            "learned": {"psnr": plain(self.learned)},
            "already_finished": self.was_finished,
        }


@dataclass(frozen=True)
class Progress:
    """One line of the log."""

    update: int
    seconds: float
    fraction: float
    """of the budget that is spent"""
    train_psnr: float
    gradient_norm: float
    rate: float
    skipped: int
    validation_psnr: float | None = None
    closed_form_psnr: float | None = None


class Watcher:
    """Told how a training run goes. This one says nothing."""

    def announce(self, message: str) -> None:
        """Something a user wants to know once."""

    def report(self, progress: Progress) -> None:
        """Called a few times a second."""


class Bar(Watcher):
    """A bar of tqdm, in a terminal or a notebook."""

    def __init__(self) -> None:
        self._bar = tqdm(total=100, unit="%")

    def announce(self, message: str) -> None:
        self._bar.write(message)

    def report(self, progress: Progress) -> None:
        self._bar.set_postfix(updates=progress.update, dB=f"{progress.train_psnr:.2f}", refresh=False)
        self._bar.update(round(100 * progress.fraction) - self._bar.n)


def plain(number: float | int | None) -> float | int | None:
    """JSON has no NaN."""
    return None if isinstance(number, float) and not math.isfinite(number) else number
