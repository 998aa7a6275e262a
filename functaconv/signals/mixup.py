"""Items that were not in the data, but might have been."""

from dataclasses import replace

import torch

from functaconv.signals.batch import Batch
from functaconv.signals.normalizer import Normalizer
from functaconv.transfer import sent


def mixed(batch: Batch, normalizer: Normalizer, amount: float, generator: torch.Generator) -> Batch:
    """Every item plus `amount` times a normal number times the difference of two others, in normalised units.

    Differences of items span what a linear model (PCA) learns from, so a base that reads them learns to take more
    than the items it was shown: few of those, or many that are alike, it would learn by heart. It is the directed
    noise of mixup (Zhang et al. 2018), around the items instead of between them. Where any of the three misses a value
    the item stays as it is.
    """
    features = normalizer.features(batch)
    order = torch.randperm(len(batch), generator=generator)
    weights = amount * torch.randn(len(batch), 1, 1, generator=generator)
    one, other = sent(order, features.device), sent(order.roll(1), features.device)
    step = sent(weights, features.device) * (features[one] - features[other])
    if batch.valid is not None and len(batch.valid) > 1:
        step = step * (batch.valid[one] & batch.valid[other])
    return replace(batch, values=normalizer.raw(batch, features + step))
