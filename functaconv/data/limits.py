"""Limits on what one item may take; items above them fail. Large items are not decoded ahead of their turn."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")

# bytes of an array and what it is made from; below lies a photograph of 20 million pixels
LARGE = 128 << 20
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
