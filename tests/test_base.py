"""What a base keeps, and how many items it takes together, does not change what it gives."""

import pytest
import torch

from functaconv.base import Base
from functaconv.construction import build
from functaconv.decoding import POINTS_FOR_EACH
from functaconv.modalities import Axes
from functaconv.recipe import validated
from functaconv.signals.batch import Batch
from functaconv.signals.grid import Grid
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


WINDOWS = {"numbers": 3, "sites": [2, 3], "interpolation": "window"}


@pytest.mark.parametrize(
    "latent",
    [
        WINDOWS, WINDOWS | {"kernel": 3}, WINDOWS | {"map_width": 8},
        {"numbers": 5}, {"numbers": 5, "map_width": 8, "knots": [4, 6]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_clipped", [False, True])
def test_items_are_decoded_alike_one_by_one_together_and_point_by_point(latent: dict, is_clipped: bool) -> None:
    settings = {"network": {"kind": "fourier", "features": 20}, "latent": latent,
                "solver": {"kind": "gauss-newton", "chord": True}}  # fmt: skip
    base = build(validated(settings), Axes("image", 2, 3), Normalizer((0.0,) * 3, (1.0,) * 3)).requires_grad_(False)
    base.is_clipped = is_clipped
    drawn = torch.Generator().manual_seed(0)
    for name, parameter in base.field.named_parameters():
        if name.endswith("network.out"):
            parameter.normal_(generator=drawn)
    coords = Grid((9, 13)).coords()
    # so many that derivatives serve all of them, where they do not change
    latents = torch.randn(len(coords) // POINTS_FOR_EACH + 2, base.field.sites.count, base.latent, generator=drawn)
    together = base.decode(latents, coords)
    alone = torch.cat([base.decode(one[None], coords) for one in latents])
    by_point = torch.cat([base.decode(latents, point[None]) for point in coords], 1)
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-5)
    torch.testing.assert_close(by_point, together, rtol=0, atol=2e-5)
    assert together.std() > 0.05
