"""JSON: what comes from outside is read only within bounds, so that a small text cannot fill the memory."""

import json
import re
import threading
from collections.abc import Iterable
from typing import Any

LITERALS = threading.RLock()
"""held while numpy has Python parse an array's header: before 3.11.5 two threads that do so trip over each other"""
MOST_DEPTH = 64
"""lists and objects within each other; what writes JSON again later must not run out of stack either"""
_ABSENT = "nothing"
_LONE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(content: bytes, *, most_values: int) -> Any:
    """The value in `content`; ValueError where that is no JSON, too deep, or more than `most_values` values."""
    openings = content.count(b"[") + content.count(b"{")
    # every value but the first follows one of these; those within texts count too, which does no harm
    if openings + content.count(b",") > most_values:
        raise ValueError(f"more than {most_values} values")
    try:
        # json itself would take UTF-16 too, and half pairs of it
        value = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError(f"more than {MOST_DEPTH} levels deep") from None
    if openings > MOST_DEPTH:
        _check_depth(value)
    if _LONE.search(content):
        # half a pair of UTF-16: Python takes it, and no file or terminal does
        json.dumps(value, ensure_ascii=False).encode()
    return value


def differences(found: Any, asked: Any, name: str = "") -> list[str]:
    """Each place where two JSON values differ, with both values."""
    if isinstance(found, dict) and isinstance(asked, dict):
        names = sorted(found.keys() | asked.keys())
        return [
            line
            for key in names
            for line in differences(found.get(key, _ABSENT), asked.get(key, _ABSENT), f"{name}.{key}".removeprefix("."))
        ]
    return [] if found == asked else [f"{name}: found {found!r}, asked for {asked!r}"]


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [inner for outer in level for inner in _within(outer) if isinstance(inner, (dict, list))]
        if not level:
            return
    raise ValueError(f"more than {MOST_DEPTH} levels deep")


def _within(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
