"""Encodes in this process; the next portion is read and decoded while the current one is fitted."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Protocol

from functaconv.interruption import Stop
from functaconv.signals.loader import prefetched


class Job(Protocol):
    """What an engine needs of a job: for each task it runs `encode(read(task))`."""

    def read(self, task: Any) -> Iterator[Any]:
        """Portions of a task's records; while one that `is_large` is encoded nothing else is read."""

    def announce(self, message: str) -> None:
        """Tell the user, once."""

    def encode(self, portions: Iterator[Any]) -> Iterator[Any]:
        """The blocks that portions make up."""


def run(job: Job, tasks: Iterable[Any], stop: Stop) -> Generator[Any]:
    """The blocks of the tasks, in their order; a signal that comes while input is waited for ends it at once."""
    portions = (portion for task in tasks for portion in job.read(task))
    with closing(prefetched(portions, depth=1, is_large=lambda portion: portion.is_large)) as ahead:
        yield from job.encode(stop.while_waiting(ahead))
