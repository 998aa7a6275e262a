"""Threads that decode ahead: in order, a bounded distance, and gone when they are not needed."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from functaconv.data.items import Record
from functaconv.data.limits import LARGE, check_ahead
from functaconv.errors import InputError
from functaconv.signals.loader import (
    MOST_FETCHED,
    begun_ahead,
    map_ahead,
    prefetched,
)


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("functaconv")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_map_ahead_is_map(workers: int) -> None:
    def slow_for_small(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number**2

    assert list(map_ahead(slow_for_small, range(50), workers=workers)) == [n**2 for n in range(50)]
    assert list(map_ahead(slow_for_small, [], workers=workers)) == []
    assert not loader_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_of_the_function_comes_where_its_result_would_stand(workers: int) -> None:
    results = map_ahead(lambda number: 6 // (3 - number), range(6), workers=workers)
    assert list(itertools.islice(results, 3)) == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not loader_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_of_the_source_comes_after_what_was_read_before(workers: int) -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise InputError("cut short")

    results = map_ahead(lambda number: number, broken(), workers=workers)
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="cut short"):
        next(results)


def test_map_ahead_reads_a_bounded_distance_ahead() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    for done, _ in enumerate(map_ahead(abs, source(), workers=2, ahead=5)):
        assert len(taken) - done <= 6
    assert len(taken) == 100


def test_map_ahead_that_is_given_up_ends_its_threads() -> None:
    results = map_ahead(abs, itertools.count(), workers=2)
    next(results)
    assert loader_threads()
    results.close()  # type: ignore[attr-defined]
    assert not loader_threads()


def test_large_items_are_decoded_one_at_a_time_and_small_ones_ahead() -> None:
    running, most, begun = [0], [0], list[int]()
    lock = threading.Lock()

    def decoded(number: int) -> int:
        check_ahead(LARGE if number % 4 == 3 else LARGE - 1)
        with lock:
            begun.append(number)
            running[0] += number % 4 == 3
            most[0] = max(most[0], running[0])
        time.sleep(0.001)
        with lock:
            running[0] -= number % 4 == 3
        return number

    calls = begun_ahead(decoded, range(20), workers=4)
    results = []
    for number, call in enumerate(calls):
        time.sleep(0.002)
        # nobody has asked for it
        assert number % 4 != 3 or number not in begun
        results.append(call.result())
    assert results == list(range(20))
    assert most[0] == 1
    assert not loader_threads()


def test_no_more_is_fetched_while_large_records_wait() -> None:
    fetched: list[int] = []

    def records() -> Iterator[Record]:
        for number in range(8):
            fetched.append(number)
            yield Record(0, number, "key", {"png": bytes(MOST_FETCHED // 2 + 1)})

    for done, _ in enumerate(map_ahead(lambda record: record.record, records(), workers=8)):
        assert len(fetched) - done <= 3


@pytest.mark.parametrize("count", [0, 1, 20])
def test_prefetched_items_are_the_same_items(count: int) -> None:
    assert list(prefetched(range(1, count + 1))) == list(range(1, count + 1))
    assert not loader_threads()


def test_prefetched_passes_an_exception_on_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise InputError("cut short")

    items = prefetched(broken())
    assert next(items) == 1
    with pytest.raises(InputError, match="cut short"):
        next(items)
    assert not loader_threads()


def test_prefetched_that_is_given_up_ends_its_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count(1)
        finally:
            closed.set()

    items = prefetched(endless(), depth=2)
    assert next(items) == 1
    items.close()
    assert not loader_threads()
    assert closed.is_set()


def test_prefetched_is_at_most_its_depth_ahead() -> None:
    produced: list[int] = []

    def source() -> Iterator[int]:
        for number in range(1, 100):
            produced.append(number)
            yield number

    items = prefetched(source(), depth=3)
    for used in range(1, 20):
        assert next(items) == used
        time.sleep(0.002)
        # three in the channel, one in hand
        assert len(produced) - used <= 4
    items.close()
