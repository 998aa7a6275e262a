"""Augmented views of an item: mirrored and shifted copies, which depend on a seed, the item's key and their number."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from functaconv.errors import UsageError, lookup
from functaconv.signals.signal import Signal

MOST_VIEWS = 1 << 16
Change = Callable[[np.ndarray], np.ndarray]


def _flip(random: np.random.Generator, _axes: int, _size: int, mirrored_axis: int) -> Change:
    """Mirrored, or not."""
    return (lambda array: np.flip(array, mirrored_axis)) if random.random() < 0.5 else (lambda array: array)


def _crop(random: np.random.Generator, axes: int, size: int, _mirrored_axis: int) -> Change:
    """Shifted by up to `size` points along every axis; what comes into sight is reflected."""
    starts = random.integers(0, 2 * size + 1, axes)

    def change(array: np.ndarray) -> np.ndarray:
        padded = np.pad(array, [(size, size)] * axes + [(0, 0)], mode="reflect")
        return padded[tuple(slice(start, start + count) for start, count in zip(starts, array.shape, strict=False))]

    return change


AUGMENTATIONS = {"flip": _flip, "crop": _crop}


@dataclass(frozen=True)
class Views:
    """An item itself, which is view 0, and `count - 1` augmented views of it."""

    count: int
    augment: tuple[tuple[str, int], ...]
    """augmentations by name, with their size in points, in the order in which they are made"""
    seed: int
    mirrored_axis: int
    """from left to right, of values `[*grid, channel]`"""

    def of(self, signal: Signal) -> Iterator[Signal]:
        """The views of a signal, which share its key."""
        yield signal
        for number in range(1, self.count):
            digest = blake2b(f"{self.seed} {number} {signal.key}".encode("utf-8", "backslashreplace"), digest_size=16)
            random = np.random.default_rng(int.from_bytes(digest.digest(), "little"))
            values, valid = signal.values, signal.valid
            for name, size in self.augment:
                change = AUGMENTATIONS[name](random, values.ndim - 1, size, self.mirrored_axis)
                values, valid = change(values), None if valid is None else change(valid)
            kept = None if valid is None else np.ascontiguousarray(valid)
            yield replace(signal, values=np.ascontiguousarray(values), valid=kept)


def parse_augment(text: str) -> tuple[tuple[str, int], ...]:
    """`flip,crop:4` as names and sizes; a UsageError for others."""
    parsed = []
    for part in text.split(","):
        name, colon, size = (one.strip() for one in part.partition(":"))
        lookup(AUGMENTATIONS, name, what="augmentation")
        if (name == "crop") != bool(colon) or (colon and not (size.isdecimal() and 0 < int(size) < 1 << 16)):
            raise UsageError(f"cannot read the augmentation {part!r}", hint="write them as in --augment flip,crop:4")
        parsed.append((name, int(size or 0)))
    return tuple(parsed)
