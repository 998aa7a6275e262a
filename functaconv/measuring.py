"""Measuring fitted items: the mean squared error, and the measures of their modality."""

import math
from dataclasses import replace

import numpy as np
import torch

from functaconv.areas import Areas
from functaconv.base import Base
from functaconv.joining import Joined
from functaconv.modalities.compared import Compared
from functaconv.shapes import Features, Latents
from functaconv.signals.batch import Batch
from functaconv.signals.grid import AnyGrid, Grid
from functaconv.signals.signal import Signal
from functaconv.solvers import Fit, Problem
from functaconv.solvers.gauss_newton import GaussNewton

Measures = dict[str, np.ndarray]
"""float32 by name: `mse` `[item]`, and those of the modality, `[item]` or `[item, variable]`"""


@torch.no_grad()
def measure(base: Base, batch: Batch, latents: Latents, fit: Fit | None = None) -> Measures:
    """The measures of a batch decoded from latents. Where there is a `fit`, its error may serve."""
    if fit is not None and not base.axes.modality.measures and not base.is_clipped:
        return {"mse": fit.problem.error(latents).cpu().numpy()}
    batch = batch.to(base.device)
    decoded = samples(base, latents, batch.grid) if fit is None else _decoded(base, fit.problem, latents, batch.grid)
    return compare(base, batch, base.normalizer.features(batch), decoded)


def sample(base: Base, footprint: str) -> None:
    """Have the base take items as values at points (`point`), or as means over cells (`area`).

    Such items say less than those of the training: what they leave open is as the latents of training items are.
    """
    if footprint != "area":
        base.areas = None
        return
    base.areas = Areas(base.geometry, base.trained)
    if isinstance(base.solver, GaussNewton) and base.trained.shape and base.trained.mse:
        # the mean over a cell has as much less of what the base cannot say as it is of more values
        noise = base.trained.mse / (math.prod(base.trained.shape) * base.axes.channels)
        base.solver.expect(base.latent_std, noise)


@torch.no_grad()
def samples(base: Base, latents: Latents, grid: AnyGrid) -> Features:
    """Normalised features of items on a grid as they were sampled: at its points, or as means over its cells."""
    if base.areas is None:
        return base.decode(latents, base.points(grid))
    field, placement = base.areas.of(base.field, grid, base.points(grid), base.placement(grid))
    values = latents.new_empty(len(latents), grid.points, base.axes.channels)
    return base.clipped(placement.scatter(field(latents, placement), values))


def _decoded(base: Base, problem: Problem, latents: Latents, grid: AnyGrid) -> Features:
    """Normalised features on the grid of a problem, which knows the derivatives of a linear network there."""
    features = latents.new_empty(len(latents), grid.points, base.axes.channels)
    for piece, part in zip(problem.pieces, problem.features(latents), strict=True):
        piece.placement.scatter(part, features)
    return base.clipped(features)


def compare(base: Base, batch: Batch, features: Features, decoded: Features) -> Measures:
    """The measures of decoded features beside those of a batch, both on the base's device."""
    _, unit = base.normalizer.constants((), features.device)
    _, level_unit = base.normalizer.constants(batch.levels, features.device)
    # a level's own range is the unit of what the network models, that of all of the error
    compared = Compared(batch, features, decoded, (decoded - features) * (level_unit / unit), unit)
    measures = {"mse": compared.mean(compared.difference.square(), (1, 2)), **base.axes.modality.compare(compared)}
    return {name: values.float().cpu().numpy() for name, values in measures.items()}


@torch.no_grad()
def measure_joined(joined: Joined, item: Signal) -> float:
    """The mean squared error of an item in tiles, joined as it is rendered; NaN where nothing is valid.

    Some rows of the item are decoded at a time.
    """
    total = count = 0.0
    places = [Grid(item.shape).axis(axis) for axis in range(len(item.shape))]
    for rows, decoded in joined.bands(places):
        valid = None if item.valid is None else item.valid[rows]
        known = decoded.numel() if valid is None else int(valid.sum())
        if not known:
            continue
        base, features = joined.base, decoded.reshape(1, -1, decoded.shape[-1]).to(joined.base.device)
        batch = Batch.of([replace(item, values=item.values[rows], valid=valid)], [0]).to(base.device)
        measures = compare(base, batch, base.normalizer.features(batch), features)
        total, count = total + float(measures["mse"][0]) * known, count + known
    return total / count if count else math.nan
