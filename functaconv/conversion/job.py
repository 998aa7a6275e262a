"""What an engine runs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from functaconv.conversion.block import encode_blocks
from functaconv.conversion.progress import Progress
from functaconv.conversion.reading import Portion, read
from functaconv.conversion.tasks import Task
from functaconv.conversion.work import Work
from functaconv.functaset.blocks import Block
from functaconv.functaset.unfinished import Parts
from functaconv.signals.device import matmul_precision


@dataclass
class Job:
    """What an engine runs; to another process only the work travels."""

    work: Work
    parts: Parts | None = None
    progress: Progress | None = None
    records: dict[int, int] = field(default_factory=dict)
    """of the shards that were read, up to now"""

    def __reduce__(self) -> tuple[Any, ...]:
        return Job, (self.work,)

    def announce(self, message: str) -> None:
        """Something that a user wants to know of the engine."""
        if self.progress is not None:
            self.progress.watcher.announce(message)

    def read(self, task: Task) -> Iterator[Portion]:
        """The portions of a task."""
        for portion in read(self.work, task):
            self.records[task.shard] = portion.stop
            yield portion
            # not held while the next one is decoded
            del portion

    def encode(self, portions: Iterator[Portion]) -> Iterator[Block]:
        """The blocks of the portions, but for those that another process has finished meanwhile."""
        tell = None if self.progress is None else self.progress.batch
        with matmul_precision(self.work.precision, self.work.stored.base.device):
            yield from encode_blocks(self.work, self._missing(portions), tell)

    def _missing(self, portions: Iterator[Portion]) -> Iterator[Portion]:
        is_begin, is_done = True, False
        for portion in portions:
            if is_begin:
                is_done = self.parts is not None and self.parts.has(portion.shard, portion.number)
            is_begin = portion.is_end
            if not is_done:
                yield portion
            del portion
