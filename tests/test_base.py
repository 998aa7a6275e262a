"""What a base keeps from batch to batch: bounded in bytes, whatever the shapes of the items."""

import pytest
import torch

from functaconv import base as base_module
from functaconv.construction import build
from functaconv.modalities import Axes
from functaconv.recipe import validated
from functaconv.signals.batch import Batch
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal

from .conftest import smooth


def test_what_is_kept_of_grids_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = validated(
        {"network": {"width": 8, "depth": 2}, "latent": {"numbers": 4}, "solver": {"kind": "gauss-newton"}}
    )
    base = build(recipe, Axes("image", 2, 1), Normalizer((0.0,), (1.0,)))
    monkeypatch.setattr(base_module, "MOST_KEPT_POINTS", 500)
    monkeypatch.setattr(base_module, "MOST_LINEARIZATIONS", 4 * 4 * 500)
    for size in range(8, 20):
        base.placement(Grid((size, size)))
        assert sum(len(placed.points) for placed in base._grids.values()) <= 500
        assert Grid((size, size)) in {key[0] for key in base._grids}
        signal = Signal("a", smooth(0, (size, size), 1).astype("float32"), 1.0)
        with torch.no_grad():
            base.encode(Batch.of([signal], [0]), steps=1)
        assert 0 < sum(linearization.bytes for linearization in base._linearizations.values()) <= 4 * 4 * 510
