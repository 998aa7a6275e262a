"""Items that miss values of their own: these are filled in, first with the mean of the other items, then with what the
last fit says, round by round. So all items share their matrices, however many different masks there are.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.base import Base
from functaconv.signals.batch import Batch, digest_of
from functaconv.signals.normalizer import Normalizer


def known_in_some(batches: Sequence[Batch]) -> Tensor:
    """The points at which at least one item has values, `[point]` bool."""
    known = torch.zeros(batches[0].grid.points, dtype=torch.bool)
    for batch in batches:
        known |= torch.ones_like(known) if batch.valid is None else batch.valid.all(-1).any(0)
    return known


def filled_with_mean(batches: Sequence[Batch], normalizer: Normalizer, device: torch.device) -> tuple[Batch, ...]:
    """The batches, all on one grid, with the mean of the values that others have in place of those that are missing.

    Points that no item knows are missing in all.
    """
    total, count = torch.zeros(2, *batches[0].values.shape[1:], device=device)
    for batch in batches:
        features = normalizer.features(batch.to(device)).float()
        valid = torch.ones_like(features) if batch.valid is None else batch.valid.to(features)
        total, count = total + (features * valid).sum(0), count + valid.expand_as(features).sum(0)
    overall = total.sum(0) / count.sum(0).clamp(min=1)
    fill = torch.where(count > 0, total / count.clamp(min=1), overall)
    known, shared, key = known_in_some(batches), None, None
    if not known.all():
        shared = known[None, :, None].expand(1, -1, batches[0].values.shape[2])
        key = digest_of(known.numpy())
    return tuple(
        replace(refilled(batch, batch.valid, fill.expand(len(batch), -1, -1), normalizer), valid=shared, mask_key=key)
        for batch in batches
    )


def refilled(
    batch: Batch, known: Tensor | None, features: Float[Tensor, "item point channel"], normalizer: Normalizer
) -> Batch:
    """A batch with values that have these features where `known` does not hold."""
    if known is None:
        return batch
    values = normalizer.raw(batch, features.to(batch.values.device))
    return replace(batch, values=torch.where(known, batch.values, values))


def fitted_again(base: Base, batch: Batch, known: Tensor | None) -> Batch:
    """A batch with what its latents say where `known` does not hold."""
    if known is None:
        return batch
    decoded = base.decode(base.encode(batch, steps=1).latents, base.points(batch.grid))
    return refilled(batch, known, decoded, base.normalizer)
