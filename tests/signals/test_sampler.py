"""Draws that can be stopped anywhere, and batches of which each rank decodes its share."""

import itertools
import threading
from collections import Counter

import numpy as np
import pytest

from functaconv.signals.sampler import Draw, Position, draws, loaded
from functaconv.signals.signal import Signal
from functaconv.training.distributed import Group


def drawn(count: int, size: int, number: int, position: Position | None = None, seed: int = 3) -> list[Draw]:
    return list(itertools.islice(draws(range(count), size, seed, position or Position()), number))


def test_an_epoch_has_every_item_once_and_only_its_last_batch_is_short() -> None:
    for count, size in [(24, 8), (25, 8), (3, 8), (40, 1), (100, 3)]:
        batches = drawn(count, size, -(-count // size))
        assert Counter(index for draw in batches for index in draw.indices) == dict.fromkeys(range(count), 1)
        assert {len(draw.indices) for draw in batches[:-1]} <= {size}


def test_epochs_differ_and_seeds_differ() -> None:
    first, second = drawn(10, 10, 2)
    assert first.indices != second.indices
    assert drawn(10, 10, 1) == [first]
    assert drawn(10, 10, 1, seed=4) != [first]


@pytest.mark.parametrize(("count", "size"), [(24, 8), (25, 8), (3, 8), (1, 1)])
def test_draws_go_on_from_any_position(count: int, size: int) -> None:
    whole = drawn(count, size, 20)
    for stopped in range(12):
        assert drawn(count, size, 8, whole[stopped].position) == whole[stopped + 1 : stopped + 9]


def of_three_shapes(index: int) -> Signal | None:
    """Sizes 1 to 3; every eleventh item cannot be loaded."""
    return None if index % 11 == 5 else Signal(str(index), np.full((1 + index % 3, 1), index, np.float32))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_share_is_grouped_by_shape(workers: int) -> None:
    batches = loaded(iter(drawn(50, 8, 20)), of_three_shapes, Group().share, workers=workers)
    for number, (groups, draw) in enumerate(batches):
        assert draw == drawn(50, 8, 20)[number]
        assert sorted(p for group in groups for p in group.positions) == sorted(
            index for index in draw.indices if index % 11 != 5
        )
        assert len({group.shape for group in groups}) == len(groups)
        for group in groups:
            assert group.values[:, 0, 0].tolist() == list(group.positions)
    assert number == 19


@pytest.mark.parametrize("count", [2, 3, 11])
def test_each_rank_decodes_its_share_and_no_other_item(count: int) -> None:
    decoded: list[list[int]] = []
    for rank in range(count):
        own: list[int] = []

        def load(index: int, own: list[int] = own) -> Signal | None:
            own.append(index)
            return of_three_shapes(index)

        group = Group()
        group.rank, group.count = rank, count
        list(loaded(iter(drawn(40, 8, 5)), load, group.share, workers=0))
        decoded.append(own)
    assert sorted(itertools.chain(*decoded)) == list(range(40))
    if count <= 8:
        assert max(map(len, decoded)) - min(map(len, decoded)) <= 5


def test_several_threads_decode_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=60)

    def load(index: int) -> Signal | None:
        # each waits for two others
        together.wait()
        return of_three_shapes(index)

    assert len(list(loaded(iter(drawn(9, 1, 9)), load, Group().share, workers=3))) == 9
