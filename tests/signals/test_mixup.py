"""Mixed items lie around the items, within what their differences span."""

from typing import Literal

import numpy as np
import pytest
import torch

from functaconv.data.items import Item
from functaconv.modalities import Axes
from functaconv.signals.batch import Batch
from functaconv.signals.mixup import mixed
from functaconv.signals.normalizer import Normalizer

COUNT, SIDE = 12, 5


def batch_of(values: np.ndarray, kind: Literal["image", "array"] = "array") -> tuple[Batch, Normalizer]:
    peak = 255.0 if kind == "image" else None
    items = [Item(str(number), value, kind, peak) for number, value in enumerate(values)]
    axes = Axes.of(items, "last")
    signals = [axes.signal(item) for item in items]
    normalizer = Normalizer.of_code_range(axes.channels) if axes.kind == "image" else Normalizer.of_range(iter(signals))
    return Batch.of(signals, range(len(signals))), normalizer


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def flat() -> np.ndarray:
    """Items that are combinations of two patterns."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(COUNT, 2)) @ rng.normal(size=(2, SIDE * SIDE)) + 280).reshape(COUNT, SIDE, SIDE, 1)


def test_they_stay_within_what_the_differences_span(flat: np.ndarray) -> None:
    batch, normalizer = batch_of(flat.astype(np.float32))
    found = mixed(batch, normalizer, 1.0, generator()).values.reshape(COUNT, -1).double().numpy()
    given = batch.values.reshape(COUNT, -1).double().numpy()
    centred = given - given.mean(0)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:2]
    moved = found - given
    assert np.abs(moved).max() > 0.1
    assert np.abs(moved - moved @ basis.T @ basis).max() < 1e-3


def test_their_spread_is_what_was_asked_for(flat: np.ndarray) -> None:
    batch, normalizer = batch_of(np.repeat(flat, 40, axis=0).astype(np.float32))
    spread = batch.values.std(0).square().mean()
    moved = (mixed(batch, normalizer, 0.5, generator()).values - batch.values).square().mean()
    # the difference of two has twice the variance of one
    assert float(moved) == pytest.approx(2 * 0.5**2 * float(spread), rel=0.2)


def test_nothing_asked_for_changes_nothing_but_rounding(flat: np.ndarray) -> None:
    batch, normalizer = batch_of(flat.astype(np.float32))
    torch.testing.assert_close(mixed(batch, normalizer, 0.0, generator()).values, batch.values)


def test_images_keep_their_units() -> None:
    values = np.random.default_rng(0).integers(0, 255, (COUNT, SIDE, SIDE, 3)).astype(np.uint8)
    batch, normalizer = batch_of(values, "image")
    same = mixed(batch, normalizer, 0.0, generator())
    torch.testing.assert_close(same.values, batch.values.float())
    torch.testing.assert_close(normalizer.features(same), normalizer.features(batch))


def test_a_value_that_any_of_three_misses_is_left_alone(flat: np.ndarray) -> None:
    values = flat.astype(np.float32)
    holes = np.random.default_rng(1).random(values.shape) < 0.2
    values[holes] = np.nan
    batch, normalizer = batch_of(values)
    found = normalizer.features(mixed(batch, normalizer, 1.0, generator()))
    before = normalizer.features(batch)
    assert found.isfinite().all()
    order = torch.randperm(COUNT, generator=generator())
    assert batch.valid is not None
    known = batch.valid[order] & batch.valid[order.roll(1)]
    left = batch.valid & ~known
    assert left.any()
    torch.testing.assert_close(found[left], before[left])
    assert (found[batch.valid & known] != before[batch.valid & known]).float().mean() > 0.9
