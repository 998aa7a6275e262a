"""Bases no wider than the minutes allow on a machine."""

from pathlib import Path

import pytest
import torch

from functaconv.data.expansion import expand_shards
from functaconv.recipe import Recipe
from functaconv.training.choice import choose
from functaconv.training.options import FitOptions
from functaconv.training.progress import Watcher
from functaconv.training.sizing import (
    LEAST_WIDTH,
    MULTIPLE,
    WANTED_UPDATES,
    affordable,
    narrowed,
    of_few_modulations,
    width_of,
    with_width,
)


@pytest.mark.parametrize(
    ("width", "updates", "wanted"),
    [(192, WANTED_UPDATES, 192), (192, WANTED_UPDATES / 4, 96), (192, 1, LEAST_WIDTH), (24, 1, 24)],
)
def test_half_the_width_makes_four_times_the_updates(width: int, updates: float, wanted: int) -> None:
    assert affordable(width, updates) == wanted


class Slow:
    """In place of a learner, and of the clock: each update takes so many seconds."""

    def __init__(self, each: float) -> None:
        self.each, self.updates = each, 0

    def update(self, batches: object, spent: float) -> None:
        self.updates += 1

    def clock(self) -> float:
        return self.each * self.updates


def recipe(**settings: object) -> Recipe:
    return Recipe().changed({"network": {"width": 256}, "training": {"minutes": 5}, **settings})


@pytest.mark.parametrize(("each", "wanted"), [(0.01, 256), (0.5, 192), (100.0, 32)])
def test_a_slow_machine_gets_a_narrow_network(each: float, wanted: int) -> None:
    learner, told = Slow(each), list[str]()
    found = narrowed(recipe(), learner, [], told.append, clock=learner.clock)  # type: ignore[arg-type]
    assert width_of(found) == wanted
    assert len(told) == (wanted < 256)


def test_no_network_is_too_narrow_for_its_latent() -> None:
    learner = Slow(100.0)
    found = narrowed(recipe(latent={"numbers": 400}), learner, [], print, clock=learner.clock)  # type: ignore[arg-type]
    assert found.network.tells_apart(400)
    assert not with_width(found, (width_of(found) or 0) - MULTIPLE).network.tells_apart(400)


def test_what_no_width_helps_is_narrowed_all_the_same() -> None:
    learner = Slow(100.0)
    few = recipe(network={"width": 256, "modulation": "lowrank"}, latent={"numbers": 400})
    assert of_few_modulations(few)
    assert width_of(narrowed(few, learner, [], print, clock=learner.clock)) == LEAST_WIDTH  # type: ignore[arg-type]
    assert not of_few_modulations(recipe())


def test_without_minutes_nothing_is_tried() -> None:
    learner, asked = Slow(1.0), recipe(training={"minutes": None, "steps": 10})
    assert narrowed(asked, learner, [], print, clock=learner.clock) is asked  # type: ignore[arg-type]
    assert learner.updates == 0


def test_the_width_of_a_correction_is_that_of_its_layers() -> None:
    settings = {
        "latent": {"map_width": 128, "sites": [2, 2], "interpolation": "window"},
        "network": {"kind": "fourier"}, "solver": {"kind": "gauss-newton", "chord": True},
    }  # fmt: skip
    asked = Recipe().changed(settings)
    assert width_of(with_width(asked, 64)) == 64
    assert with_width(asked, 64).latent.map_width == 64


def test_a_width_that_was_asked_for_stays(images: Path) -> None:
    for network, may_be_narrower in (({"width": 80}, False), ({"width": 80, "kind": "siren"}, False), ({}, True)):
        options = FitOptions(settings={"latent": {"numbers": 4}, "network": network})
        assert (
            choose(expand_shards(str(images)), torch.device("cpu"), options, Watcher()).may_be_narrower
            == may_be_narrower
        )
