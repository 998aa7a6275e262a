"""Reading JSON that others wrote; nested tables merged, and the differences between two values."""

import json
import re
from collections.abc import Mapping
from typing import Any

from functaconv.errors import InputError

# lists and objects within each other; what writes JSON again later must not run out of stack either
MAX_DEPTH = 64
_ABSENT = "nothing"
_LONE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(content: bytes) -> Any:
    """The value in `content`; ValueError where that is no JSON, too deep, or could not be written again.

    The caller limits the size: a value takes some thirty bytes for each of the text's.
    """
    try:
        # json itself would take UTF-16 too, and half pairs of it
        value = json.loads(content.decode("utf-8-sig"))
        # no text is deeper than it has brackets
        if content.count(b"[") + content.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            raise RecursionError
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels deep") from None
    if _LONE.search(content):
        # half a pair of UTF-16: Python takes it, and no file or terminal does
        json.dumps(value, ensure_ascii=False).encode()
    return value


def other_version(name: str, version: object, known: int) -> InputError:
    """The error for a file of a version of its format that cannot be read."""
    return InputError(
        f"{name} has version {version!r:.80} of its format; this functaconv reads {known}",
        hint="install the functaconv that wrote it, or a newer one",
    )


def differences(before: Any, asked: Any, name: str = "") -> list[str]:
    """Each place where two JSON values differ, with both values."""
    if isinstance(before, dict) and isinstance(asked, dict):
        names = sorted(before.keys() | asked.keys())
        return [
            line
            for key in names
            for line in differences(
                before.get(key, _ABSENT), asked.get(key, _ABSENT), f"{name}.{key}".removeprefix(".")
            )
        ]
    return [] if before == asked else [f"{name}: found {before!r}, asked for {asked!r}"]


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(each) for each in inner if isinstance(each, (dict, list))), default=0)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, with those of `over` in place of, or beside, those of `under`.

    A table of another kind (of network, of solver) takes nothing over: it has options of its own.
    """
    if "kind" in under and over.get("kind", under["kind"]) != under["kind"]:
        return dict(over)
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result
