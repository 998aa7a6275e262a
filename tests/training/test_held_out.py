"""Validation items are contiguous runs of records, several of them, spread over the data."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from functaconv.training import fit_base
from functaconv.training.held_out import LEAST_RUN, MOST_RUNS, held_out

from ..conftest import png, tar


def runs_of(indices: list[int]) -> list[list[int]]:
    """Sorted indices in pieces of which each follows the one before."""
    grouped = itertools.groupby(enumerate(sorted(indices)), lambda pair: pair[1] - pair[0])
    return [[index for _, index in group] for _, group in grouped]


@pytest.mark.parametrize(("count", "wanted", "runs"), [(528, 11, 2), (100, 2, 1), (2000, 40, 8), (10**6, 256, 8)])
def test_a_few_long_runs_are_spread_over_the_records(count: int, wanted: int, runs: int) -> None:
    found = runs_of(held_out(count, wanted))
    assert [len(run) for run in found] == pytest.approx([wanted / runs] * runs, abs=1)
    middles = [sum(run) / len(run) for run in found]
    assert middles == pytest.approx([(number + 0.5) * count / runs for number in range(runs)], abs=2)


def test_any_number_can_be_held_out() -> None:
    for count in range(50):
        for wanted in range(count + 1):
            chosen = held_out(count, wanted)
            assert len(set(chosen)) == wanted
            assert set(chosen) <= set(range(count))


def test_those_farthest_from_a_training_record_come_first() -> None:
    count, wanted = 4000, MOST_RUNS * LEAST_RUN
    first = held_out(count, wanted)[:MOST_RUNS]
    middles = [run[LEAST_RUN // 2] for run in runs_of(held_out(count, wanted))]
    assert first == middles


def test_fit_base_validates_on_such_a_run_and_does_not_learn_from_it(tmp_path: Path, tiny: dict[str, Any]) -> None:
    # of 60 records 29 and 30 are held out: one of them cannot be read
    members = {f"{n:02d}.png": b"no image" if n == 29 else png(n, (8, 8)) for n in range(60)}
    settings = {**tiny, "training": {"steps": 8, "batch_size": 8, "seed": 5}}
    shard = str(tar(tmp_path / "a.tar", members))
    trained = fit_base(shard, tmp_path / "base", settings=settings, device="cpu")
    assert (trained.items, trained.unusable, trained.validation_items) == (58, 0, 1)
