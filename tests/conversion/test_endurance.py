"""What takes minutes: many kills, and many items."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.kills import disturb
from tests.benchmarks.memory import peaks
from tests.conversion.conftest import BLOCK


@pytest.mark.slow
def test_killed_three_times_it_ends_as_if_nothing_had_happened(
    image_shards: Callable[..., Path], base_file: Path, tmp_path: Path
) -> None:
    shards = image_shards(240, items_per_shard=100, seed=9)
    found = disturb(base_file, str(shards), tmp_path, kills=3, seed=1, patience=0.4)
    assert found.kills == 3
    assert found.completed >= 1
    assert found.differences == []
    assert 0 <= found.redone <= (found.ranks_killed + found.ranks_ended) * BLOCK


@pytest.mark.slow
def test_six_times_the_items_take_no_more_memory(tmp_path: Path) -> None:
    few, many = peaks(tmp_path, [500, 3_000]).values()
    assert many <= 1.1 * few
