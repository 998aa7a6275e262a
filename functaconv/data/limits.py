"""Limits on what one item may take; items above them fail. Large items are not decoded ahead of their turn.

They are above any item that can be fitted in reasonable time, and below what would fill a small machine.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# bytes of one member of an archive, or of one file
MEMBER = 256 << 20
# bytes of a json, txt or cls member: the axes of a large grid. As Python objects they take thirty times as much
TEXT = 1 << 20
# characters of JSON that travel with an item: a functaset keeps thousands of rows of them in a file
ATTRIBUTES = 1 << 16
# characters of a member's name: longer than any path
NAME = 1 << 12
# bytes of all members of one record together, and how many they are
RECORD, MEMBERS = 256 << 20, 10_000
# width x height of an image: where Pillow, too, speaks of a decompression bomb
PIXELS = 178_956_970
# bytes of the decoded array
EXPANDED = 512 << 20
# bytes of an array and what it is made from; below lies a photograph of 20 million pixels
LARGE = 128 << 20
_HERE = threading.local()


class DecodeLaterError(BaseException):
    """An item is too large to be decoded ahead. A BaseException, so that no handler of decoding errors catches it."""


def check_ahead(needed: int) -> None:
    """DecodeLaterError in a thread that decodes ahead and is about to take `needed` bytes, when that is `LARGE`."""
    if needed >= LARGE and getattr(_HERE, "is_ahead", False):
        raise DecodeLaterError


def run_ahead(call: Callable[[], Result]) -> Result:
    """The result of a call made ahead of its turn: `check_ahead` stops it where it would take much memory."""
    _HERE.is_ahead = True
    try:
        return call()
    finally:
        _HERE.is_ahead = False
