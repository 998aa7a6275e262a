"""Cutting a large item into tiles of about the training size, and where a tile lies in the whole."""

import itertools
import math
from collections.abc import Iterator, Sequence
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
    item: Signal
    """the whole that it was cut from"""


def cuts(size: int, tile: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Start and stop of the fewest pieces of at most `tile` points each: near-equal ones, or equal ones of which
    neighbours share `overlap` points or a few more.
    """
    if size <= tile:
        return [(0, size)]
    pieces = math.ceil((size - overlap) / (tile - overlap))
    if not overlap:
        return list(itertools.pairwise(round(number * size / pieces) for number in range(pieces + 1)))
    length = math.ceil((size + (pieces - 1) * overlap) / pieces)
    starts = [round(number * (size - length) / (pieces - 1)) for number in range(pieces)]
    return [(start, start + length) for start in starts]


def spans_of(shape: Sequence[int], tile: int | None, overlap: Sequence[int] = ()) -> list[list[tuple[int, int]]]:
    """Where the tiles of an item begin and end along each axis."""
    shared = overlap or (0,) * len(shape)
    return [cuts(size, tile or size, common) for size, common in zip(shape, shared, strict=True)]


def tiles_of(signal: Signal, tile: int | None, overlap: Sequence[int] = ()) -> Iterator[Tile]:
    """The signal itself, or its tiles in row-major order, with keys `KEY#row,column`."""
    axes = spans_of(signal.shape, tile, overlap)
    if all(len(pieces) == 1 for pieces in axes):
        yield Tile(signal, (0,) * len(axes), signal)
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
        yield Tile(cut, tuple(start for start, _ in spans), signal)
