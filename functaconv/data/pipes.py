"""Commands and stdin as streams; a command that is silent for long is an error."""

import atexit
import io
import os
import select
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from typing import IO, BinaryIO, cast

from functaconv.data.items import DamageError
from functaconv.data.naming import command_of, shown
from functaconv.data.patience import SILENCE_HINT, source_timeout
from functaconv.errors import ServiceError


def pipe_stream(pipe: str) -> BinaryIO:
    """What a command writes to its stdout; run by the shell, in a process group of its own.

    A command that is silent for too long is a ServiceError; one that ends with another status than 0 a DamageError,
    also after an archive that looks whole. Closed before its end, the command and all it started are killed.
    """
    # the command is the user's own, and was allowed
    process = subprocess.Popen(  # noqa: S602
        command_of(pipe),
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    return cast(BinaryIO, _PipeStream(process, shown(pipe), source_timeout()))


class _PipeStream(io.RawIOBase):
    def __init__(self, process: subprocess.Popen[bytes], name: str, timeout: float) -> None:
        self._process, self._name, self._timeout = process, name, timeout
        self._output = cast(IO[bytes], process.stdout)
        # a thread that still reads it when Python ends would wait for ever
        atexit.register(self._kill)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not _is_ready(self._output.fileno(), self._timeout):
            raise ServiceError(f"{self._name} has sent nothing for {self._timeout:g} s", hint=SILENCE_HINT)
        content = self._output.read(len(buffer)) or b""
        buffer[: len(content)] = content
        if not content and len(buffer):
            self._check_status()
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._output.close()
            self._kill()
            atexit.unregister(self._kill)
        super().close()

    def _check_status(self) -> None:
        try:
            status = self._process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            raise ServiceError(
                f"{self._name} has closed its output and not ended for {self._timeout:g} s", hint=SILENCE_HINT
            ) from None
        if status:
            ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise DamageError(f"the command ended {ended}", hint="run the command by itself to see what is wrong")

    def _kill(self) -> None:
        # after `wait` the number may belong to another process group
        if self._process.returncode is None:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def stdin_stream() -> BinaryIO:
    """stdin without Python's buffer, whose lock a thread that waits for input would hold when Python ends."""
    stdin = sys.stdin.buffer
    try:
        descriptor = stdin.fileno()
    except OSError:
        return stdin
    return stdin if stat.S_ISREG(os.fstat(descriptor).st_mode) else cast(BinaryIO, io.FileIO(descriptor, closefd=False))


def _is_ready(descriptor: int, timeout: float) -> bool:
    """Whether there is something to read, or the end, before the time is over; always where that cannot be asked."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
