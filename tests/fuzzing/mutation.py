"""Inputs that are almost right: bytes, numbers and JSON, changed at random in the ways that break readers."""

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1,
           2**63, 2**64 - 1, 10**9, 10**12, 10**30)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *NUMBERS, -(10**12), 0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), None, True, False, "", "x", "x" * 300,
    "../../outside", "/abs", "\0", "\ud800", "é", "1", [], {}, [[]], [1, 2], [-1], ["a"], {"a": 1}, {"name": "exec"},
    [0] * 50,
)  # fmt: skip
_DEEP = "\x01deep\x01"
_DEEPEST = "[" * 3000 + "]" * 3000


def mutated(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """The content with one to four changes."""
    result = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        random.choice(_CHANGES)(random, result, others)
    return bytes(result)


def _place(random: Random, content: bytearray, length: int = 0) -> int:
    # headers stand in front, and in a large file would hardly be met
    most = max(0, len(content) - length)
    return random.randint(0, min(most, 128) if random.random() < 0.4 else most)


def _flip(random: Random, content: bytearray, _: Sequence[bytes]) -> None:
    if content:
        content[_place(random, content, 1)] ^= 1 << random.randrange(8)


def _byte(random: Random, content: bytearray, _: Sequence[bytes]) -> None:
    if content:
        content[_place(random, content, 1)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x0A, random.randrange(256)))


def _integer(random: Random, content: bytearray, _: Sequence[bytes]) -> None:
    size = random.choice((2, 4, 8))
    at = _place(random, content, size)
    number = random.choice(NUMBERS) % (1 << 8 * size)
    content[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))


def _delete(random: Random, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(random, content)
    del content[at : at + random.choice((1, 2, 4, 16, 64, 512, random.randint(1, 1 + len(content))))]


def _repeat(random: Random, content: bytearray, _: Sequence[bytes]) -> None:
    at, size = _place(random, content), random.choice((1, 4, 16, 64, 512))
    content[at:at] = content[at : at + size] * random.choice((1, 1, 2, 8))


def _insert(random: Random, content: bytearray, _: Sequence[bytes]) -> None:
    at, size = _place(random, content), random.choice((1, 2, 4, 16, 512))
    content[at:at] = random.choice((bytes(size), b"\xff" * size, random.randbytes(size)))


def _splice(random: Random, content: bytearray, others: Sequence[bytes]) -> None:
    if others:
        other = random.choice(others)
        at, start = _place(random, content), random.randint(0, len(other))
        size = random.randint(0, len(other) - start)
        content[at : at + size] = other[start : start + size]


def _truncate(random: Random, content: bytearray, _: Sequence[bytes]) -> None:
    del content[_place(random, content) :]


def _written(random: Random, content: bytearray, _: Sequence[bytes]) -> None:
    """A number in text becomes another."""
    found = list(re.finditer(rb"[0-9]+", content[:4096]))
    if found:
        match = random.choice(found)
        content[match.start() : match.end()] = str(random.choice(NUMBERS)).encode()


_CHANGES: tuple[Callable[[Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip, _flip, _byte, _byte, _integer, _delete, _repeat, _insert, _splice, _truncate, _written,
)  # fmt: skip


def mutated_json(random: Random, value: Any) -> bytes:
    """JSON of the value with one to three of its parts changed, removed, repeated or moved."""
    changed = {"": json.loads(json.dumps(value))}
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(changed))
        holder, key = random.choice(places)
        random.choice(_JSON_CHANGES)(random, holder, key, places)
    text = json.dumps(changed.get(""))
    return text.replace(json.dumps(_DEEP), _DEEPEST).encode()


def _places(value: Any) -> Any:
    """Every holder with every key or index of it, all depths alike likely."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        for key, inner in holder.items() if isinstance(holder, dict) else enumerate(holder):
            yield holder, key
            if isinstance(inner, (dict, list)):
                waiting.append(inner)


def _replaced(random: Random, holder: Any, key: Any, _: Any) -> None:
    # not the constant itself: a later change must not reach into it
    holder[key] = json.loads(json.dumps(random.choice(VALUES)))


def _removed(random: Random, holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder, dict) and key:
        del holder[key]
    elif isinstance(holder, list):
        holder.pop(random.randrange(len(holder)))


def _renamed(random: Random, holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder, dict) and key:
        holder[random.choice((f"{key}x", key[:-1], "../../x", "/etc/passwd", "zarr.json", "c/0"))] = holder.pop(key)
    elif isinstance(holder, list):
        holder.append(json.loads(json.dumps(holder[key])))


def _swapped(random: Random, holder: Any, key: Any, places: Any) -> None:
    # a copy: an object within itself is no JSON
    other, name = random.choice(places)
    holder[key] = json.loads(json.dumps(other[name]))


def _deepened(random: Random, holder: Any, key: Any, _: Any) -> None:
    holder[key] = random.choice((_DEEP, [holder[key]], {"a": holder[key]}))


_JSON_CHANGES = (_replaced, _replaced, _replaced, _removed, _renamed, _swapped, _deepened)
