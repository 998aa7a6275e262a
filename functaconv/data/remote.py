"""An object on a server as one stream of bytes, however often the connection breaks."""

import io
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from functaconv.data.patience import LostError, Retries, source_timeout
from functaconv.errors import ChangedInputError, InputError, ServiceError

_CHUNK = 1 << 20
_GONE = (404, 410, 412, 416)
# 408 and 425 ask for another try, 429 and 503 for less haste
_FOR_NOW = (408, 425, 429)
_HINTS = {
    401: "check the credentials",
    403: "check the credentials, or whether the URL has expired",
    404: "check the name",
}


Announcement = Mapping[str, str | int]
"""`size`, `etag` and `modified` of an object, as far as a server gives them: a changed object differs."""


class RefusedError(Exception):
    """An answer other than the object: its HTTP status, and a reason of our own."""

    def __init__(self, status: int, reason: str = "", hint: str | None = None) -> None:
        text = str(status)
        with suppress(ValueError):
            text += f" {HTTPStatus(status).phrase}"
        super().__init__(f"{text} ({reason})" if reason else text)
        self.status = status
        self.hint = hint or _HINTS.get(status, "check the URL")


@dataclass(frozen=True, slots=True)
class Body:
    """An answer whose bytes are still to be read."""

    announced: Mapping[str, str | int | None]
    """as an `Announcement`, None where the server does not say"""
    start: int
    """where in the object its first byte lies: 0 where the server knows no ranges"""
    read: Callable[[int], bytes]
    """at most so many bytes, at least one, none at the end; LostError where the connection does not hold"""
    close: Callable[[], None] = lambda: None


Remote = Callable[[int, float], Body]
"""Asks for the bytes from a position on, with a timeout in seconds; RefusedError for any other answer, LostError for
none."""


class RemoteStream(io.RawIOBase):
    """Reads an object to its announced end, and goes on where a connection broke.

    An object that differs from `known`, or changes while it is read, is a ChangedInputError. A server that refuses the
    object from the start is an InputError; one that does not answer, or refuses it later, is a ServiceError: the object
    may be sound, and the work can go on another time.
    """

    def __init__(self, remote: Remote, name: str, known: Announcement | None = None) -> None:
        self._remote, self._name, self._known = remote, name, known
        timeout = source_timeout()
        # a connection that hangs may be lost: half of the time is left for another one
        self._wait = timeout / 2
        self._retries = Retries(name, timeout)
        self._body: Body | None = None
        self._position = 0
        self._is_over = False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._drop()
        super().close()

    def announcement(self) -> Announcement:
        """What the server says of the object now."""
        self._retries.run(self._connected, self._drop)
        return self._known or {}

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._retries.run(lambda: self._piece(len(buffer)), self._drop)
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, count: int) -> bytes:
        if not count or self._is_over:
            return b""
        piece = self._connected().read(min(count, _CHUNK))
        self._position += len(piece)
        self._retries.received(len(piece))
        size = int((self._known or {}).get("size", 0))
        if not piece and self._position < size:
            raise LostError(f"the server stopped at byte {self._position} of {size}")
        self._is_over = not piece
        return piece

    def _connected(self) -> Body:
        """An answer that stands at our position."""
        if self._body is not None:
            return self._body
        try:
            body = self._body = self._remote(self._position, self._wait)
        except RefusedError as error:
            raise self._judged(error) from None
        known, now = self._known or {}, {name: value for name, value in body.announced.items() if value is not None}
        if any(known.get(name, value) != value for name, value in now.items()):
            raise ChangedInputError(
                f"changed input: {self._name} is not what it was (size, ETag or date differ)",
                hint="put it back as it was, or start again with --overwrite",
            )
        self._known = {**now, **known}
        ahead = self._position - body.start
        if ahead < 0:
            raise LostError("the server answers with another range than was asked for")
        while ahead:
            passed = body.read(min(ahead, _CHUNK))
            if not passed:
                raise LostError(f"the server stopped before byte {self._position}, where it was before")
            ahead -= len(passed)
        return body

    def _judged(self, error: RefusedError) -> Exception:
        answer = f"the server answers {error}"
        if error.status >= 500 or error.status in _FOR_NOW:
            return LostError(answer)
        if self._known is None:
            return InputError(f"{self._name}: {answer}", hint=error.hint)
        if error.status in _GONE:
            return ChangedInputError(
                f"changed input: {self._name} is gone, or shorter than it was: {answer}",
                hint="put it back as it was, or start again with --overwrite",
            )
        return ServiceError(
            f"{self._name}: {answer}, which gave it before",
            hint="run the command again with fresh credentials, or a fresh URL",
        )

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


def count_in(text: object) -> int | None:
    """A number of bytes; None for text that is no number, or has too many digits."""
    return int(str(text)) if re.fullmatch("[0-9]{1,18}", str(text)) else None
