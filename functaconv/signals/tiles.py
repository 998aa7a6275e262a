"""Cutting a large item into tiles of about the training size, and where a tile lies in the whole."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from functaconv.signals.signal import Signal

LEAST_TILE = 8
"""pixels along a side"""


@dataclass(frozen=True)
class Tile:
    """A signal that is all or part of an item."""

    signal: Signal
    origin: tuple[int, ...]
    """index of the first point along each axis"""
    whole: tuple[int, ...]
    """shape of the item it was cut from"""


def cuts(size: int, tile: int) -> list[tuple[int, int]]:
    """Start and stop of the fewest near-equal pieces of at most `tile` points each."""
    pieces = math.ceil(size / tile)
    edges = [round(number * size / pieces) for number in range(pieces + 1)]
    return list(itertools.pairwise(edges))


def tiles_of(signal: Signal, tile: int | None) -> Iterator[Tile]:
    """The signal itself, or its tiles in row-major order, with keys `KEY#row,column`."""
    axes = [cuts(size, tile or size) for size in signal.shape]
    if all(len(pieces) == 1 for pieces in axes):
        yield Tile(signal, (0,) * len(axes), signal.shape)
        return
    for place in itertools.product(*(range(len(pieces)) for pieces in axes)):
        spans = [axes[axis][number] for axis, number in enumerate(place)]
        box = tuple(slice(start, stop) for start, stop in spans)
        cut = replace(
            signal,
            key=f"{signal.key}#{','.join(map(str, place))}",
            values=signal.values[box],
            valid=None if signal.valid is None else signal.valid[box],
        )
        yield Tile(cut, tuple(start for start, _ in spans), signal.shape)
