"""From latents to features at points, whichever way is least work."""

import torch
from torch import Tensor

from functaconv.networks import ModulatedNetwork, Placement
from functaconv.shapes import CellFeatures, Features, Latents
from functaconv.signals.geometry import Points
from functaconv.solvers import along

# points that are taken together
DECODED_TOGETHER = 1 << 20
# points of an item for each of all items: with fewer, derivatives that serve all of them are less work than to decode
# each axis by axis
POINTS_FOR_EACH = 64


def decoded(
    field: ModulatedNetwork, latents: Latents, points: Points, *, chunk: int, channels: int, like: Tensor
) -> Features:
    """Features at any points, on the device and of the type of `like`: axis by axis where they form a grid behind
    windows, else in cells, `chunk` points of each item at a time. Differentiable by the latents.
    """
    features = latents.new_empty(len(latents), len(points), channels)
    for start in range(0, len(points), DECODED_TOGETHER):
        part, out = points[start : start + DECODED_TOGETHER].to(like), features[:, start : start + DECODED_TOGETHER]
        on_grid = _on_grid(field, latents, part)
        if on_grid is not None:
            out.copy_(on_grid)
            continue
        for placement in field.sites.place(part.coords, part.positions).split(chunk):
            placement.scatter(_in_cells(field, latents, placement), out)
    return features


def _on_grid(field: ModulatedNetwork, latents: Latents, points: Points) -> Features | None:
    """None where the points are no grid, or another way is less work."""
    are_many = field.keeps_derivatives and POINTS_FOR_EACH * len(latents) > len(points)
    return None if points.positions is not None or are_many else field.on_grid(latents, points.coords)


def _in_cells(field: ModulatedNetwork, latents: Latents, placement: Placement) -> CellFeatures:
    """Features of every point of every cell."""
    if not field.keeps_derivatives or field.sites.count == 1:
        features: CellFeatures = field(latents, placement)
        return features
    # one set of derivatives serves all items
    at_zero, rows = field.jacobian(torch.zeros_like(latents[:1]), placement)
    return field.refined(at_zero + along(rows, latents, field.reads(placement)), latents, placement)
