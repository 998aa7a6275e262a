"""What one item may cost: a file beyond is refused before memory is taken for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LARGE = 256 << 20
"""bytes in memory from which items are decoded one after another"""
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True)
class Limits:
    """Above any item that can be fitted in reasonable time, below what would fill a small machine."""

    member: int = 256 << 20
    """bytes of one member of an archive, or of one file"""
    text: int = 16 << 20
    """bytes of a json, txt or cls member: as Python objects they take thirty times as much"""
    pixels: int = 178_956_970
    """width x height of an image: where Pillow, too, speaks of a decompression bomb"""
    expanded: int = 512 << 20
    """bytes of the decoded array, and of all members of one record together"""


DEFAULT_LIMITS = Limits()


@contextmanager
def room_for(needed: int) -> Iterator[None]:
    """While an item is decoded that needs so many bytes: of large ones there is one at a time, whatever the threads."""
    if needed < LARGE:
        yield
        return
    with _ONE_AT_A_TIME:
        yield
