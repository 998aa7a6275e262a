"""Whether the cells of spatial latents, and the borders of tiles, show in enlarged renders."""

import numpy as np
import torch

from functaconv.base import Base
from functaconv.functaset.reader import Functaset
from functaconv.joining import Joined
from functaconv.metrics import Steps, seam_ratio, seams, steps_across
from functaconv.signals.grid import Grid
from functaconv.summary import Items

SCALE = 4
# items that are rendered, spread over the functaset
MOST_ITEMS = 32
# values of all renders together
MOST_VALUES = 1 << 26
# of tiles: how many are rendered, and pixels on either side of them
MOST_BORDERS, AROUND = 96, 3
# pixels along a border: many short ones say more than few long ones
ALONG = 64


def measured_seams(functaset: Functaset, base: Base) -> float | None:
    """`seam_ratio` of renders at four times the size, of cells within items and of the borders of tiles; None where
    there are neither tiles nor cells that are whole pixels.
    """
    layout = functaset.layout
    if len(layout.axes) != 2 or layout.kind.has_coordinates or not len(functaset):
        return None
    cells = _of_cells(functaset, base) if len(layout.sites) == 2 else (np.zeros(0), np.zeros(0))
    tiles = _of_tiles(functaset, base) if layout.tiled else (np.zeros(0), np.zeros(0))
    return seam_ratio(np.concatenate([cells[0], tiles[0]]), np.concatenate([cells[1], tiles[1]]))


def _of_cells(functaset: Functaset, base: Base) -> Steps:
    sites = functaset.layout.sites
    sums, counts, values = np.zeros(4), np.zeros(4), 0
    for row in np.unique(np.linspace(0, len(functaset) - 1, MOST_ITEMS).astype(int)):
        if (functaset.shapes[row] % sites).all():
            continue
        shape = tuple(SCALE * int(size) for size in functaset.shapes[row])
        values += base.axes.channels * shape[0] * shape[1]
        if values > MOST_VALUES and counts.any():
            break
        latents = torch.from_numpy(functaset.latents(np.array([row]))).reshape(1, -1, base.latent)
        rendered = base.decode(latents.to(base.start), base.points(Grid(shape)))
        steps = seams(rendered.reshape(1, *shape, -1).cpu().numpy(), (sites[0], sites[1]), SCALE)
        sums, counts = sums + steps[0], counts + steps[1]
    return sums, counts


def _of_tiles(functaset: Functaset, base: Base) -> Steps:
    """Steps where tiles overlap, beside those next to them: a photograph's own steps vary more from place to place."""
    sums, counts, tiles, shapes = np.zeros(4), np.zeros(4), functaset.tiles, functaset.shapes
    assert tiles is not None
    items, origins, ends = Items.of(None, shapes, tiles), tiles[:, :2], tiles[:, :2] + shapes
    borders = np.argwhere(origins)
    for number in np.unique(np.linspace(0, len(borders) - 1, min(len(borders), MOST_BORDERS)).astype(int)):
        row, axis = borders[number].tolist()
        item = int(np.searchsorted(items.first, row, side="right")) - 1
        own, start = slice(int(items.first[item]), int(items.first[item] + items.rows[item])), int(origins[row, axis])
        # of the tile before
        stop = int(ends[own, axis][origins[own, axis] < start].max())
        middle = (origins[row] + ends[row]) // 2
        low = np.maximum(origins[row], middle - ALONG // 2).tolist()
        high = np.minimum(ends[row], middle + ALONG // 2).tolist()
        low[axis], high[axis] = max(0, start - AROUND), min(int(items.shape[item, axis]), stop + AROUND)
        spans = tuple((a / size, b / size) for a, b, size in zip(low, high, items.shape[item].tolist(), strict=True))
        grid = Grid(tuple(SCALE * (b - a) for a, b in zip(low, high, strict=True)), spans)
        joined = Joined.stored(base, functaset, own.start, own.stop - own.start)
        rendered = torch.cat([features for _, features in joined.bands([grid.axis(0), grid.axis(1)])]).numpy()
        steps = steps_across(rendered, axis, (start - low[axis], stop - low[axis]), SCALE)
        sums, counts = sums + steps[0], counts + steps[1]
    return sums, counts
