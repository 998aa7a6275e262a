"""What a training run is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from functaconv.recipe import Recipe
from functaconv.training.dataset import Source


@dataclass(frozen=True)
class Request:
    """What is to be learned, from what, and where it goes."""

    source: Source
    output: Path
    identity: Mapping[str, Any]
    """settings and fingerprints: a run with another identity is another run"""
    may_keep_closed_form: bool = True
    """no other network was asked for: the base that validates better is written"""
    may_be_narrower: bool = False
    """no width was asked for: on a slow machine it is a smaller one"""
    precision: str = "float32"
    log: Path | None = None

    @property
    def recipe(self) -> Recipe:
        return self.source.recipe
