"""All that can be asked of a training."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from functaconv.data.decoders.transform import Size
from functaconv.documents import merged
from functaconv.errors import UsageError
from functaconv.settings import from_toml, latent_of


@dataclass(frozen=True)
class FitOptions:
    """All that can be asked of `fit_base`, in Python and on the command line.

    What is not given comes from `settings`, then from the recipe file, then from the preset.
    """

    preset: str | None = None
    """None: the one of the recipe file, or the one that suits the first items"""
    recipe: Path | str | None = None
    """a TOML file of settings"""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """nested tables, as in the file"""
    latent: str | None = None
    """256, or 8x8x16 for 8 x 8 sites of 16 numbers"""
    solver: str | None = None
    steps: int | None = None
    """outer updates"""
    minutes: float | None = None
    """wall clock of learning; 0: the closed form only"""
    batch_size: int | None = None
    """items in an update, of all ranks together"""
    seed: int | None = None
    device: str = "auto"
    precision: str = "auto"
    validation: str | Sequence[str] | None = None
    """shards; None: runs of 2% of the records"""
    field: str | None = None
    """the suffix of the member that holds the array"""
    channels: int | None = None
    """of images"""
    resize: Size | None = None
    crop: Size | None = None
    tile: int | None = None
    """pixels: larger images are cut into tiles of at most this side"""
    log: Path | str | None = None
    """a file of JSON lines"""
    workers: int | None = None
    """decoding threads of each rank; None: the machine's cores, shared by its ranks"""
    allow_pipe: bool = False
    """shards may be `pipe:COMMAND`: the command runs for the first items, and again for a copy of the shard"""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers must be 0 or more, not {self.workers}")

    def asked(self) -> tuple[str | None, dict[str, Any]]:
        """The preset that was named, and the settings beside it, which win over it."""
        written = {} if self.recipe is None else from_toml(Path(self.recipe))
        named = written.pop("preset", None)
        flags = {
            "data": {name: getattr(self, name) for name in ("field", "channels", "resize", "crop", "tile")},
            "solver": {"kind": self.solver},
            "training": {name: getattr(self, name) for name in ("steps", "minutes", "batch_size", "seed")},
        }
        own = merged(self.settings, {} if self.latent is None else latent_of(self.latent))
        for section, values in flags.items():
            if given := {name: value for name, value in values.items() if value is not None}:
                own = merged(own, {section: given})
        return self.preset or named, layered(written, own)


def layered(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`merged`, but a budget of updates takes the place of one of minutes, and the other way round."""
    budget, result = over.get("training", {}), merged(under, over)
    if ("steps" in budget) != ("minutes" in budget):
        dropped = "minutes" if "steps" in budget else "steps"
        result["training"] = {name: value for name, value in result["training"].items() if name != dropped}
    return result
