"""The only threads: decoding in parallel, in order, a bounded distance ahead."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from functaconv.data.copies import LocalCopies
from functaconv.data.items import Record
from functaconv.data.limits import DecodeLaterError, check_ahead, run_ahead
from functaconv.data.shards import RecordLocation, index_shard, read_at
from functaconv.errors import InputError
from functaconv.signals.batch import Batch
from functaconv.signals.signal import Signal

MOST_FETCHED = 64 << 20
"""bytes of what waits to be decoded, from which on no more is fetched"""
LEFT_BEHIND = 1.0
"""seconds after which a thread is not waited for any more"""
Given = TypeVar("Given")
Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """A result that is computed in a thread; of a large item when it is asked for, where it is asked for."""

    def __init__(self, pool: ThreadPoolExecutor | None, function: Callable[..., Made], given: Any) -> None:
        self._call: Callable[[], Made] = partial(function, given)
        self._future = None if pool is None else pool.submit(run_ahead, self._call)

    def result(self) -> Made:
        try:
            made = self._call() if self._future is None else self._future.result()
        except DecodeLaterError:
            made = self._call()
        # neither the record nor what became of it is held any longer
        self._future, self._call = None, _taken
        return made

    def cancel(self) -> None:
        if self._future is not None:
            self._future.cancel()


def _taken() -> Any:
    raise AssertionError("a result is given once")


def map_ahead(
    function: Callable[[Given], Made], items: Iterable[Given], *, workers: int, ahead: int | None = None
) -> Iterator[Made]:
    """`map` with the calls in `workers` threads, results in order, at most `ahead` of them waiting: see `begun_ahead`.

    An exception of `function` or of the iterable surfaces where its result would have stood, after those before it.
    """
    with closing(begun_ahead(function, items, workers=workers, ahead=ahead)) as calls:
        for call in calls:
            yield call.result()


def begun_ahead(
    function: Callable[[Given], Made], items: Iterable[Given], *, workers: int, ahead: int | None = None
) -> Generator[Ahead[Made]]:
    """The calls of `function` in order, at most `ahead` of them begun in `workers` threads.

    Large items (`limits.check_ahead`) are decoded when their result is asked for. No more records are fetched while
    those that wait have many bytes.
    """
    waiting: deque[tuple[Ahead[Made], int]] = deque()
    iterator, weight = iter(items), 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="functaconv-decode") if workers > 0 else None
    most = (ahead or 2 * workers) if workers > 0 else 1
    with pool or nullcontext():
        try:
            failure: BaseException | None = None
            while True:
                while failure is None and len(waiting) < most and weight <= MOST_FETCHED:
                    try:
                        given = next(iterator)
                    except StopIteration:
                        break
                    except Exception as error:
                        # what was read before the source broke is still good
                        failure = error
                        break
                    waiting.append((Ahead(pool, function, given), _weight(given)))
                    weight += waiting[-1][1]
                    del given
                if not waiting:
                    if failure is not None:
                        raise failure
                    return
                call, own = waiting.popleft()
                weight -= own
                yield call
                del call
        finally:
            for left, _ in waiting:
                left.cancel()


def _weight(given: object) -> int:
    return sum(map(len, given.fields.values())) if isinstance(given, Record) else 0


def prefetched(
    items: Iterable[Made], depth: int = 2, *, is_large: Callable[[Made], bool] = lambda _: False
) -> Generator[Made]:
    """The same items, produced in a thread: no more than `depth` beyond the one in use, begun ones included; none
    while a large one is in use.
    """
    channel: queue.SimpleQueue[tuple[Made | None, BaseException | None]] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(depth), threading.Event()

    def may_go_on() -> bool:
        while not stopped.is_set():
            if room.acquire(timeout=0.1):
                return True
        return False

    def produce() -> None:
        try:
            iterator = iter(items)
            while may_go_on():
                try:
                    item = next(iterator)
                except StopIteration:
                    channel.put((None, None))
                    return
                channel.put((item, None))
                del item
        except BaseException as error:
            channel.put((None, error))

    thread = threading.Thread(target=produce, name="functaconv-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = channel.get()
            if error is not None:
                raise error
            if item is None:
                return
            waits = is_large(item)
            if not waits:
                room.release()
            yield item
            # by now nobody may hold it
            item = None
            if waits:
                room.release()
    finally:
        stopped.set()
        # one that waits for input which does not come is left behind
        thread.join(LEFT_BEHIND)


@dataclass(frozen=True)
class Position:
    """Where a sampler stands: all it needs to go on with the very same batches."""

    epoch: int = 0
    index: int = 0
    waiting: tuple[int, ...] = ()
    """items drawn but not yet in a batch, in the order drawn"""


class Sampler:
    """Random batches per shape, epoch after epoch; within an epoch every item is drawn once.

    Items wait for others of their shape; at the end of an epoch, or when more than eight batches are waiting, the
    largest group goes as a short batch. Items that `load` cannot give (None) are passed over.
    """

    def __init__(
        self,
        load: Callable[[int], Signal | None],
        indices: Sequence[int],
        batch_size: int,
        seed: int,
        position: Position | None = None,
        *,
        pin: bool = False,
    ) -> None:
        self._load, self._indices, self._size, self._seed, self._pin = (
            load,
            tuple(indices),
            batch_size,
            seed,
            pin,
        )
        self._position = position or Position()

    def __iter__(self) -> Iterator[tuple[Batch, Position]]:
        """Batches for ever, each with the position after it."""
        groups: dict[tuple[object, ...], list[tuple[int, Signal]]] = {}
        for index in self._position.waiting:
            self._add(groups, index)
        epoch, place = self._position.epoch, self._position.index
        # an epoch that was resumed midway may have nothing left to give
        gave = place > 0
        while True:
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self._indices))
            while place < len(order):
                shape = self._add(groups, self._indices[order[place]])
                place += 1
                if shape is not None and len(groups[shape]) >= self._size:
                    yield self._take(groups, shape, epoch, place)
                    gave = True
                elif sum(map(len, groups.values())) > 8 * self._size:
                    yield self._take(groups, max(groups, key=lambda key: len(groups[key])), epoch, place)
                    gave = True
            # a dataset smaller than a batch, or the odd shapes of this epoch
            while groups:
                yield self._take(groups, max(groups, key=lambda key: len(groups[key])), epoch, place)
                gave = True
            if not gave:
                raise InputError("no training item could be decoded", hint="`functaconv inspect` lists what is there")
            epoch, place, gave = epoch + 1, 0, False

    def _add(self, groups: dict[tuple[object, ...], list[tuple[int, Signal]]], index: int) -> tuple[object, ...] | None:
        signal = self._load(index)
        if signal is None:
            return None
        groups.setdefault(signal.batches_with, []).append((index, signal))
        return signal.batches_with

    def _take(
        self,
        groups: dict[tuple[object, ...], list[tuple[int, Signal]]],
        shape: tuple[object, ...],
        epoch: int,
        place: int,
    ) -> tuple[Batch, Position]:
        chosen = groups.pop(shape)
        waiting = tuple(index for group in groups.values() for index, _ in group)
        batch = Batch.of([signal for _, signal in chosen], [index for index, _ in chosen], pin=self._pin)
        return batch, Position(epoch, place, waiting)


class Collection:
    """Random access to the signals of shards; decoded ones are kept in memory up to a limit.

    A record gives one signal, or its tiles: `each` indices belong to every record. One with fewer tiles has no signal
    for the last of them; of one with more, some are left out. Shards that are compressed or come from afar are copied
    first, see `LocalCopies`; `announce` is told of it.
    """

    def __init__(
        self,
        shards: Sequence[str],
        decode: Callable[[Record], Sequence[Signal]],
        *,
        each: int = 1,
        memory: int = 2 << 30,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._shards, self._decode, self._memory = tuple(shards), decode, memory
        self.each = each
        self._copies = LocalCopies(self._shards, announce)
        self._locations: list[tuple[int, RecordLocation]] = []
        for number, shard in enumerate(self._shards):
            with self._copies.opened(shard) as stream:
                found = index_shard(shard, stream=stream)
            self._locations += [(number, location) for location in found if not location.is_joined]
        self._kept: dict[int, tuple[Signal, ...]] = {}
        self.bytes_kept = 0

    @property
    def records(self) -> int:
        """How many there are, whether they give signals or not."""
        return len(self._locations)

    def __len__(self) -> int:
        return self.records * self.each

    def __getitem__(self, index: int) -> Signal | None:
        """A signal of the record `index // each`, or None."""
        record, number = divmod(index, self.each)
        signals = self.signals(record)
        if len(signals) > self.each:
            # from all over the record
            number = number * len(signals) // self.each
        return signals[number] if number < len(signals) else None

    def signals(self, record: int) -> tuple[Signal, ...]:
        """All signals of a record; none where it gives none."""
        if record in self._kept:
            return self._kept[record]
        number, location = self._locations[record]
        shard = self._shards[number]
        check_ahead(location.length)
        with self._copies.opened(shard) as stream:
            read = read_at(shard, location, number, stream=stream)
        signals = tuple(self._decode(read))
        size = sum(signal.values.nbytes for signal in signals)
        if self.bytes_kept + size <= self._memory:
            self._kept[record] = signals
            self.bytes_kept += size
        return signals

    def is_known_bad(self, record: int) -> bool:
        """True when the record was looked at and gave no signal."""
        return record in self._kept and not self._kept[record]

    def all(self, *, workers: int) -> Iterator[Signal]:
        """Every signal once, in order, decoded in parallel."""
        for signals in map_ahead(self.signals, range(self.records), workers=workers):
            yield from signals
