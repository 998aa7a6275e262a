"""Output of commands: results to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from functaconv.words import counted


def say(message: str) -> None:
    """A line to stderr. A stderr that is closed is no reason to fail."""
    try:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        pass


def write_json(value: Mapping[str, Any]) -> None:
    """One object on stdout, in one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def write_lines(lines: Iterable[str]) -> None:
    """Results for people, on stdout."""
    for line in lines:
        sys.stdout.write(line + "\n")


def table(rows: Iterable[tuple[str, object]]) -> list[str]:
    """Names and values, aligned; what is None is left out."""
    kept = [(name, str(value)) for name, value in rows if value is not None]
    width = max((len(name) for name, _ in kept), default=0)
    return [f"{name.ljust(width)}  {value}" for name, value in kept]


def decibels(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} dB"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The numbers of a functaset, for people."""
    from functaconv.summary import described

    return table(described(summary))


def by_numbers_lines(summary: Mapping[str, Any]) -> list[str]:
    """The PSNR with fewer numbers per site, for people; nothing where it was not measured."""
    known = {keep: value for keep, value in summary.get("psnr_by_numbers", {}).items() if value is not None}
    lines = [f"  {value:6.2f} dB  {counted(int(keep), 'number')}" for keep, value in known.items()]
    return ["", "with only the first numbers of each site", *lines] if lines else []
