"""What is measured of items once they are fitted: mean squared error, and what the items of a kind are judged by."""

import numpy as np
import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.functaset.schema import MEASURES
from functaconv.shapes import Features, Latents
from functaconv.signals.batch import Batch
from functaconv.signals.grid import GlobeGrid, area_weights
from functaconv.solvers import Fit

OCCUPIED = 0.5
Measures = dict[str, np.ndarray]
"""float32 by name: `mse` `[item]`, and those of `MEASURES`, `[item]` or `[item, variable]`"""


@torch.no_grad()
def measure(base: Base, batch: Batch, latents: Latents, fit: Fit | None = None) -> Measures:
    """How well latents give a batch. `fit`, where there is one, knows the items already."""
    if fit is not None and base.axes.kind not in MEASURES:
        return {"mse": fit.problem.error(latents).cpu().numpy()}
    batch = batch.to(base.device)
    return compare(base, batch, base.normalizer.features(batch), base.decode(latents, base.points(batch.grid)))


def compare(base: Base, batch: Batch, features: Features, decoded: Features) -> Measures:
    """The measures of decoded features beside those of a batch, both on the base's device."""
    _, unit = base.normalizer.constants((), features.device)
    _, own = base.normalizer.constants(batch.levels, features.device)
    # a level's own range is the unit of what the network models, that of all of the error
    difference = (decoded - features) * (own / unit)
    found = {"mse": _mean(difference.square(), batch.valid, (1, 2))}
    if base.axes.kind == "voxels":
        is_full, was_full = decoded > OCCUPIED, features > OCCUPIED
        both, either = (is_full & was_full).sum((1, 2)), (is_full | was_full).sum((1, 2))
        found["accuracy"] = (is_full == was_full).float().mean((1, 2))
        # of two empty volumes: nothing is wrong
        found["iou"] = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    if base.axes.kind == "grid":
        # the unit comes last: the square of a small one would be 0
        found["rmse"] = _mean(difference.square(), batch.valid, (1,)).sqrt() * unit
        largest = _known(difference.abs(), batch.valid).amax(1) * unit
        found["max_error"] = torch.where(found["rmse"].isnan(), torch.nan, largest)
        assert isinstance(batch.grid, GlobeGrid)
        area = area_weights(batch.grid).to(features)[None, :, None]
        found["weighted_rmse"] = _mean(difference.square(), batch.valid, (1,), area).sqrt() * unit
    return {name: values.float().cpu().numpy() for name, values in found.items()}


def _known(values: Tensor, valid: Tensor | None) -> Tensor:
    return values if valid is None else values.masked_fill(~valid.to(values.device), 0.0)


def _mean(values: Tensor, valid: Tensor | None, axes: tuple[int, ...], weights: Tensor | None = None) -> Tensor:
    """Over what is there, weighted; NaN where nothing is."""
    share = torch.ones_like(values) if weights is None else weights.expand_as(values)
    if valid is not None:
        share = share * valid.to(values.device)
    return (values * share).sum(axes) / share.sum(axes)
