"""Writing files whole or not at all, also in a power cut, and locking outputs against other processes."""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from functaconv.errors import OutputExistsError

# seconds between two calls of `check`
LOOK_EVERY = 1.0


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends without an error."""
    # the name is unique: two processes may write the same file, and the last one wins whole
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # without it a power cut may lose the new name
    sync(path.parent)


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace a file by this content, as `replacing` does; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def sync(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """`sync` a folder and all below it."""
    for folder, _, files in os.walk(root):
        for name in files:
            sync(Path(folder) / name)
        sync(Path(folder))


@contextmanager
def locked(output: Path, *, patience: float = 0.0, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of an output; the kernel gives it back when a process dies.

    OutputExistsError, with process and host, where another one has it after `patience` seconds. Meanwhile `check`,
    which may raise, is called every second.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_name(f".{output.name}.lock")
    lock, until = FileLock(file), time.monotonic() + patience
    while not lock.is_locked:
        try:
            lock.acquire(timeout=min(patience, LOOK_EVERY))
        except Timeout:
            if time.monotonic() >= until:
                raise OutputExistsError(
                    f"{output} is being written by another run{_holder(file)}",
                    hint="wait until it is done, stop it, or choose another name",
                ) from None
            check()
    try:
        file.write_text(f"pid {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        # before the release: a process that waits for the lock makes a file of its own
        with suppress(OSError):
            file.unlink()
        lock.release()


def _holder(file: Path) -> str:
    """The process and host that hold a lock, as they wrote it into the file."""
    try:
        holder = file.read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        return ""
    return f": {holder}" if holder else ""
