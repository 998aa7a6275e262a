"""What one item may cost: what is beyond is refused. What is large is not decoded ahead of its turn."""

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
    """An item is too large to be decoded before it is asked for. No handler of errors is to take it for one."""


def check_ahead(needed: int) -> None:
    """DecodeLaterError where a thread that decodes ahead is about to take `needed` bytes, and those are many."""
    if needed >= LARGE and getattr(_HERE, "is_ahead", False):
        raise DecodeLaterError


def run_ahead(call: Callable[[], Result]) -> Result:
    """The result of a call that is made before anybody asks for it."""
    _HERE.is_ahead = True
    try:
        return call()
    finally:
        _HERE.is_ahead = False
