"""What a base keeps from batch to batch does not change what it gives."""

import torch

from functaconv.base import Base
from functaconv.construction import build
from functaconv.modalities import Axes
from functaconv.recipe import validated
from functaconv.signals.batch import Batch
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal

from .conftest import smooth


def base_of() -> Base:
    settings = {"network": {"width": 8, "depth": 2}, "latent": {"numbers": 4}, "solver": {"kind": "gauss-newton"}}
    return build(validated(settings), Axes("image", 2, 1), Normalizer((0.0,), (1.0,))).requires_grad_(False)


def batch_of(size: int) -> Batch:
    return Batch.of([Signal("a", smooth(0, (size, size), 1).astype("float32"), 1.0)], [0])


def test_a_fit_does_not_depend_on_what_was_fitted_before() -> None:
    base = base_of()
    for size in (8, 9, 8, 12, 9):
        fresh = base_of().encode(batch_of(size), steps=2).latents
        assert torch.equal(base.encode(batch_of(size), steps=2).latents, fresh)


def test_a_base_that_changes_is_linearized_anew() -> None:
    base, batch = base_of(), batch_of(8)
    before = base.encode(batch, steps=1).latents
    with torch.no_grad():
        base.field.network.weights[0].mul_(1.5)
    after = base.encode(batch, steps=1).latents
    other = base_of()
    other.load_state_dict(base.state_dict())
    assert not torch.equal(before, after)
    assert torch.equal(other.encode(batch, steps=1).latents, after)
