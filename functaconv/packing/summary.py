"""What `pack` tells: what was written, what was not, and what the source may have been meant as."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from functaconv.data.ignored import most_ignored
from functaconv.errors import FunctaconvError, InputError, TooManyFailuresError
from functaconv.files import replace_bytes
from functaconv.packing.reading import Failure, Packed, Sample
from functaconv.packing.stacks import looks_like_a_stack

_MAX_TOLD = 8
# arrays whose axes are looked at
_MAX_LOOKED_AT = 1000


@dataclass(frozen=True, slots=True)
class PackSummary:
    """What `pack` wrote, and what it did not."""

    count: int
    failed: int
    ignored: Mapping[str, int]
    """what the source holds that is not packed, by kind"""
    shards: tuple[str, ...]
    """names in the target directory; none for a stream"""
    bytes: int
    """of all shards"""
    classes: tuple[str, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()
    """warnings of libraries, once with the file's name, and hints at what the source may have been meant as"""
    complaint: FunctaconvError | None = field(default=None, compare=False)
    """more failed than were allowed"""

    def to_json(self) -> dict[str, Any]:
        shown = ("count", "failed", "ignored", "shards", "bytes", "classes")
        return {name: getattr(self, name) for name in shown}


class Account:
    """Failures, and what is ignored, counted while samples pass through."""

    def __init__(self, ignored: Counter[str]) -> None:
        self.ignored = ignored
        self.failures: list[Failure] = []
        self.has_labels = False
        """whether any item has one: variables of several sub-folders that are joined have none"""
        self._hint: str | None = None
        self._axes: dict[str, tuple[int, ...]] = {}
        self._variables: Counter[tuple[str, ...]] = Counter()

    def samples(self, outcomes: Iterable[Iterable[Packed]]) -> Iterator[Sample]:
        for packed in chain.from_iterable(outcomes):
            self.ignored.update(packed.ignored)
            if packed.failure is not None:
                self.failures.append(packed.failure)
                self._hint = self._hint or packed.hint
            if packed.sample is not None:
                self.has_labels = self.has_labels or "cls" in packed.sample
                if packed.variables:
                    self._variables[packed.variables] += 1
                if packed.array is not None and len(self._axes) < _MAX_LOOKED_AT:
                    self._axes[packed.array[0]] = packed.array[1]
                yield packed.sample

    def hints(self) -> Iterator[str]:
        """Notes about items that cannot be learned together, and about arrays that may hold many items."""
        if len(self._variables) > 1:
            sets = "; ".join(f"{', '.join(names)} ({count})" for names, count in self._variables.most_common(_MAX_TOLD))
            yield f"items of different variables, of which one set can be learned: {sets}; --variable chooses"
        lists = {axes[0]: name for name, axes in self._axes.items() if len(axes) == 1}
        stack_like = {name: axes for name, axes in self._axes.items() if looks_like_a_stack(axes, lists)}
        if stack_like:
            name, axes = next(iter(stack_like.items()))
            more = f" (and {len(stack_like) - 1} more like it)" if len(stack_like) > 1 else ""
            labels = f" --labels {lists[axes[0]]}" if axes[0] in lists else ""
            yield f"{name} is one item of shape {axes}{more}; if it holds {axes[0]}: --split-axis 0{labels}"

    def nothing(self, source: str) -> InputError:
        """The error for a source of which nothing could be packed."""
        reasons = "; ".join(f"{failure.path}: {failure.reason}" for failure in self.failures[:3])
        ignored = f"; ignored: {most_ignored(self.ignored)}" if self.ignored else ""
        return InputError(
            f"none of the {len(self.failures)} files in {source} can be packed ({reasons}){ignored}", hint=self._hint
        )

    def complaint(self, count: int, max_error_rate: float) -> FunctaconvError | None:
        failed = len(self.failures)
        if failed <= max_error_rate * (count + failed):
            return None
        first = self.failures[0]
        return TooManyFailuresError(
            f"{failed} of {count + failed} items failed, more than --max-error-rate {max_error_rate:g}; the first: "
            f"{first.path}: {first.reason}",
            hint="the others are packed; mend these, or allow more with --max-error-rate",
        )


def describe(target: Path, summary: PackSummary, settings: Mapping[str, Any]) -> None:
    """Write pack.json, and classes.txt and failed.jsonl if there are any."""
    if summary.classes:
        replace_bytes(target / "classes.txt", "".join(f"{name}\n" for name in summary.classes).encode())
    if summary.failures:
        lines = (json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in summary.failures)
        replace_bytes(target / "failed.jsonl", "".join(lines).encode())
    text = json.dumps({**summary.to_json(), **settings}, indent=1, ensure_ascii=False)
    replace_bytes(target / "pack.json", (text + "\n").encode())
