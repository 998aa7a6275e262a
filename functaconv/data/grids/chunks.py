"""Dividing items into blocks for reading, so that no chunk of the file is read twice."""

import math
from collections.abc import Sequence

import numpy as np

# the most values that are held at a time, as float32: a chunk of 64 global fields of 0.25 degrees
BLOCK_BYTES = 256 << 20
# smaller chunks are read together up to this size, so that a remote store gets enough requests at once
TOGETHER_BYTES = 64 << 20


def blocks(
    axes: Sequence[np.ndarray], chunks: Sequence[int], item_bytes: int, readers: int = 1
) -> list[list[np.ndarray]]:
    """The pieces of each axis, as indices into its positions.

    A block has one piece of each axis. It is made of whole chunks; only a chunk beyond `BLOCK_BYTES` is read several
    times. `readers` of as many sources share the memory.
    """
    item_bytes *= readers
    pieces = [
        np.split(np.arange(len(positions)), np.flatnonzero(np.diff(positions // chunk)) + 1)
        for positions, chunk in zip(axes, chunks, strict=True)
    ]
    longest = [max(map(len, parts)) for parts in pieces]
    for number, length in enumerate(longest):
        limit = max(1, BLOCK_BYTES // (item_bytes * math.prod(longest[number + 1 :])))
        if limit < length:
            pieces[number] = [
                part for piece in pieces[number] for part in np.split(piece, list(range(limit, len(piece), limit)))
            ]
        if limit > 1:
            break
    # bytes that are decoded, not only those that are wanted: a level of a chunk of 37 costs 37
    budget = TOGETHER_BYTES // (item_bytes * math.prod(chunks))
    for number, parts in reversed(list(enumerate(pieces))):
        together = min(len(parts), max(1, budget))
        pieces[number] = [np.concatenate(parts[at : at + together]) for at in range(0, len(parts), together)]
        budget //= together
        if together < len(parts):
            break
    return pieces
