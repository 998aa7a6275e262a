"""A signal: one item as values on a grid."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from functaconv.signals.grid import AnyGrid, Grid


@dataclass(frozen=True)
class Signal:
    """One item as values on a grid."""

    key: str
    values: np.ndarray
    """`[*grid, channel]` in raw units"""
    peak: float | None = None
    """the code of full intensity, where values are codes"""
    valid: np.ndarray | None = None
    """`[*grid, channel]`, False where a value is missing; None when all are there"""
    label: int = -1
    attributes: dict[str, Any] | None = None
    """what is stored with the item besides its values"""
    own_grid: AnyGrid | None = None
    """where the points lie, when that is not the unit cube"""
    level: str | None = None
    """items of one level may be scaled by a range of their own"""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[:-1]

    @property
    def grid(self) -> AnyGrid:
        return self.own_grid or Grid(self.shape)

    @property
    def batches_with(self) -> tuple[object, ...]:
        """Signals for which this is equal can be stacked."""
        return (self.values.dtype.num, self.own_grid or self.shape)
