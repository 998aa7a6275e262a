"""What a base's file says of its training."""

from dataclasses import dataclass
from typing import Any

from functaconv.engines.ranks import trainers
from functaconv.training.dataset import Dataset
from functaconv.training.progress import plain
from functaconv.training.request import Request


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    psnr: float
    """dB on held-out items, of the base that is written"""
    updates: int
    seconds: float
    closed_form: tuple[float, float]
    """its dB on held-out items, and seconds"""
    learned: float | None
    """dB on held-out items; None where nothing was learned"""
    skipped: int
    """updates"""


def facts_of(request: Request, data: Dataset, outcome: Outcome) -> dict[str, Any]:
    """Plain values, for JSON."""
    floor, floor_seconds = outcome.closed_form
    unusable = len(data.records & data.bad)
    facts = {
        "identity": dict(request.identity),
        "updates": outcome.updates,
        "seconds": round(outcome.seconds, 1),
        "psnr": plain(outcome.psnr),
        "closed_form": {"psnr": plain(floor), "seconds": round(floor_seconds, 1)},
        "learned": {"psnr": plain(outcome.learned)},
        "items": len(data.records) - unusable,
        "validation_items": len({record for batch in data.validation for record in batch.positions}),
        "unusable": unusable,
        "skipped": outcome.skipped,
        "shapes": [list(shape) for shape in sorted(data.shapes)[:64]],
        "device": request.source.device.type,
        "precision": request.precision,
    }
    if (run := trainers().run) is not None:
        facts["run"] = run
    return facts
