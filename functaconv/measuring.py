"""What is measured of fitted items: the mean squared error, and the measures of their modality."""

import numpy as np
import torch

from functaconv.base import Base
from functaconv.modalities.compared import Compared
from functaconv.shapes import Features, Latents
from functaconv.signals.batch import Batch
from functaconv.solvers import Fit

Measures = dict[str, np.ndarray]
"""float32 by name: `mse` `[item]`, and those of the modality, `[item]` or `[item, variable]`"""


@torch.no_grad()
def measure(base: Base, batch: Batch, latents: Latents, fit: Fit | None = None) -> Measures:
    """How well latents give a batch. `fit`, where there is one, knows the items already."""
    if fit is not None and not base.axes.modality.measures:
        return {"mse": fit.problem.error(latents).cpu().numpy()}
    batch = batch.to(base.device)
    return compare(base, batch, base.normalizer.features(batch), base.decode(latents, base.points(batch.grid)))


def compare(base: Base, batch: Batch, features: Features, decoded: Features) -> Measures:
    """The measures of decoded features beside those of a batch, both on the base's device."""
    _, unit = base.normalizer.constants((), features.device)
    _, own = base.normalizer.constants(batch.levels, features.device)
    # a level's own range is the unit of what the network models, that of all of the error
    compared = Compared(batch, features, decoded, (decoded - features) * (own / unit), unit)
    measures = {"mse": compared.mean(compared.difference.square(), (1, 2)), **base.axes.modality.compare(compared)}
    return {name: values.float().cpu().numpy() for name, values in measures.items()}
