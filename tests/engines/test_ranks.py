"""Ranks that do not talk to each other: everything is made, also what dead ones leave, and little of it twice."""

import heapq
from dataclasses import dataclass

import numpy as np
import pytest

from functaconv.engines.ranks import Ranks, in_turn


@dataclass
class Simulated:
    """What became of a run in which a rank took a random time for each task."""

    made: int = 0
    seconds: float = 0.0


def simulate(ranks: int, tasks: int, *, deaths: int = 0, spread: float = 0.3, seed: int = 0) -> Simulated:
    """`deaths` of the ranks die at once. A task that a rank is at is not seen by the others."""
    random, done, found = np.random.default_rng(seed), set[int](), Simulated()
    iterators = [
        in_turn(Ranks(rank, ranks), range(tasks), turn=lambda task: task, is_done=lambda task: task in done)
        for rank in range(deaths, ranks)
    ]
    # when a rank is free, and what it has made by then
    queue: list[tuple[float, int, int | None]] = [(0.0, rank, None) for rank in range(len(iterators))]
    while queue:
        now, rank, made = heapq.heappop(queue)
        if made is not None:
            done.add(made)
            found.seconds = max(found.seconds, now)
        if (task := next(iterators[rank], None)) is not None:
            found.made += 1
            heapq.heappush(queue, (now + random.uniform(1 - spread, 1 + spread), rank, task))
    assert len(done) == tasks
    return found


@pytest.mark.parametrize("deaths", [0, 1, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_all_is_made_and_little_of_it_twice(deaths: int, seed: int) -> None:
    ranks, tasks = 8, 800
    found = simulate(ranks, tasks, deaths=deaths, seed=seed)
    # with one that dies at once a few per cent, where walking on from one's own share would make three quarters twice
    assert found.made <= 1.05 * tasks
    assert found.seconds <= 1.06 * tasks / (ranks - deaths)


def test_a_share_is_made_in_order_and_what_is_done_is_passed_over() -> None:
    done = {4, 6, 1}
    found = in_turn(Ranks(0, 2), range(10), turn=lambda task: task, is_done=lambda task: task in done)
    own = [next(found) for _ in range(3)]
    assert own == [0, 2, 8]
    done |= {3, 5}
    # an order of its own, and another one for each rank
    assert sorted(found) == [7, 9]
    orders = {tuple(in_turn(Ranks(rank, 9), range(1, 9), turn=lambda _: 0, is_done=lambda _: False)) for rank in (1, 2)}
    assert len(orders) == 2


def test_one_process_makes_all_in_order() -> None:
    assert list(in_turn(Ranks(), range(5), turn=lambda task: task, is_done=lambda _: False)) == [0, 1, 2, 3, 4]
