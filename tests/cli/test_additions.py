"""A network and a solver that the package does not know go through all commands, once each stands in its table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from functaconv.networks import NETWORKS
from functaconv.solvers import SOLVERS
from tests.cli.conftest import SIDE, Invoke, World
from tests.networks.toy import Toy as ToyNetwork
from tests.solvers.toy import Toy as ToySolver


def test_what_is_added_to_a_table_is_learned_encoded_and_rendered(
    world: World, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "toy", ToyNetwork)
    monkeypatch.setitem(SOLVERS, "toy", ToySolver)
    base, store, rendered = tmp_path / "base.safetensors", tmp_path / "store.zarr", tmp_path / "rendered"
    kinds = ("--set", "network.kind=toy", "--set", "solver.kind=toy", "--set", "training.rate=1e-2", "--latent", "8")
    learned = invoke("fit-base", world.shards, base, "--steps", 15, "--device", "cpu", "--json", *kinds).json
    assert (learned["network"], learned["solver"]) == ("toy", "toy")
    report = invoke("encode", base, world.shards, store, "--device", "cpu", "--json").json
    assert (report["count"], report["failed"]) == (40, 0)
    assert report["psnr"]["mean"] > 10
    assert invoke("inspect", store, "--verify").code == 0
    assert invoke("render", store, rendered, "--size", f"{2 * SIDE}x{2 * SIDE}", "--item", "0:3").code == 0
    images = [np.asarray(Image.open(path)) for path in sorted(rendered.iterdir())]
    assert [image.shape for image in images] == [(2 * SIDE, 2 * SIDE, 3)] * 3
    assert all(image.std() > 0 for image in images)
    known = [setting for setting in invoke("recipes", "--settings").output.splitlines() if "toy" in setting]
    assert len(known) == 4, "two headings and two kinds in the page of settings"


def test_a_setting_of_another_kind_is_refused(
    world: World, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "toy", ToyNetwork)
    asked = ("--set", "network.kind=toy", "--set", "network.depth=3")
    ran = invoke("fit-base", world.shards, tmp_path / "base.safetensors", "--device", "cpu", *asked)
    assert (ran.code, ran.output) == (2, "")
    assert "network.depth: Unexpected keyword argument" in ran.errors
