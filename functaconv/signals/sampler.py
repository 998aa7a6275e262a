"""In which order items are learned from: all of them once per epoch, in batches drawn at random."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from functaconv.signals.batch import Batch, batched
from functaconv.signals.loader import map_ahead
from functaconv.signals.signal import Signal


@dataclass(frozen=True)
class Position:
    """How far the draws of a run are: all it needs to go on with the very same batches."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True)
class Draw:
    """The items of one batch, by index, and the position after it."""

    indices: tuple[int, ...]
    position: Position


def draws(indices: Sequence[int], size: int, seed: int, position: Position) -> Iterator[Draw]:
    """Batches for ever. The last one of an epoch is short where the items do not divide into batches."""
    epoch, index = position.epoch, position.index
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(np.asarray(indices))
        while index < len(order):
            chosen = tuple(order[index : index + size].tolist())
            index += len(chosen)
            yield Draw(chosen, Position(epoch, index))
        epoch, index = epoch + 1, 0


def loaded(
    drawn: Iterator[Draw],
    load: Callable[[int], Signal | None],
    share: Callable[[int], slice],
    *,
    workers: int,
    pin: bool = False,
) -> Generator[tuple[list[Batch], Draw]]:
    """Each draw's items, grouped by shape, of which only this rank's share is decoded; batches ahead, in threads.

    `share` says which of so many items are this rank's. Items that `load` cannot give (None) are left out.
    """

    def decoded(draw: Draw) -> tuple[list[Batch], Draw]:
        own = draw.indices[share(len(draw.indices))]
        signals = ((index, signal) for index in own if (signal := load(index)) is not None)
        return list(batched(signals, len(own), pin=pin)), draw

    return map_ahead(decoded, drawn, workers=workers, ahead=workers + 1)
