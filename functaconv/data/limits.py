"""What one item may cost, and what all items that are decoded at once: what is beyond is refused, or waits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LARGE = 256 << 20
"""bytes in memory from which items are decoded one after another"""
MOST_AHEAD = 192 << 20
"""bytes in memory of all items that are decoded before somebody asks for them"""
_ONE_AT_A_TIME = threading.RLock()
_HERE = threading.local()


@dataclass(frozen=True, slots=True)
class Limits:
    """Above any item that can be fitted in reasonable time, below what would fill a small machine."""

    member: int = 256 << 20
    """bytes of one member of an archive, or of one file"""
    text: int = 1 << 20
    """bytes of a json, txt or cls member: the axes of a large grid. As Python objects they take thirty times as much"""
    attributes: int = 1 << 16
    """characters of JSON that travel with an item: a functaset keeps thousands of rows of them in a file"""
    name: int = 1 << 12
    """characters of a member's name: longer than any path"""
    record: int = 256 << 20
    """bytes of all members of one record together"""
    members: int = 10_000
    """of one record"""
    pixels: int = 178_956_970
    """width x height of an image: where Pillow, too, speaks of a decompression bomb"""
    expanded: int = 512 << 20
    """bytes of the decoded array"""


DEFAULT_LIMITS = Limits()


class StoppedAhead(BaseException):
    """Nobody asks for this result any more."""


class Room:
    """Memory that calls share which run ahead of who wants their results. Whoever is asked for need not wait."""

    def __init__(self, most: int = MOST_AHEAD) -> None:
        self._most, self._taken = most, 0
        self._changed = threading.Condition()
        self._is_closed = False

    def close(self) -> None:
        """Ends those who wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Place:
    """What one call has of a room."""

    def __init__(self, room: Room) -> None:
        self._room, self._taken, self._is_asked = room, 0, False

    def take(self, needed: int) -> None:
        """Wait until there are so many bytes, or until the call is asked for its result."""
        room = self._room
        with room._changed:
            room._changed.wait_for(lambda: self._is_asked or room._is_closed or room._taken + needed <= room._most)
            if room._is_closed:
                raise StoppedAhead
            room._taken += needed
            self._taken += needed

    def ask(self) -> None:
        with self._room._changed:
            self._is_asked = True
            self._room._changed.notify_all()

    def leave(self) -> None:
        """The result is in other hands."""
        with self._room._changed:
            self._room._taken -= self._taken
            self._taken = 0
            self._room._changed.notify_all()

    def run(self, function: Callable[..., object], *arguments: object) -> object:
        """Call a function, of which all that it decodes counts here."""
        _HERE.place = self
        try:
            return function(*arguments)
        finally:
            _HERE.place = None


@contextmanager
def room_for(needed: int) -> Iterator[None]:
    """While an item is decoded that needs so many bytes: of large ones there is one at a time, whatever the threads."""
    place: Place | None = getattr(_HERE, "place", None)
    if place is not None:
        place.take(needed)
        yield
        return
    if needed < LARGE:
        yield
        return
    with _ONE_AT_A_TIME:
        yield
