"""What is asked for in several places: the command line wins over the recipe file, and that over the preset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from functaconv.errors import UsageError
from functaconv.training import FitOptions
from functaconv.training.options import layered


def test_a_named_preset_wins_over_that_of_the_recipe_file(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('preset = "spatial-cifar10"\n[training]\nrate = 0.5\n')
    assert FitOptions(recipe=recipe).asked() == ("spatial-cifar10", {"training": {"rate": 0.5}})
    assert FitOptions(recipe=recipe, preset="images").asked() == ("images", {"training": {"rate": 0.5}})


@pytest.mark.parametrize(
    ("written", "asked", "budget"),
    [
        ({"minutes": 3.0}, {"steps": 10}, {"steps": 10}),
        ({"steps": 10}, {"minutes": 3.0}, {"minutes": 3.0}),
        ({"minutes": 3.0}, {"steps": 10, "minutes": 1.0}, {"steps": 10, "minutes": 1.0}),
        ({"minutes": 3.0, "steps": 7}, {}, {"minutes": 3.0, "steps": 7}),
        ({"minutes": 3.0, "steps": 7}, {"minutes": 0.0}, {"minutes": 0.0}),
    ],
)
def test_a_budget_takes_the_place_of_one_of_the_other_kind(
    tmp_path: Path, written: Mapping[str, Any], asked: Mapping[str, Any], budget: Mapping[str, Any]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[training]\n" + "".join(f"{name} = {value}\n" for name, value in written.items()))
    assert FitOptions(recipe=recipe, **asked).asked() == (None, {"training": budget})
    assert FitOptions(recipe=recipe, settings={"training": asked}).asked() == (None, {"training": budget})
    assert layered({"training": {"rate": 1.0, **written}}, {"training": asked})["training"] == {"rate": 1.0, **budget}


def test_options_win_over_settings_and_those_over_the_file(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[training]\nrate = 0.5\nseed = 1\nbatch_size = 2\n[latent]\nnumbers = 3\n")
    options = FitOptions(
        recipe=recipe, settings={"training": {"rate": 0.25, "seed": 2}}, seed=3, latent="2x2x8", channels=1,
        solver="gradient",
    )  # fmt: skip
    assert options.asked() == (
        None,
        {
            "training": {"rate": 0.25, "seed": 3, "batch_size": 2},
            "latent": {"numbers": 8, "sites": [2, 2]},
            "data": {"channels": 1},
            "solver": {"kind": "gradient"},
        },
    )


def test_threads_cannot_be_fewer_than_none() -> None:
    with pytest.raises(UsageError, match="--workers must be 0 or more, not -1"):
        FitOptions(workers=-1)
