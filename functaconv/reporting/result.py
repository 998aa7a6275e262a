"""The result of a report: a summary, and a table with a line per item."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from functaconv.errors import FunctaconvError
from functaconv.functaset.reader import Functaset
from functaconv.metrics import psnr
from functaconv.summary import Items


@dataclass(frozen=True)
class ItemQuality:
    """How well one item is represented."""

    number: int
    """position in the functaset, tiles counted as one item"""
    key: str
    label: int
    psnr: float
    mse: float
    shape: tuple[int, ...]
    found_psnr: float | None
    """as decoded and compared just now; None when it was not"""


@dataclass(frozen=True, eq=False)
class Table:
    """The items of a functaset, tiles joined, with their stored quality."""

    items: Items
    label: np.ndarray
    mse: np.ndarray
    psnr: np.ndarray
    found_psnr: np.ndarray | None = None
    """NaN for items that could not be compared"""

    @classmethod
    def of(cls, functaset: Functaset) -> "Table":
        items = Items.of(functaset.keys, functaset.shapes, functaset.tiles, functaset.views)
        mse = items.mse(functaset.mse)
        return cls(items, functaset.labels[items.first], mse, psnr(mse))

    def __len__(self) -> int:
        return len(self.items)

    def quality(self, mse: np.ndarray) -> np.ndarray:
        """The PSNR of each item in dB, from the mean squared error of each row; NaN where that is NaN."""
        return psnr(self.items.mse(mse))

    def __getitem__(self, number: int) -> ItemQuality:
        recomputed = None if self.found_psnr is None else float(self.found_psnr[number])
        return ItemQuality(
            number=number,
            key=str(self.items.keys[number]),
            label=int(self.label[number]),
            psnr=float(self.psnr[number]),
            mse=float(self.mse[number]),
            shape=tuple(self.items.shape[number].tolist()),
            found_psnr=None if recomputed is None or np.isnan(recomputed) else recomputed,
        )

    def __iter__(self) -> Iterator[ItemQuality]:
        return (self[number] for number in range(len(self)))

    def ranked(self, count: int, *, best: bool = False) -> list[ItemQuality]:
        """The items of lowest PSNR, lowest first; or of highest, highest first."""
        order = np.argsort(-self.psnr if best else self.psnr, kind="stable")
        return [self[int(number)] for number in order[:count]]


@dataclass(frozen=True, eq=False)
class Report:
    """How good a functaset is."""

    summary: dict[str, Any]
    """what `report --json` prints"""
    items: Table
    functaset: Functaset = field(repr=False)
    complaint: FunctaconvError | None = None
    """why the exit code is not 0"""
    originals: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    """small pictures, by item, of the worst and best items as the shards have them"""

    def worst(self, count: int = 16) -> list[ItemQuality]:
        """The items of lowest PSNR, lowest first."""
        return self.items.ranked(count)

    def best(self, count: int = 8) -> list[ItemQuality]:
        """The items of highest PSNR, highest first."""
        return self.items.ranked(count, best=True)


def mean_of(psnr: np.ndarray) -> float:
    """The mean over the items that were compared, which are not NaN; NaN when none was."""
    compared = psnr[~np.isnan(psnr)]
    return float(compared.mean()) if len(compared) else math.nan
