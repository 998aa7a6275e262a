"""The closed form that a training run begins with, kept until the run ends."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from functaconv.checkpoint import base_from_bytes, base_to_bytes, read_base
from functaconv.documents import differences
from functaconv.errors import InputError
from functaconv.modalities.sphere import Globe
from functaconv.recipe import Recipe
from functaconv.signals.batch import Batch, batched
from functaconv.signals.geometry import Geometry
from functaconv.signals.signal import Signal
from functaconv.training.closed_form import ClosedForm

MOST_VALUES = 1 << 25
"""of the items that a closed form is fitted to"""
LEAST_ITEMS = 64
BATCH_VALUES = 1 << 21
LARGEST_BATCH = 512


@dataclass(frozen=True)
class Floor:
    """A base in closed form as the content of a file, and what it is worth."""

    content: bytes
    recipe: Recipe
    psnr: float
    """of the held-out items"""
    seconds: float

    @classmethod
    def of(cls, fit: ClosedForm, facts: Mapping[str, Any]) -> "Floor":
        """As it is stored, with what its file says of its training."""
        return cls(base_to_bytes(fit.base, fit.recipe, facts), fit.recipe, fit.psnr, fit.seconds)

    @classmethod
    def read(cls, path: Path, identity: Mapping[str, Any]) -> "Floor | None":
        """That of an earlier start of the run with this identity; None where there is none."""
        if not path.exists():
            return None
        try:
            stored = read_base(path)
        except InputError:
            # cut off by a power failure: it is made again in seconds
            return None
        training = stored.description.training
        if differences(training.get("identity", {}), dict(identity)):
            return None
        known = training["closed_form"]
        quality = math.nan if known["psnr"] is None else known["psnr"]
        return cls(stored.content, stored.recipe, quality, known["seconds"])

    def with_facts(self, facts: Mapping[str, Any]) -> bytes:
        """The content when its file says something else of its training."""
        stored = base_from_bytes(self.content, "the closed form")
        return base_to_bytes(stored.base, stored.recipe, facts)


def sampled(load: Callable[[int], Signal | None], indices: Sequence[int], recipe: Recipe) -> Iterator[Batch]:
    """Training items drawn at random, as many as a closed form is fitted to; their positions say which are neighbours
    in time.
    """
    order = np.random.default_rng((recipe.training.seed, 2)).permutation(len(indices))

    items: list[tuple[int, Signal]] = []
    values = 0
    for place in order.tolist():
        if values >= MOST_VALUES and len(items) >= LEAST_ITEMS:
            break
        if (signal := load(indices[place])) is not None:
            values += signal.values.size
            items.append((indices[place], signal))
    if not items:
        raise InputError("no training item could be decoded", hint="`functaconv inspect` lists what is there")
    places = _in_time(items)
    size = BATCH_VALUES // items[0][1].values.size
    positioned = ((places[index], signal) for index, signal in items)
    yield from batched(positioned, max(1, min(LARGEST_BATCH, size)))


def _in_time(items: Sequence[tuple[int, Signal]]) -> dict[int, int]:
    """The place of each item, by its index, among the others in time: the same for items of one time, such as levels
    and members of a forecast. Without times, in the order of the records.
    """
    times = {index: str((signal.attributes or {}).get("time", f"{index:012d}")) for index, signal in items}
    rank = {time: number for number, time in enumerate(sorted(set(times.values())))}
    return {index: rank[time] for index, time in times.items()}


def planar(geometry: Geometry) -> Geometry:
    """The geometry that a closed form sees: a plane, not points on the sphere."""
    return replace(geometry, kind="planar") if isinstance(geometry, Globe) else geometry
