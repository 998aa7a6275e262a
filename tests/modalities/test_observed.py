"""A modality whose items are averages over a footprint, and not values at points, from shards to functaset."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from functaconv.checkpoint import read_base
from functaconv.conversion import encode
from functaconv.functaset.opening import open_functaset
from functaconv.modalities import MODALITIES, Axes
from functaconv.modalities.array import Array
from functaconv.networks import Average, Inputs, Observed, Siren, SirenOptions
from functaconv.signals.grid import Grid
from functaconv.training import fit_base
from tests.conftest import npy, tar

POINTS = 24
OFFSETS = (torch.arange(5)[:, None] - 2) / 5 / POINTS * 8
"""a footprint of eight points, in units of the whole"""


class Footprints(Array):
    """Arrays whose json has a footprint."""

    name = "footprints"
    plural = "footprints"
    operator: ClassVar[Average] = Average(OFFSETS)

    def axes(self, items, channel_axis, asked):  # type: ignore[no-untyped-def]
        if not all("footprint" in item.attributes for item in items):
            return None
        return Axes(self.name, 1, 1, "none", items[0].array.dtype.itemsize)


def item(number: int) -> np.ndarray:
    return np.sin(4 * (np.arange(POINTS) + 0.5) / POINTS + number).astype(np.float32)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    members = {}
    for number in range(24):
        members[f"{number:02d}.npy"] = npy(item(number))
        members[f"{number:02d}.json"] = json.dumps({"footprint": 8}).encode()
    return str(tar(tmp_path / "footprints.tar", members))


def test_features_are_what_the_operator_makes_of_values(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODALITIES, "footprints", Footprints())
    settings = {
        "network": {"kind": "siren", "width": 16, "depth": 3, "w0_first": 8.0, "w0_hidden": 8.0},
        "latent": {"numbers": 4}, "solver": {"kind": "gauss-newton", "steps": 2},
        "training": {"steps": 60, "batch_size": 8, "rate": 1e-2, "matrix_rate": 2e-2},
    }  # fmt: skip
    fit_base(shards, tmp_path / "base.safetensors", settings=settings, device="cpu")
    encode(tmp_path / "base.safetensors", shards, tmp_path / "out.zarr", device="cpu")
    functaset = open_functaset(tmp_path / "out.zarr")
    base = read_base(tmp_path / "base.safetensors").base
    observed = base.field.network
    assert isinstance(observed, Observed)
    latents = torch.from_numpy(functaset.latents()).reshape(len(functaset), 1, -1)
    coords = Grid((POINTS,)).coords()
    averages = base.decode(latents, coords)
    # what was fitted is what the operator makes of it
    originals = torch.stack([torch.from_numpy(item(number)) for number in range(len(functaset))])[..., None]
    scale = torch.tensor(base.normalizer.scale)
    error = (base.normalizer.values(averages) - originals).square().mean((1, 2)) / scale**2
    torch.testing.assert_close(error, torch.from_numpy(functaset.mse), rtol=1e-2, atol=1e-4)
    assert functaset.psnr.mean() > 30
    # the function itself, where the operator looks at it
    base.field.network = observed.network
    values = base.decode(latents, (coords[:, None] + OFFSETS).reshape(-1, 1))
    torch.testing.assert_close(averages, values.reshape(len(functaset), POINTS, 5, 1).mean(2))
    assert not torch.allclose(averages, base.decode(latents, coords), atol=1e-4)


def test_derivatives_go_through_the_operator() -> None:
    generator = torch.Generator().manual_seed(0)
    siren = Siren(Inputs(1, 1, 1), SirenOptions(width=6, depth=3), generator=generator)
    network = Observed(siren, Average(OFFSETS)).double()
    coords = torch.rand(2, 7, 1, dtype=torch.float64, generator=generator)
    given = torch.randn(3, 2, 1, network.modulations, dtype=torch.float64, generator=generator, requires_grad=True)

    def features(modulations: torch.Tensor) -> torch.Tensor:
        return network(coords, torch.split(modulations, list(network.parts), -1))

    assert features(given).shape == (3, 2, 7, 1)
    torch.testing.assert_close(features(given.expand(-1, -1, 7, -1)), features(given))
    assert torch.autograd.gradcheck(features, given)
