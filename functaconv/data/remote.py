"""An object on a server as one stream of bytes, however often the connection breaks."""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from functaconv.data.patience import LostError, Patience, Retries
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


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a server says of an object before its bytes: by this a changed one is noticed."""

    size: int | None = None
    etag: str | None = None
    modified: str | None = None

    @classmethod
    def of(cls, fingerprint: Mapping[str, Any]) -> "Announcement":
        """What `fingerprint` kept of one."""
        return cls(fingerprint.get("size"), fingerprint.get("etag"), fingerprint.get("modified"))

    def contradicts(self, other: "Announcement") -> bool:
        """Whether both say something, and not the same."""
        pairs = ((self.size, other.size), (self.etag, other.etag), (self.modified, other.modified))
        return any(ours is not None and theirs is not None and ours != theirs for ours, theirs in pairs)

    def completed(self, other: "Announcement") -> "Announcement":
        """With what only `other` says."""
        return Announcement(
            other.size if self.size is None else self.size,
            self.etag or other.etag,
            self.modified or other.modified,
        )


class RefusedError(Exception):
    """An answer other than the object."""

    def __init__(self, status: int, code: str = "", *, pause: float = 0.0) -> None:
        known = status in HTTPStatus._value2member_map_
        phrase = f"{status} {HTTPStatus(status).phrase}" if known else str(status)
        super().__init__(f"{phrase} ({code})" if code else phrase)
        self.status, self.pause = status, pause

    @property
    def is_for_now(self) -> bool:
        return self.status >= 500 or self.status in _FOR_NOW


class Body(Protocol):
    """An answer of which the bytes are still to come. All of it raises LostError when the connection does not hold."""

    announced: Announcement
    start: int
    """where in the object its first byte lies: 0 where the server knows no ranges"""

    def read(self, count: int, timeout: float) -> bytes:
        """At most `count` bytes, none at the end; LostError when none comes for `timeout` seconds."""

    def close(self) -> None: ...


class Remote(Protocol):
    """An object on a server."""

    def open(self, position: int, timeout: float) -> Body:
        """Ask for the bytes from `position` on; RefusedError for any other answer, LostError for none."""


class RemoteStream(io.RawIOBase):
    """Reads an object to the end that was announced: what breaks off is gone on with, where it broke off.

    `known` is what an earlier look found: a different object is a ChangedInputError, as is one that changes on the way.
    A server that refuses what nobody had yet is an InputError; one that does not answer, or later refuses what it gave
    before, is a ServiceError: the object may be sound, and the work can be gone on with.
    """

    def __init__(self, remote: Remote, name: str, patience: Patience, known: Announcement | None = None) -> None:
        self._remote, self._name, self._known = remote, name, known
        # a connection that hangs may be a lost one: half of the patience is for another
        self._wait = patience.timeout / 2
        self._retries = Retries(name, patience)
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
        return self._known or Announcement()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._retries.run(lambda: self._piece(len(buffer)), self._drop)
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, count: int) -> bytes:
        if not count or self._is_over:
            return b""
        body = self._connected()
        started = time.monotonic()
        piece = body.read(min(count, _CHUNK), self._wait)
        self._position += len(piece)
        self._retries.received(len(piece), time.monotonic() - started)
        size = None if self._known is None else self._known.size
        if not piece and size is not None and self._position < size:
            raise LostError(f"the server stopped at byte {self._position} of {size}")
        self._is_over = not piece
        return piece

    def _connected(self) -> Body:
        """An answer that stands at our position."""
        if self._body is not None:
            return self._body
        try:
            body = self._body = self._remote.open(self._position, self._wait)
        except RefusedError as error:
            raise self._judged(error) from None
        if self._known is not None and self._known.contradicts(body.announced):
            raise ChangedInputError(
                f"changed input: {self._name} is not what it was (size, ETag or date differ)",
                hint="put it back as it was, or start again with --overwrite",
            )
        self._known = body.announced if self._known is None else self._known.completed(body.announced)
        ahead = self._position - body.start
        if ahead < 0:
            raise LostError("the server answers with another range than was asked for")
        while ahead:
            passed = body.read(min(ahead, _CHUNK), self._wait)
            if not passed:
                raise LostError(f"the server stopped before byte {self._position}, where it was before")
            ahead -= len(passed)
        return body

    def _judged(self, error: RefusedError) -> Exception:
        said = f"the server answers {error}"
        if error.is_for_now:
            return LostError(said, pause=error.pause)
        if self._known is None:
            return InputError(f"{self._name}: {said}", hint=_HINTS.get(error.status, "check the URL"))
        if error.status in _GONE:
            return ChangedInputError(
                f"changed input: {self._name} is gone, or shorter than it was: {said}",
                hint="put it back as it was, or start again with --overwrite",
            )
        return ServiceError(
            f"{self._name}: {said}, which gave it before",
            hint="run the command again with fresh credentials, or a fresh URL",
        )

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
