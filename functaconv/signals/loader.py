"""The only threads: decoding in parallel, in order, a bounded distance ahead."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from typing import Any, Generic, TypeVar

from functaconv.data.items import Record
from functaconv.data.limits import DecodeLaterError, run_ahead

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
        # so that the record and the result can be freed
        self._future, self._call = None, _already_given
        return made

    def cancel(self) -> None:
        if self._future is not None:
            self._future.cancel()


def _already_given() -> Any:
    raise AssertionError("a result is given once")


def map_ahead(
    function: Callable[[Given], Made], items: Iterable[Given], *, workers: int, ahead: int | None = None
) -> Generator[Made]:
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
                call, size = waiting.popleft()
                weight -= size
                yield call
                del call
        finally:
            for waiting_call, _ in waiting:
                waiting_call.cancel()


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
            # free its memory before the next one is made
            item = None
            if waits:
                room.release()
    finally:
        stopped.set()
        # one that waits for input which does not come is left behind
        thread.join(LEFT_BEHIND)
