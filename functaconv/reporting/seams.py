"""Whether the cells of spatial latents show in enlarged renders."""

import numpy as np
import torch

from functaconv.base import Base
from functaconv.functaset.reader import Functaset
from functaconv.metrics import seam_ratio, seams
from functaconv.signals.grid import Grid

SCALE = 4
# items that are rendered, spread over the functaset
MOST_ITEMS = 32
# values of all renders together
MOST_VALUES = 1 << 26


def measured_seams(functaset: Functaset, base: Base) -> float | None:
    """`seam_ratio` of renders at four times the size; None where there are no cells, or they are no whole pixels."""
    layout = functaset.layout
    if len(layout.sites) != 2 or layout.kind.has_coordinates or not len(functaset):
        return None
    sums, counts, values = np.zeros(4), np.zeros(4), 0
    for row in np.unique(np.linspace(0, len(functaset) - 1, MOST_ITEMS).astype(int)):
        shape = tuple(SCALE * int(size) for size in functaset.shapes[row])
        values += base.axes.channels * shape[0] * shape[1]
        if values > MOST_VALUES and counts.any():
            break
        latents = torch.from_numpy(functaset.latents(np.array([row]))).reshape(1, -1, base.latent)
        rendered = base.decode(latents.to(base.start), base.points(Grid(shape)))
        steps = seams(rendered.reshape(1, *shape, -1).cpu().numpy(), (layout.sites[0], layout.sites[1]), SCALE)
        sums, counts = sums + steps[0], counts + steps[1]
    return seam_ratio(sums, counts)
