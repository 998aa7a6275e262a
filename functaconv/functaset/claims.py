"""Who works on what, where several processes write one functaset: a file for each thing that is taken.

A claim is a file that only one process can create. It names its owner and holds a count that goes up while the owner
lives: whether it does is told by that count, never by comparing clocks of different machines. Claims save work and
tell runs apart; the functaset would be right without them, since blocks appear whole and do not depend on who made
them.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from functaconv.documents import parse_json
from functaconv.errors import InputError, OutputExistsError
from functaconv.files import replace_bytes
from functaconv.functaset.files import damaged, read_bytes

try:
    import fcntl
except ImportError:
    # not a POSIX system
    fcntl = None  # type: ignore[assignment]

BEAT = 5.0
"""seconds between two signs of life"""
SILENCE = 30.0
"""seconds without one after which an owner on another machine counts as dead"""
SUFFIX = ".claim"
LOCK = ".claims.lock"
NOBODY = 0
"""the process of a claim that cannot be read"""
MOST_CLAIM = 1 << 16
"""bytes"""


@dataclass(frozen=True)
class Owner:
    """A process that claims."""

    run: str
    """the same for all processes of a run"""
    rank: int = 0
    count: int = 1
    """of processes in the run"""
    host: str = field(default_factory=socket.gethostname)
    machine: str = field(default_factory=lambda: _machine())
    """tells apart machines, and namespaces of one, in which a pid means different things"""
    pid: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = field(default_factory=os.getpid)
    born: str = field(default_factory=lambda: _born(os.getpid()) or "")
    """when the process began, in its kernel's terms: a pid may be used again"""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid} on {self.host})"

    def is_alive(self) -> bool | None:
        """None where that cannot be told from here."""
        if self.machine != _machine():
            return None
        found = _born(self.pid)
        return found is not None and found == self.born


@dataclass(frozen=True)
class _Written:
    """What stands in a claim."""

    owner: Owner
    beats: Annotated[int, Field(strict=True, ge=0, le=2**62)]


_WRITTEN = TypeAdapter(_Written)


@dataclass(frozen=True)
class Held:
    """Something that somebody else has."""

    name: str
    owner: Owner
    beats: int


