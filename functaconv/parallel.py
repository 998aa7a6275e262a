"""How the processes that train one base together keep in step.

An `Ensemble` adds up what its ranks found, and lets the first one
decide and write for all. Nobody waits for ever: who does not come is named. Nothing else imports torch.distributed.
"""

import itertools
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from functaconv import errors
from functaconv.engines.ranks import Ranks
from functaconv.errors import FunctaconvError, StoppedError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store, Work

TIMEOUT = 600.0
"""seconds that a rank is waited for, unless FUNCTACONV_RANK_TIMEOUT says otherwise"""
MARGIN = 120.0
"""seconds after which torch gives up what we have given up: NCCL then ends the process, whatever that is saving"""
LINGER = 5.0
"""seconds that the rank which keeps the store stays for the others, at the end"""
GRACE = 3.0
"""seconds in which a rank whose connection broke says that it is still there"""
LOOK_EVERY = 1.0
POLL = 5e-5
SLOWEST_POLL = 0.1
SIGNALS = tuple(int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""that ask to stop; where ranks got several the first counts"""


class LostRankError(FunctaconvError):
    """A rank did not come, or is gone."""

    exit_code = 69


class Ensemble:
    """The processes that train one base together. This one is alone."""

    rank, count = 0, 1

    @property
    def is_first(self) -> bool:
        """The one that decides, writes and talks."""
        return self.rank == 0

    def share(self, items: int) -> slice:
        """Which of a batch's items are this rank's; none, where there are more ranks than items."""
        return slice(self.rank * items // self.count, (self.rank + 1) * items // self.count)

    def sum(self, tensors: Sequence["Tensor"]) -> list["Tensor"]:
        """Over all ranks, bit for bit the same on all."""
        return list(tensors)

    def agree(self, seconds: float, asked: int | None) -> tuple[float, int | None]:
        """The clock of the first rank, and the signal that any rank was asked to stop with."""
        return seconds, asked

    def first(self, work: Callable[[], Any]) -> Any:
        """What the first rank's work results in (it must be JSON), for all; so is the error it ends in."""
        return work()

    def at(self, place: str) -> None:
        """A sign of life: where this rank is, for the others to tell should it get lost."""


@contextmanager
def ensemble(ranks: Ranks, device: "torch.device") -> Iterator[Ensemble]:
    """The ranks, each in this block. An error of one of them is the others' too."""
    if ranks.count == 1:
        yield Ensemble()
        return
    joined = _Joined(ranks, device)
    try:
        yield joined
    except BaseException as error:
        joined.leave(error)
        raise
    joined.leave(None)


class _Joined(Ensemble):
    """One of several. They meet at a store of keys and values, which torchrun keeps, or else the first rank.

    Before a rank begins to wait for others it notes its step there: the others' steps then tell who is missing.
    """

    def __init__(self, ranks: Ranks, device: "torch.device") -> None:
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        self.rank, self.count, self._device = ranks.rank, ranks.count, device
        self._timeout = _timeout()
        self._others = [rank for rank in range(self.count) if rank != self.rank]
        self._step, self._firsts, self._place, self._noted = 0, 0, "the start", 0.0
        self._who = {rank: f"rank {rank}" for rank in range(self.count)}
        self._is_heard = True
        self._pending: Work | None = None
        if dist.is_initialized():
            raise UsageError(
                "torch.distributed is in use already", hint="call torch.distributed.destroy_process_group() first"
            )
        try:
            self._root = _store()
            self._store = self._meet()
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore("group", self._store), rank=self.rank, world_size=self.count,
                timeout=timedelta(seconds=self._timeout + MARGIN),
                device_id=device if device.type == "cuda" else None,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise LostRankError(
                f"the {self.count} ranks did not find together: {error}".partition("\n")[0],
                hint="start them with torchrun; each needs a GPU of its own, or --device cpu",
            ) from error

    def sum(self, tensors: Sequence["Tensor"]) -> list["Tensor"]:
        import torch
        import torch.distributed as dist

        self._come()
        bucket = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self._finish(lambda: dist.all_reduce(bucket, async_op=True))
        parts = torch.split(bucket, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]

    def agree(self, seconds: float, asked: int | None) -> tuple[float, int | None]:
        import torch

        own = [seconds if self.is_first else 0.0, *(float(asked == number) for number in SIGNALS)]
        clock, *signals = self.sum([torch.tensor(own, dtype=torch.float64, device=self._device)])[0].tolist()
        return clock, next((number for number, count in zip(SIGNALS, signals, strict=True) if count), None)

    def first(self, work: Callable[[], Any]) -> Any:
        self._firsts += 1
        key = f"first/{self._firsts}"
        self._come()
        if self.is_first:
            try:
                result = work()
            except BaseException as error:
                with suppress(LostRankError):
                    self._set(key, {"error": _told(error, self.rank)})
                raise
            self._set(key, {"result": result})
            return result
        patience = _Patience(self, [0])
        pauses = _pauses()
        while (outcome := self._get([key])[0]) is None:
            patience.look()
            time.sleep(next(pauses))
        if "error" in outcome:
            raise _echo(outcome["error"])
        return outcome["result"]

    def at(self, place: str) -> None:
        self._place = place
        if time.monotonic() - self._noted > LOOK_EVERY:
            self._note()

    def leave(self, error: BaseException | None) -> None:
        """The end of the ensemble, for this rank. Others may still want to read what it said."""
        import torch.distributed as dist

        is_well = error is None or isinstance(error, StoppedError)
        with suppress(LostRankError):
            if error is not None and not is_well and not isinstance(error, LostRankError):
                self._set(f"failed/{self.rank}", _told(error, self.rank))
            self._set(f"bye/{self.rank}", True)
            if self.is_first and not _is_kept_by_launcher():
                deadline = time.monotonic() + LINGER
                keys = [f"bye/{rank}" for rank in self._others]
                while None in self._get(keys) and time.monotonic() < deadline:
                    time.sleep(SLOWEST_POLL)
        with suppress(RuntimeError):
            if self._pending is None:
                dist.destroy_process_group()
            elif self._device.type == "cuda":
                # it would keep the device, and the process with it
                dist.distributed_c10d._abort_process_group()
            else:
                # gloo would wait for it at the end of the process: a thread that never ends keeps it from being cleared
                kept = (dist.group.WORLD, self._pending)
                threading.Thread(target=lambda _: threading.Event().wait(), args=(kept,), daemon=True).start()

    def _meet(self) -> "Store":
        """A part of the store for these very processes: what is in it from before a restart is not for us.

        Everyone says a word of his own. The first rank makes a name and lists whom it has heard; who is on the list
        with his own word goes by that name.
        """
        from torch.distributed.distributed_c10d import PrefixStore

        word = uuid.uuid4().hex
        name, heard = word if self.is_first else "", dict[int, Any]()
        me = {"word": word, "who": f"rank {self.rank} (process {os.getpid()} on {socket.gethostname()})"}
        self._store = self._root
        self._set(f"functaconv/word/{self.rank}", me)
        deadline = time.monotonic() + self._timeout
        for pause in _pauses():
            if self.is_first:
                said = dict(zip(self._others, self._get([f"functaconv/word/{r}" for r in self._others]), strict=True))
                if said != heard:
                    heard = said
                    self._set("functaconv/list", {"name": name, "said": [me, *heard.values()]})
            elif not name and (listed := self._get(["functaconv/list"])[0]) is not None:
                name = listed["name"] if listed["said"][self.rank] == me else ""
            if name and not self.is_first:
                self._set(f"functaconv/{name}/here/{self.rank}", True)
            here = self._get([f"functaconv/{name}/here/{rank}" for rank in range(1, self.count)]) if name else [None]
            if None not in here:
                break
            if time.monotonic() > deadline:
                late = [rank for rank, is_here in enumerate(here, 1) if is_here is None] if name else [0]
                raise self._lost(late, f"did not come within {self._timeout:g} s")
            time.sleep(pause)
        said = self._get(["functaconv/list"])[0]["said"]
        self._who = {rank: each["who"] for rank, each in enumerate(said)}
        return PrefixStore(f"functaconv/{name}", self._root)

    def _come(self) -> None:
        """To the next step, at which all ranks meet."""
        self._step += 1
        self._note()

    def _note(self) -> None:
        self._noted = time.monotonic()
        self._set(f"note/{self.rank}", [self._step, self._place, self._noted])

    def _finish(self, begin: Callable[[], "Work | None"]) -> None:
        patience = _Patience(self, self._others)
        try:
            work = begin()
            assert work is not None
            self._pending = work
            # not left to torch, whose waiting hears no signals, and with NCCL has no end
            while not work.is_completed():
                patience.look()
                time.sleep(POLL)
            self._pending = None
            work.wait()
        except RuntimeError as error:
            raise self._broken(error) from error

    def _broken(self, error: RuntimeError) -> FunctaconvError:
        """A connection broke: who does not answer any more?"""
        self._set(f"left/{self.rank}", True)
        deadline, pauses = time.monotonic() + GRACE, _pauses()
        while (failure := self._failure()) is None:
            answers = self._get([f"left/{rank}" for rank in self._others])
            silent = [rank for rank, answer in zip(self._others, answers, strict=True) if answer is None]
            if not silent:
                return LostRankError(f"the connection between the ranks broke: {error}".partition("\n")[0])
            if time.monotonic() > deadline:
                return self._lost(silent, "gone")
            time.sleep(next(pauses))
        return failure

    def _failure(self) -> FunctaconvError | None:
        """What another rank ended with."""
        failures = self._get([f"failed/{rank}" for rank in self._others])
        return next((_echo(failure) for failure in failures if failure is not None), None)

    def _lost(self, missing: Sequence[int], how: str) -> LostRankError:
        """The error that names them."""
        notes: list[Any] = [None] * len(missing)
        with suppress(LostRankError):
            self._set(f"left/{self.rank}", True)
            notes = self._get([f"note/{rank}" for rank in missing])
        who = (
            self._who[rank] + ("" if note is None else f", last seen at {note[1]}")
            for rank, note in zip(missing, notes, strict=True)
        )
        verb = ("is " if len(missing) == 1 else "are ") if how == "gone" else ""
        return LostRankError(
            f"{'; '.join(who)}: {verb}{how}",
            hint="run the same command again to go on; `torchrun --max-restarts=1` does so by itself, and "
            "FUNCTACONV_RANK_TIMEOUT=SECONDS is how long a rank is waited for",
        )

    def _lost_store(self) -> LostRankError:
        if _is_kept_by_launcher():
            return LostRankError("torchrun does not answer any more")
        return LostRankError(f"{self._who[0]}, at which the ranks meet, does not answer any more")

    def _set(self, key: str, value: object) -> None:
        if not self._is_heard:
            return
        try:
            self._store.set(key, json.dumps(value))
        except RuntimeError as error:
            self._is_heard = False
            raise self._lost_store() from error

    def _get(self, keys: Sequence[str]) -> list[Any]:
        """Values from the store; None for those it does not have. One that does not answer is no reason to hang:
        torch would wait for it, so a thread does.
        """
        if not self._is_heard:
            raise self._lost_store()
        answers: list[Any] = []

        def ask() -> None:
            try:
                answers.append([json.loads(self._store.get(key)) if self._store.check([key]) else None for key in keys])
            except RuntimeError as error:
                answers.append(error)

        thread = threading.Thread(target=ask, name="functaconv-store", daemon=True)
        thread.start()
        thread.join(self._timeout)
        self._is_heard = bool(answers) and not isinstance(answers[0], RuntimeError)
        if not self._is_heard:
            raise self._lost_store()
        found: list[Any] = answers[0]
        return found


class _Patience:
    """How long ranks are waited for: until there was no sign of life for so long of those that are missing."""

    def __init__(self, waiting: _Joined, ranks: Sequence[int]) -> None:
        self._waiting, self._ranks = waiting, ranks
        self._looked = self._since = time.monotonic()
        self._seen: list[Any] = []

    def look(self) -> None:
        """Raise what another rank ended with, or the error that names who is missing."""
        waiting, now = self._waiting, time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        if (failure := waiting._failure()) is not None:
            raise failure
        notes = dict(zip(self._ranks, waiting._get([f"note/{rank}" for rank in self._ranks]), strict=True))
        late = [rank for rank, note in notes.items() if note is None or note[0] < waiting._step] or self._ranks
        signs = [notes[rank] for rank in late]
        if signs != self._seen:
            self._since = now if self._seen else self._since
            self._seen = signs
        if now - self._since > waiting._timeout:
            raise waiting._lost(late, f"did not come to {waiting._place} in {waiting._timeout:g} s")


def _timeout() -> float:
    text = os.environ.get("FUNCTACONV_RANK_TIMEOUT", "")
    try:
        seconds = float(text or TIMEOUT)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"FUNCTACONV_RANK_TIMEOUT is {text!r:.100}, which is no number of seconds")
    return seconds


@cache
def _store() -> "Store":
    """Kept as long as the process: the first rank may be where it is."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(rendezvous("env://", timeout=timedelta(seconds=_timeout())))[0]
    return store


def _is_kept_by_launcher() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _pauses() -> Iterator[float]:
    """Ever longer ones, for ever."""
    return (min(SLOWEST_POLL, 0.001 * 1.5**number) for number in itertools.count())


def _told(error: BaseException, rank: int) -> dict[str, Any]:
    """An error, for the other ranks."""
    if isinstance(error, FunctaconvError):
        return {"kind": type(error).__name__, "message": str(error), "hint": error.hint, "code": error.exit_code}
    return {"kind": "", "message": f"rank {rank} failed: {type(error).__name__}: {error}", "hint": None, "code": 1}


def _echo(told: Mapping[str, Any]) -> FunctaconvError:
    """The error of another rank, as it would be here."""
    kind = getattr(errors, told["kind"], FunctaconvError)
    error: FunctaconvError = kind(told["message"], told["hint"])
    error.exit_code = told["code"]
    return error
