"""What a training run is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from functaconv.recipe import Recipe
from functaconv.training.choice import Choice


@dataclass(frozen=True)
class Request:
    """What is to be learned, from what, and where it goes."""

    shards: Sequence[str]
    validation: Sequence[str]
    """without any, runs of the training records are held out"""
    choice: Choice
    device: torch.device
    workers: int
    """decoding threads"""
    output: Path
    identity: Mapping[str, Any]
    """settings and fingerprints, as JSON has them: a run with another identity is another run"""
    precision: str
    log: Path | None = None

    @property
    def recipe(self) -> Recipe:
        return self.choice.recipe
