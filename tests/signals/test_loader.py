"""Threads that nobody notices, and a sampler that can be stopped anywhere."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from functaconv.data.items import Record
from functaconv.data.limits import LARGE, check_ahead
from functaconv.errors import InputError
from functaconv.modalities import Axes
from functaconv.modalities.reading import Reading
from functaconv.signals.loader import (
    MOST_FETCHED,
    Collection,
    Position,
    Sampler,
    begun_ahead,
    map_ahead,
    prefetched,
)
from functaconv.signals.signal import Signal


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


def test_a_large_item_that_nobody_asks_for_ends_with_the_others() -> None:
    def decoded(number: int) -> int:
        check_ahead(LARGE if number else 0)
        return number

    results = map_ahead(decoded, range(20), workers=2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert not loader_threads()


def test_no_more_is_fetched_while_large_records_wait() -> None:
    fetched: list[int] = []

    def records() -> Iterator[Record]:
        for number in range(8):
            fetched.append(number)
            yield Record(0, number, "key", {"png": bytes(MOST_FETCHED // 2 + 1)})

    for done, _ in enumerate(map_ahead(lambda record: record.record, records(), workers=8)):
        assert len(fetched) - done <= 3


def test_nothing_is_prefetched_while_a_large_item_is_in_use() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1, 9):
            made.append(number)
            yield number

    for item in prefetched(items(), depth=1, is_large=lambda number: number % 2 == 0):
        time.sleep(0.002)
        assert made[-1] == item or item % 2


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


def one_shape(index: int) -> Signal:
    return Signal(str(index), np.full((3, 1), index, np.float32))


def three_shapes(index: int) -> Signal | None:
    """Sizes 1 to 3; every eleventh item cannot be loaded."""
    return None if index % 11 == 5 else Signal(str(index), np.full((1 + index % 3, 1), index, np.float32))


def epoch_of(load: Callable[[int], Signal | None], count: int, size: int) -> list[tuple[int, ...]]:
    """Positions of the batches of the first epoch."""
    batches = itertools.takewhile(lambda pair: pair[1].epoch == 0, Sampler(load, range(count), size, 0))
    return [batch.positions for batch, _ in batches]


@pytest.mark.parametrize("load", [one_shape, three_shapes])
@pytest.mark.parametrize(("count", "size"), [(24, 8), (25, 8), (3, 8), (40, 1), (100, 3)])
def test_an_epoch_has_every_item_once(load: Callable[[int], Signal | None], count: int, size: int) -> None:
    seen = Counter(position for batch in epoch_of(load, count, size) for position in batch)
    assert seen == {index: 1 for index in range(count) if load(index) is not None}


def test_short_batches_come_at_the_end_of_an_epoch_only() -> None:
    assert [len(batch) for batch in epoch_of(one_shape, 25, 8)] == [8, 8, 8, 1]


def test_batches_hold_one_shape_and_at_most_their_size() -> None:
    for batch, _ in itertools.islice(Sampler(three_shapes, range(50), 4, seed=1), 60):
        assert len(batch) <= 4
        assert {1 + position % 3 for position in batch.positions} == {batch.shape[0]}
        assert batch.values[:, 0, 0].tolist() == list(batch.positions)


def test_waiting_items_are_bounded() -> None:
    def own_shape(index: int) -> Signal:
        return Signal(str(index), np.zeros((index + 1, 1), np.float32))

    for _, position in itertools.islice(Sampler(own_shape, range(100), 2, seed=0), 100):
        assert len(position.waiting) <= 8 * 2


def test_epochs_differ_and_seeds_differ() -> None:
    def order(seed: int) -> list[int]:
        return [b.positions[0] for b, _ in itertools.islice(Sampler(one_shape, range(10), 1, seed), 20)]

    assert order(0) == order(0)
    assert order(0)[:10] != order(0)[10:]
    assert order(0) != order(1)


def first_batches(
    position: Position | None, load: Callable[[int], Signal | None], count: int, size: int, n: int
) -> list:
    sampler = Sampler(load, range(count), size, 3, position)
    return [(batch.positions, position) for batch, position in itertools.islice(sampler, n)]


@pytest.mark.parametrize("load", [one_shape, three_shapes])
@pytest.mark.parametrize(("count", "size"), [(24, 8), (25, 8), (3, 8), (50, 4), (1, 1)])
def test_a_sampler_goes_on_from_any_position(load: Callable[[int], Signal | None], count: int, size: int) -> None:
    whole = first_batches(None, load, count, size, 40)
    for stopped in range(30):
        resumed = first_batches(whole[stopped][1], load, count, size, 8)
        assert resumed == whole[stopped + 1 : stopped + 9], f"stopped after batch {stopped}: {whole[stopped][1]}"


def test_a_sampler_without_a_single_item_says_so() -> None:
    with pytest.raises(InputError, match="no training item"):
        next(iter(Sampler(lambda _: None, range(5), 2, 0)))


def test_a_collection_gives_any_record_and_decodes_it_once(image_shards: Callable[..., Path]) -> None:
    decoded: list[str] = []
    reading = Reading(Axes("image", 2, 3))

    def decode(record: Record) -> list[Signal]:
        decoded.append(record.key)
        return [tile.signal for tile in reading.tiles(record)]

    shards = sorted(map(str, image_shards(7, items_per_shard=3).glob("*.tar")))
    items = Collection(shards, decode)
    assert (len(shards), len(items)) == (3, 7)
    assert [items[index].key for index in (6, 0, 3, 6)] == ["image0006", "image0000", "image0003", "image0006"]
    assert decoded == ["image0006", "image0000", "image0003"]
    assert [signal.key for signal in items.all(workers=2)] == [f"image{n:04d}" for n in range(7)]
    assert len(decoded) == 7
    assert items.bytes_kept == 7 * 12 * 12 * 3


def test_a_collection_keeps_no_more_than_its_memory(image_shards: Callable[..., Path]) -> None:
    reading = Reading(Axes("image", 2, 3))
    (shard,) = image_shards(5).glob("*.tar")
    items = Collection([str(shard)], lambda record: [t.signal for t in reading.tiles(record)], memory=2 * 12 * 12 * 3)
    assert [signal.key for signal in items.all(workers=0)] == [f"image{n:04d}" for n in range(5)]
    assert items.bytes_kept == 2 * 12 * 12 * 3
    assert items[4].key == "image0004"


def test_a_collection_has_so_many_tiles_of_every_record(image_shards: Callable[..., Path]) -> None:
    reading = Reading(Axes("image", 2, 3), tile=12)
    (shard,) = image_shards(3, shapes=[(12, 24), (12, 12), (12, 60)]).glob("*.tar")
    items = Collection([str(shard)], lambda record: [tile.signal for tile in reading.tiles(record)], each=2)
    assert (items.records, len(items)) == (3, 6)
    keys = [None if (signal := items[index]) is None else signal.key for index in range(6)]
    # of five tiles two that lie apart
    assert keys == ["image0000#0,0", "image0000#0,1", "image0001", None, "image0002#0,0", "image0002#0,2"]
    assert [len(items.signals(record)) for record in range(3)] == [2, 1, 5]
    assert sum(1 for _ in items.all(workers=2)) == 8