class Claims:
    """The claims of one process in a folder. Threads may share it."""

    def __init__(
        self,
        folder: Path,
        owner: Owner,
        *,
        output: Path | None = None,
        is_over: Callable[[], bool] = lambda: False,
        beat: float = BEAT,
        silence: float = SILENCE,
    ) -> None:
        """`output` is what is being written, as its user calls it: by default what the folder is in. When `is_over`,
        nobody is waited for.
        """
        self.owner, self._output, self._is_over = owner, output or folder.parent, is_over
        self._folder, self._beat, self._silence = folder, beat, silence
        self._mine: dict[str, int] = {}
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._heart: threading.Thread | None = None

    def take(self, name: str) -> Held | None:
        """Claim something; who has it, if somebody else does.

        What a dead process left is taken over. OutputExistsError when a live process of another run has it. Of the same
        run nobody is waited for.
        """
        for _ in range(8):
            if self._create(name):
                return None
            held = self._read(name)
            if held is None:
                # given back just now
                continue
            if held.owner.token == self.owner.token:
                return None
            if self._is_dead(held):
                self._remove_of(held.owner, name)
                continue
            if held.owner.run == self.owner.run or self._is_over():
                return held
            if self.await_dead([name]):
                raise _of_another_run(self._output, held)
        return self._read(name)

    def give_back(self, name: str) -> None:
        """What was claimed is free, or done."""
        with self._lock:
            # by now it may be somebody else's
            if self._mine.pop(name, None) is not None:
                self._remove_of(self.owner, name)

    def await_dead(self, names: Sequence[str]) -> list[Held]:
        """Watch the owners of what others have until each has given a sign of life, or is known to be dead.

        Returns what is in the hands of the living.
        """
        first = {name: held for name in names if (held := self._read(name)) is not None}
        waiting = {name for name, held in first.items() if held.owner.is_alive() is None}
        while waiting and not self._is_over():
            time.sleep(min(0.2, self._beat / 4))
            for name in list(waiting):
                held, before = self._read(name), first[name]
                is_same = held is not None and (held.owner, held.beats) == (before.owner, before.beats)
                if held is None or not is_same or self._is_dead(held):
                    waiting.discard(name)
        found = (self._read(name) for name in first)
        return [held for held in found if held is not None and not self._is_dead(held)]

    def take_surely(self, name: str) -> Held | None:
        """Claim something; who has it, if somebody else does who is seen to live, or when it `is_over`."""
        while (held := self.take(name)) is not None:
            if self._is_over() or self.await_dead([name]):
                return held
        return None

    def insist(self, name: str) -> None:
        """Claim something; OutputExistsError when a live process has it, of whatever run."""
        if (held := self.take_surely(name)) is not None:
            raise _of_another_run(self._output, held)

    def check_alone(self) -> None:
        """OutputExistsError when a live process has anything in the folder."""
        names = [file.name.removesuffix(SUFFIX) for file in self._folder.glob(f"*{SUFFIX}")]
        if living := self.await_dead(names):
            raise _of_another_run(self._output, living[0])

    def has(self, name: str) -> bool:
        """Nobody has taken it from us, which happens to those who give no sign of life for long."""
        held = self._read(name)
        return held is not None and held.owner.token == self.owner.token

    def close(self) -> None:
        """Give everything back."""
        self._closed.set()
        if self._heart is not None:
            self._heart.join()
        for name in list(self._mine):
            self.give_back(name)

    def _create(self, name: str) -> bool:
        file = self._file(name)
        # complete before it has its name: nobody may read half a claim
        draft = file.with_name(f".{file.name}.{self.owner.token}.tmp")
        draft.write_bytes(_written(Held(name, self.owner, 0)))
        try:
            os.link(draft, file)
        except FileExistsError:
            return False
        except OSError:
            # a file system without hard links: creating it empty is the claim
            try:
                with file.open("xb") as created:
                    created.write(draft.read_bytes())
            except FileExistsError:
                return False
        finally:
            draft.unlink(missing_ok=True)
        with self._lock:
            self._mine[name] = 0
            if self._heart is None and not self._closed.is_set():
                self._heart = threading.Thread(target=self._live, name="functaconv-claims", daemon=True)
                self._heart.start()
        return True

    def _live(self) -> None:
        while not self._closed.wait(self._beat):
            with self._lock:
                for name in list(self._mine):
                    self._beat_once(name)

    def _beat_once(self, name: str) -> None:
        # no room on the disk, say: whoever writes the blocks will tell
        with suppress(OSError), self._alone():
            held = self._read(name)
            if held is not None and held.owner.pid == NOBODY:
                # it cannot be read just now
                return
            if held is None or held.owner.token != self.owner.token:
                # we were silent for so long that somebody else took it: our block will be the same as theirs
                del self._mine[name]
                return
            self._mine[name] += 1
            replace_bytes(self._file(name), _written(replace(held, beats=self._mine[name])))

    def _read(self, name: str) -> Held | None:
        for _ in range(5):
            try:
                content = read_bytes(self._folder, name + SUFFIX, MOST_CLAIM)
                found = _WRITTEN.validate_python(parse_json(content, most_values=MOST_CLAIM))
                return Held(name, found.owner, found.beats)
            except (InputError, ValueError):
                if not os.path.lexists(self._file(name)):
                    return None
                # half written, on a file system without hard links
                time.sleep(0.02)
        # of nobody: it is watched as others are, and taken over when nothing happens
        return Held(name, Owner("", -1, 0, "?", "?", NOBODY, "", f"unreadable {name}"), 0)

    def _is_dead(self, held: Held) -> bool:
        alive = held.owner.is_alive()
        if alive is not None:
            return not alive
        beats, since = self._seen.setdefault((held.name, held.owner.token), (held.beats, time.monotonic()))
        if beats != held.beats:
            self._seen[held.name, held.owner.token] = held.beats, time.monotonic()
            return False
        return time.monotonic() - since > self._silence

    def _remove_of(self, owner: Owner, name: str) -> None:
        """Remove an owner's claim, and no other: one process at a time looks and removes."""
        with self._alone():
            found = self._read(name)
            if found is not None and found.owner.token == owner.token:
                try:
                    self._file(name).unlink(missing_ok=True)
                except IsADirectoryError as error:
                    raise damaged(self._file(name), "not a file") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time."""
        with ExitStack() as stack:
            # no room for it, the folder is gone, or a link lies there
            with suppress(OSError):
                stack.enter_context(locked(stack.enter_context(_own_file(self._folder / LOCK))))
            yield

    def _file(self, name: str) -> Path:
        return self._folder / (name + SUFFIX)


@contextmanager
def _own_file(path: Path) -> Iterator[int]:
    """The descriptor of a file of ours, which no link leads out of the store and no pipe holds up."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _of_another_run(output: Path, held: Held) -> OutputExistsError:
    return OutputExistsError(
        f"{output} is being written by another run: {held.owner}",
        hint="wait until it is done, stop it, or choose another name",
    )


def _written(held: Held) -> bytes:
    return json.dumps({"owner": asdict(held.owner), "beats": held.beats}).encode()


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Alone with an open file or folder, as far as the file system knows locks: the kernel takes them from the dead."""
    if fcntl is None:
        yield
        return
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _machine() -> str:
    """A name for this kernel and pid namespace."""
    names = []
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            names.append(str(Path(file).readlink()) if "/ns/" in file else Path(file).read_text().strip())
    return " ".join(names) or f"{socket.gethostname()} {uuid.getnode()}"


def _born(pid: int) -> str | None:
    """When a process of this machine began; None for none. Where that is not told, "" for one that is there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except OSError:
        pass
    else:
        # the name, in parentheses, may hold anything; a zombie is as good as dead
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
