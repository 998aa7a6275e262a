"""Commands and stdin as streams."""

import atexit
import io
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from typing import IO, BinaryIO, cast

from functaconv.data.items import DamageError
from functaconv.data.naming import command_of


def pipe_stream(pipe: str) -> BinaryIO:
    """What a command writes to its stdout; run by the shell, in a process group of its own.

    One that ends with another status than 0 is a DamageError, also after an archive that looks whole. Closed before its
    end, the command and all it started are killed.
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
    return cast(BinaryIO, _PipeStream(process))


class _PipeStream(io.RawIOBase):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._output = cast(IO[bytes], process.stdout)
        # a thread that still reads it when Python ends would wait for ever
        atexit.register(self._kill)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._output.read(len(buffer)) or b""
        buffer[: len(content)] = content
        if not content and len(buffer) and (status := self._process.wait()):
            ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise DamageError(f"the command ended {ended}", hint="run the command by itself to see what is wrong")
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._output.close()
            self._kill()
            atexit.unregister(self._kill)
        super().close()

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
