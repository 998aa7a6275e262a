"""Small pictures of items: originals from the shards, and reconstructions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from functaconv.base import Base
from functaconv.functaset.reader import Functaset
from functaconv.joining import Joined
from functaconv.modalities import Axes
from functaconv.reporting.result import Table
from functaconv.signals.batch import Batch
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal

# pixels along the longer side: of larger items every second, third, ... pixel is shown
MOST_PIXELS = 192


def can_show(axes: Axes) -> bool:
    """Whether items are pictures: two axes, gray or three channels."""
    return axes.dims == 2 and axes.channels in (1, 3)


@dataclass(eq=False)
class Thumbnails:
    """Pictures of some items, painted row by row: a tiled item has several."""

    functaset: Functaset
    table: Table
    numbers: Sequence[int]
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    """uint8 `[row, column, channel]`, by item"""

    def watched(self, rows: Iterable[tuple[int, Signal]], normalizer: Normalizer) -> Iterator[tuple[int, Signal]]:
        """The same rows; those of the chosen items are painted as they pass."""
        owner = dict(self.rows())
        for row, signal in rows:
            if row in owner:
                features = normalizer.features(Batch.of([signal], [row])).numpy()
                picture = features.reshape(*signal.shape, -1)
                self._paint(owner[row], row, picture[self.seen(owner[row], row)])
            yield row, signal

    @torch.no_grad()
    def decode(self, base: Base) -> None:
        """Paint the reconstructions."""
        for row, number in self.rows():
            count = int(self.table.items.rows[number])
            if count > 1:
                if row == self.table.items.first[number]:
                    self._decode_joined(Joined.stored(base, self.functaset, row, count), number)
                continue
            grid = self.functaset.native_grid(row)
            shown = self.seen(number, row)
            # of the points that are shown, and of no others: there may be thousands for each of these
            points = base.geometry.points(grid, shown)
            shape = tuple(len(range(size)[part]) for size, part in zip(grid.shape, shown, strict=True))
            latent = torch.from_numpy(self.functaset.latents(slice(row, row + 1))).reshape(1, -1, base.latent)
            features = base.decode(latent.to(base.device), points.to(base.start))
            self._paint(number, row, features.reshape(*shape, -1).cpu().numpy())

    def _decode_joined(self, joined: Joined, number: int) -> None:
        step, parts = self._step(number), []
        places = [Grid(joined.whole).axis(axis)[::step] for axis in range(len(joined.whole))]
        for _, features in joined.bands(places):
            parts.append(features.numpy())
        self._paint(number, int(self.table.items.first[number]), np.concatenate(parts))

    def rows(self) -> Iterator[tuple[int, int]]:
        """Each row that belongs to one of the items, with that item."""
        for number in self.numbers:
            first = int(self.table.items.first[number])
            for row in range(first, first + int(self.table.items.rows[number])):
                yield row, number

    def seen(self, number: int, row: int) -> tuple[slice, ...]:
        """The points of a row that are shown."""
        step = self._step(number)
        return tuple(slice(-origin % step, None, step) for origin in self._origin(row))

    def _paint(self, number: int, row: int, features: np.ndarray) -> None:
        step = self._step(number)
        whole = [-(-int(size) // step) for size in self.table.items.shape[number]]
        canvas = self.pictures.setdefault(number, np.zeros((*whole, features.shape[-1]), np.uint8))
        box = tuple(
            slice(-(-origin // step), -(-origin // step) + length)
            for origin, length in zip(self._origin(row), features.shape, strict=False)
        )
        canvas[box] = np.rint(np.nan_to_num(features).clip(0, 1) * 255).astype(np.uint8)

    def _origin(self, row: int) -> tuple[int, ...]:
        axes = self.functaset.shapes.shape[1]
        tiles = self.functaset.tiles
        return (0,) * axes if tiles is None else tuple(tiles[row, :axes].tolist())

    def _step(self, number: int) -> int:
        return -(-int(self.table.items.shape[number].max()) // MOST_PIXELS)
