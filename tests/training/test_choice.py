"""What suits a network that is asked for on top of a sized preset."""

from pathlib import Path
from typing import Any

import pytest
import torch

from functaconv.recipe import Recipe
from functaconv.training import FitOptions, Watcher
from functaconv.training.choice import MANY_ITEMS, choose
from tests.conftest import png, tar


def chosen(images: Path, network: dict[str, Any], **others: Any) -> Recipe:
    options = FitOptions(settings={"network": network, **others})
    return choose([str(path) for path in sorted(images.glob("*.tar"))], torch.device("cpu"), options, Watcher()).recipe


def test_networks_learn_at_rates_of_their_own_unless_told_otherwise(images: Path) -> None:
    siren, polynomial = chosen(images, {"kind": "siren"}), chosen(images, {"kind": "polynomial"})
    assert polynomial.training.rate == polynomial.network.haste * siren.training.rate > siren.training.rate
    assert polynomial.training.matrix_rate == polynomial.network.haste * siren.training.matrix_rate
    assert chosen(images, {"kind": "polynomial"}, training={"rate": 0.5}).training.rate == 0.5


@pytest.mark.parametrize("network", [{"modulation": "fmm"}, {"kind": "multiscale"}])
def test_where_jacobians_cost_much_gauss_newton_takes_chords_unless_told_otherwise(
    images: Path, network: dict[str, Any]
) -> None:
    assert chosen(images, network).settings()["solver"]["chord"] is True
    assert chosen(images, {"modulation": "film"}).settings()["solver"]["chord"] is False
    assert chosen(images, network, solver={"chord": False}).settings()["solver"]["chord"] is False
    assert chosen(images, network, solver={"kind": "gradient"}).solver.kind == "gradient"


def test_of_thousands_of_small_photographs_the_latent_is_global(tmp_path: Path) -> None:
    photograph = png(0, (32, 32))
    shards = [
        str(tar(tmp_path / f"{number}.tar", {f"{number}-{key}.png": photograph for key in range(MANY_ITEMS // 2)}))
        for number in range(2)
    ]
    for names, latent in ((shards, ((), 256)), (shards[:1], ((4, 4), 16))):
        recipe = choose(names, torch.device("cpu"), FitOptions(), Watcher()).recipe
        assert (recipe.latent.sites, recipe.latent.numbers) == latent
