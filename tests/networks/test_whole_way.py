"""Every network and every modulation is learned, stopped, learned on, encodes, reports and renders."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.conversion import encode
from functaconv.errors import StoppedError
from functaconv.functaset.opening import open_functaset
from functaconv.inspection import inspect
from functaconv.networks import MODULATIONS, NETWORKS
from functaconv.rendering import View, render
from functaconv.reporting import report
from functaconv.training import fit_base
from tests.conftest import npy, png, smooth, tar
from tests.training.test_runs import stop_at

KINDS: dict[str, dict[str, Any]] = {
    "siren": {"width": 6, "depth": 3, "w0_first": 8.0, "w0_hidden": 8.0},
    "fourier": {"width": 6, "layers": 2, "features": 8, "learned": True, "modulation": "film"},
    "polynomial": {"width": 6, "depth": 3},
    "multiscale": {"width": 6, "depth": 3, "features": 4, "sites": 2, "fine_width": 4},
}
DATA = ("images", "voxels", "grids")
OTHERS = [name for name in MODULATIONS if name != "shift"]
# every network on every kind of data, every modulation on images
CASES = [
    *[(data, kind, KINDS[kind].get("modulation", ""), ("gauss-newton", "gradient")[(row + column) % 2])
      for row, data in enumerate(DATA) for column, kind in enumerate(KINDS)],
    *[("images", "siren", name, ("gauss-newton", "gradient")[place % 2]) for place, name in enumerate(OTHERS)],
    ("images", "polynomial", "levels", "gauss-newton"),
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, members = tmp_path_factory.mktemp("in"), dict[str, dict[str, bytes]]()
    members["images"] = {f"{number}.png": png(number, (6, 5)) for number in range(8)}
    members["voxels"] = {
        f"{number}.npy": npy((smooth(number, (4, 5, 3), 1)[..., 0] > 0.5).astype(np.uint8)) for number in range(8)
    }
    said = {"latitude": [*range(6)], "longitude": [*range(5)], "variable": "t", "units": "K"}
    members["grids"] = {}
    for number in range(8):
        members["grids"][f"{number}.npy"] = npy(smooth(number, (6, 5), 1)[..., 0].astype(np.float32))
        members["grids"][f"{number}.json"] = json.dumps(said).encode()
    return {name: tar(folder / f"{name}.tar", files) for name, files in members.items()}


def test_every_network_and_modulation_has_a_case() -> None:
    assert {kind for _, kind, _, _ in CASES} == set(NETWORKS)
    assert {name for _, _, name, _ in CASES} >= set(OTHERS)


@pytest.mark.parametrize(("data", "kind", "modulation", "solver"), CASES)
def test_it_goes_the_whole_way(
    shards: dict[str, Path], tmp_path: Path, data: str, kind: str, modulation: str, solver: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    base, store, source = tmp_path / "base.safetensors", tmp_path / "out.zarr", str(shards[data])
    network = {"kind": kind, **KINDS[kind]} | ({"modulation": modulation} if modulation else {})
    settings = {
        "network": network, "latent": {"numbers": 3}, "solver": {"kind": solver, "steps": 2},
        "training": {"steps": 4, "batch_size": 4, "optimizer": "muon", "rate": 1e-3},
    }  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError):
            fit_base(source, base, settings=settings, device="cpu")
    assert fit_base(source, base, settings=settings, device="cpu").updates == 4
    named = inspect(base).facts["network"]
    assert (named["kind"], named["modulation"]) == (kind, modulation or named["modulation"])
    encode(base, source, store, device="cpu")
    functaset = open_functaset(store)
    assert len(functaset) == 8
    assert np.isfinite(functaset.psnr).all()
    # the latents say something about the items
    assert functaset.latents().std(0).max() > 0
    assert report(store, against=source, device="cpu").summary["count"] == 8
    render(store, tmp_path / "rendered", items=["0:2"], view=View(scale=2.0), device="cpu")
    assert len(list((tmp_path / "rendered").iterdir())) == 2
