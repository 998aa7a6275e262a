"""The processes that train one base together: torch.distributed, with one sum of all gradients per update."""

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from functaconv.engines.ranks import Ranks
from functaconv.errors import FunctaconvError, UsageError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Made = TypeVar("Made")
# seconds that a rank is waited for, unless FUNCTACONV_RANK_TIMEOUT says otherwise
TIMEOUT = 600.0
# the first rank may read all items, or fit the closed form, while the others wait
LONGEST_WORK = timedelta(days=7)
# seconds in which every rank that is still there notices that another one is lost
ROLL_CALL = 5.0
_TRAININGS = itertools.count()


class LostRankError(FunctaconvError):
    """A rank did not come, or is gone."""

    exit_code = 69


class Group:
    """The ranks that train one base. This one is alone."""

    rank, count = 0, 1

    @property
    def is_first(self) -> bool:
        """This rank decides, writes and prints."""
        return self.rank == 0

    def share(self, items: int) -> slice:
        """Which of a batch's items are this rank's: none, where there are more ranks than items."""
        return slice(self.rank * items // self.count, (self.rank + 1) * items // self.count)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on all of them."""
        return tensor

    def first(self, work: Callable[[], Made]) -> Made:
        """What the first rank's work returns, for all ranks, or the FunctaconvError that it raises."""
        return work()

    def first_of_machine(self, work: Callable[[], Made]) -> Made:
        """What the first rank of this machine returns, for all ranks of the machine."""
        return work()

    def gather(self, value: Made) -> list[Made]:
        """The values of all ranks, in order."""
        return [value]


@contextmanager
def group_of(ranks: Ranks, device: torch.device) -> Iterator[Group]:
    """The ranks, connected while the block runs. LostRankError, naming them, when some do not come or are gone."""
    if ranks.count == 1:
        yield Group()
        return
    patience = timedelta(seconds=_timeout())
    # imports what optimisers need; imported later it would hold the groups that exist by then for ever
    torch.compiler.reset()
    try:
        # another training of the same processes has keys of its own, and so has what torchrun starts again: its store
        # may still hold the addresses of the ranks before
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"training-{attempt}-{next(_TRAININGS)}", _store(patience))
        dist.init_process_group("gloo", store=store, rank=ranks.rank, world_size=ranks.count, timeout=patience)
        group = _Connected(ranks, store, device, patience)
    except (RuntimeError, ValueError) as error:
        raise LostRankError(
            f"the {ranks.count} ranks did not find together: {error}".partition("\n")[0],
            hint="start them with torchrun; each needs a GPU of its own, or --device cpu",
        ) from error
    try:
        yield group
    finally:
        group.leave()
        dist.destroy_process_group()


class _Connected(Group):
    """One of several ranks: gradients are summed by NCCL on GPUs, all else goes through gloo."""

    def __init__(self, ranks: Ranks, store: "Store", device: torch.device, patience: timedelta) -> None:
        self.rank, self.count, self._local, self._store = ranks.rank, ranks.count, ranks.local, store
        self._gradients = dist.new_group(backend="nccl", timeout=patience) if device.type == "cuda" else None
        self._objects = dist.new_group(backend="gloo", timeout=LONGEST_WORK)
        store.set(f"name/{self.rank}", f"rank {self.rank} (process {os.getpid()} on {socket.gethostname()})")

    def leave(self) -> None:
        """Let go of the groups: their threads end with the last reference, and one that still runs when Python ends may
        abort the process.
        """
        del self._gradients, self._objects

    def sum(self, tensor: Tensor) -> Tensor:
        with self._naming_the_lost():
            dist.all_reduce(tensor, group=self._gradients)
        return tensor

    def first(self, work: Callable[[], Made]) -> Made:
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = work()
            except FunctaconvError as error:
                told[1] = error
        with self._naming_the_lost():
            dist.broadcast_object_list(told, src=0, group=self._objects)
        if told[1] is not None:
            raise told[1]
        made: Made = told[0]
        return made

    def first_of_machine(self, work: Callable[[], Made]) -> Made:
        own = work() if self._local == 0 else None
        others = self.gather(own)[self.rank - self._local]
        made = others if own is None else own
        assert made is not None
        return made

    def gather(self, value: Made) -> list[Made]:
        values: list[Any] = [None] * self.count
        with self._naming_the_lost():
            dist.all_gather_object(values, value, group=self._objects)
        return values

    @contextmanager
    def _naming_the_lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostRankError(
                f"{self._lost()}: gone, or without an answer",
                hint="its own message says why; run the same command again to go on (torchrun --max-restarts=1 does so "
                "by itself); FUNCTACONV_RANK_TIMEOUT=SECONDS is how long a rank is waited for",
            ) from error

    def _lost(self) -> str:
        """Which ranks do not report that they, too, miss one. Gloo does not say which rank closed a connection."""
        names = [f"rank {rank}" for rank in range(self.count)]
        with suppress(RuntimeError):
            self._store.set(f"here/{self.rank}", "")
            time.sleep(ROLL_CALL)
            names = [self._store.get(f"name/{rank}").decode() for rank in range(self.count)]
            lost = [name for rank, name in enumerate(names) if not self._store.check([f"here/{rank}"])]
            return "; ".join(lost) or "the connection between the ranks"
        # where no torchrun keeps the store, the first rank does
        return names[0]


@cache
def _store(patience: timedelta) -> "Store":
    """Keys and values of all ranks, kept by torchrun or else by the first rank, as long as the process lives."""
    store: Store = next(rendezvous("env://", timeout=patience))[0]
    return store


def _timeout() -> float:
    text = os.environ.get("FUNCTACONV_RANK_TIMEOUT", "")
    try:
        seconds = float(text or TIMEOUT)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"FUNCTACONV_RANK_TIMEOUT is {text!r:.100}, which is no number of seconds")
    return seconds
