"""Counting what shards hold, for `inspect`."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from functaconv.data.decoders import decode, usable_field
from functaconv.data.ignored import MOST_KINDS, OTHERS, ignore
from functaconv.data.items import Item, Record
from functaconv.data.naming import shown
from functaconv.data.noise import reading
from functaconv.data.shards import index_shard, read_records
from functaconv.data.storage import fingerprint, is_seekable
from functaconv.errors import InputError, ItemError
from functaconv.modalities.reading import count_ignored
from functaconv.signals.loader import map_ahead

# records that are decoded without --verify
FIRST_RECORDS = 64
# keys that are compared with each other: some 64 MiB of hashes
MOST_COMPARED = 1 << 20


@dataclass
class Survey:
    """Counts what shards hold, as they are read."""

    chosen: str | None = None
    """the suffix of the member that holds the array"""
    records: int | None = 0
    """None when only reading everything would tell"""
    looked_at: int = 0
    unusable: int = 0
    without_array: int = 0
    damaged: int = 0
    repeated: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    labels: Counter[bool] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, tuple[str, int]] = field(default_factory=dict)
    """problem without its numbers -> the first of its kind, and how many there are"""
    seen: set[int] = field(default_factory=set)

    def read(self, name: str, number: int, *, whole: bool) -> None:
        """All records with their arrays, or the headers of all and the arrays of the first."""
        ignored = self.ignored if whole else Counter[str]()
        # of several shards each shows a few
        most = None if whole else max(1, FIRST_RECORDS - self.looked_at)
        records = islice(read_records(name, number, ignored=ignored), most)
        try:
            for record, item, beside in map_ahead(self._examine, records, workers=os.cpu_count() or 1):
                self._count(int(whole and not record.is_joined))
                self._note(shown(name), record, item, beside)
                # not held while the next one is decoded
                del record, item
            if not whole:
                known = index_shard(name, ignored=self.ignored) if is_seekable(name) else None
                self._count(None if known is None else sum(not location.is_joined for location in known))
        except InputError as error:
            self.damaged += 1
            self._tell(str(error))

    def _examine(self, record: Record) -> tuple[Record, Item | str | None, Counter[str]]:
        """A record with its item, or the reason why there is none, or None where it holds no array; and what of it is
        ignored.
        """
        ignored = Counter[str]()
        if record.problem is None and usable_field(record, self.chosen) is None:
            count_ignored(replace(record, ignored={}), self.chosen, ignored)
            return record, None, ignored
        try:
            with reading(record.key):
                return record, decode(record, field=self.chosen, ignored=ignored), ignored
        except ItemError as error:
            return record, str(error), ignored

    def _count(self, records: int | None) -> None:
        self.records = None if self.records is None or records is None else self.records + records

    def _note(self, name: str, record: Record, item: Item | str | None, ignored: Counter[str]) -> None:
        if record.is_joined:
            return
        self.looked_at += 1
        for suffix in record.fields:
            ignore(self.suffixes, f".{suffix}")
        for kind, count in ignored.items():
            ignore(self.ignored, kind, count)
        # a number in place of the key: there may be millions
        key = hash(record.key)
        self.repeated += key in self.seen
        if len(self.seen) < MOST_COMPARED:
            self.seen.add(key)
        if isinstance(item, str):
            self.unusable += 1
            self._tell(item, f"{name}: record {record.record} ({record.key})")
        elif item is None:
            self.without_array += 1
        else:
            self.forms[f"{item.kind} {'x'.join(map(str, item.array.shape))} {item.array.dtype}"] += 1
            self.labels[item.label >= 0] += 1

    def _tell(self, problem: str, place: str = "") -> None:
        """Count a problem; the first of its kind is listed. Those that differ in numbers alone are of one kind."""
        kind = re.sub(r"\d+", "", problem.partition(" (")[0]) if place else problem
        if kind not in self.kinds and len(self.kinds) == MOST_KINDS:
            kind = OTHERS
        first, count = self.kinds.get(kind, (f"{place}: {problem}" if place else problem, 0))
        self.kinds[kind] = first, count + 1

    def listed(self) -> list[str]:
        return [first if count == 1 else f"{count} records like {first}" for first, count in self.kinds.values()]

    def facts(self, names: Sequence[str], verify: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "shards": len(names),
            "records": self.records,
            "bytes": sum(map(_bytes, names)),
            "looked_at": self.looked_at,
            "suffixes": dict(sorted(self.suffixes.items())),
            "ignored": dict(sorted(self.ignored.items())),
            "arrays": dict(self.forms.most_common(8)),
            "labelled": self.labels[True],
            "without_array": self.without_array,
        }
        if verify:
            facts |= {"unusable": self.unusable, "damaged_shards": self.damaged, "duplicate_keys": self.repeated}
        return facts


def _bytes(name: str) -> int:
    """The bytes of a shard; 0 where its server does not say."""
    try:
        return int(fingerprint(name).get("size", 0))
    except InputError:
        # told already
        return 0
