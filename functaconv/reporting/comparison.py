"""A functaset against the shards it was made from: every item decoded again and compared with its original."""

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from functaconv.base import Base
from functaconv.data.decoders.transform import ImageTransform, Size
from functaconv.data.naming import shown
from functaconv.data.shards import read_records
from functaconv.errors import InputError
from functaconv.functaset.files import problems
from functaconv.functaset.reader import Functaset
from functaconv.joining import Joined
from functaconv.measuring import Measures, compare, measure_joined, sample, samples
from functaconv.metrics import psnr
from functaconv.modalities import Axes
from functaconv.modalities.reading import DecodedRecord, Reading
from functaconv.reporting.result import Table
from functaconv.reporting.thumbnails import original
from functaconv.shapes import Features
from functaconv.signals.batch import Batch, batched
from functaconv.signals.loader import map_ahead, prefetched
from functaconv.signals.signal import Signal
from functaconv.signals.tiles import Tile
from functaconv.words import counted

TOLERANCE_DB = 0.01
# root mean square that float32 arithmetic may differ by from device to device: it shows above 60 dB
NOISE = 1e-6
# lengths to which latents are cut, to see what fewer numbers are worth
MOST_LENGTHS = 9
# bytes of the originals in a batch; decoding takes several times as much
MOST_BYTES = 32 << 20

RowErrors = Callable[[Batch], None]
"""told of a batch of rows, by position: what else is to be computed from the originals"""


class EncodeSettings(BaseModel):
    """How the items were read when they were encoded; functasets of other programs may not say."""

    field: str | None = None
    resize: Size | None = None
    crop: Size | None = None
    tile: int | None = None
    limit: int | None = None
    footprint: str = "point"

    @classmethod
    def of(cls, functaset: Functaset) -> "EncodeSettings":
        try:
            return cls.model_validate(functaset.attributes.settings)
        except ValidationError as error:
            raise InputError(
                f"{functaset.path}: the settings in zarr.json are damaged: {problems(error)}",
                hint="restore zarr.json from a copy, or encode again with --overwrite",
            ) from None

    def reading(self, axes: Axes, overlap: tuple[int, ...]) -> Reading:
        return Reading(axes, self.field, ImageTransform(self.resize, self.crop), self.tile, overlap)


def read_items(
    shards: Sequence[str], reading: Reading, *, limit: int | None = None, damaged: frozenset[str] = frozenset()
) -> Iterator[DecodedRecord]:
    """Every record that has an array, in order, decoded in parallel. Shards named in `damaged` may end too early."""
    taken = 0
    for number, shard in enumerate(shards):
        records = islice(read_records(shard, number), None if limit is None else max(0, limit - taken))
        try:
            for read in map_ahead(reading.decoded, records, workers=os.cpu_count() or 1):
                taken += 1
                if read.tiles or read.reason is not None:
                    yield read
        except InputError:
            if _file_name(shard) not in damaged:
                raise


def _file_name(shard: str) -> str:
    """What a shard is called wherever it lies."""
    return Path(shown(shard)).name


@dataclass(eq=False)
class Comparison:
    """The errors of every item beside its original, and where functaset and shards disagree."""

    mse: np.ndarray
    """float32 `[row]`, as decoded just now; NaN for rows without an original"""
    different: list[str] = field(default_factory=list)
    """items that are not as good, or not as large, as the functaset says, each with both values"""
    missing: list[str] = field(default_factory=list)
    """keys of items in the shards that the functaset lacks"""
    extra: list[str] = field(default_factory=list)
    """keys of items in the functaset that the shards lack"""
    largest: float = 0.0
    """dB"""
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    """the modality's measures, by name"""
    mse_by_numbers: dict[int, np.ndarray] = field(default_factory=dict)
    """canonical latents: `mse` when only the first so many numbers of every site are kept"""
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    """small pictures of originals, by item"""

    def describe(self) -> list[str]:
        """Disagreements between functaset and shards, in words."""
        kinds = (
            ("not as the functaset says", self.different),
            ("in the shards, not in the functaset", self.missing),
            ("in the functaset, not in the shards", self.extra),
        )
        return [f"{counted(len(keys), 'item')} {kind}: {_listed(keys)}" for kind, keys in kinds if keys]


class Comparer:
    """Decodes every row of a functaset beside its original."""

    def __init__(self, functaset: Functaset, table: Table, base: Base, shards: Sequence[str]) -> None:
        self.functaset, self.table, self.base, self.shards = functaset, table, base, shards
        self.settings = EncodeSettings.of(functaset)
        sample(base, self.settings.footprint)
        self.reading = self.settings.reading(base.axes, functaset.layout.overlap)
        self._is_alone = np.zeros(len(functaset), bool)
        self._is_alone[table.items.first[~table.items.is_tiled]] = True
        self._in_tiles = dict[int, Signal]()
        """items in tiles that are to be compared as a whole, by their first row"""
        self.result = Comparison(np.full(len(functaset), np.nan, np.float32))
        self.result.measures = {
            name: np.full_like(functaset.measure(name), np.nan) for name in base.axes.modality.measure_names
        }
        if base.is_canonical:
            self.result.mse_by_numbers = {
                keep: np.full(len(functaset), np.nan, np.float32) for keep in lengths(base.latent)
            }

    def compare(
        self, *, pictured: Collection[int] = (), also: Sequence[RowErrors] = (), progress: bool = False
    ) -> Comparison:
        """Read the shards once; `also` sees the same originals, of which those of the items `pictured` are shown."""
        base, own_mse = self.base, self.result.mse
        rows = self._rows(pictured, progress)
        size = 64 if base.device.type == "cpu" else 1024
        batches = prefetched(batched(rows, size, most_bytes=MOST_BYTES, pin=base.device.type == "cuda"))
        for read in batches:
            batch = read.to(base.device)
            positions = np.array(batch.positions)
            for compute in also:
                compute(batch)
            for row in batch.positions:
                if (item := self._in_tiles.pop(row, None)) is not None:
                    self._compare_joined(row, item)
            is_alone = self._is_alone[positions]
            if not is_alone.any():
                continue
            features = base.normalizer.features(batch)
            latents = torch.from_numpy(self._latents(positions)).reshape(len(batch), -1, base.latent)
            latents = latents.to(base.device)
            measured = measures_of(base, batch, features, samples(base, latents, batch.grid))
            own_mse[positions] = np.where(is_alone, measured.pop("mse"), own_mse[positions])
            for name, values in measured.items():
                self.result.measures[name][positions] = values
            for keep, mse in self.result.mse_by_numbers.items():
                if keep == base.latent:
                    mse[positions] = own_mse[positions]
                    continue
                # numbers that are left out are 0, the middle of their range
                first = torch.cat([latents[..., :keep], torch.zeros_like(latents[..., keep:])], -1)
                cut = samples(base, first, batch.grid)
                mse[positions] = np.where(is_alone, measures_of(base, batch, features, cut)["mse"], mse[positions])
        self._judge()
        return self.result

    def _compare_joined(self, first: int, item: Signal) -> None:
        """An item in tiles, of which `first` is the first row, as it is rendered; all its rows have its error."""
        rows = int(self.table.items.rows[np.searchsorted(self.table.items.first, first)])
        joined, row_range = Joined.stored(self.base, self.functaset, first, rows), slice(first, first + rows)
        for keep, mse in (self.result.mse_by_numbers or {self.base.latent: self.result.mse}).items():
            mse[row_range] = np.nan_to_num(measure_joined(joined.kept(keep), item), nan=np.inf, posinf=np.inf)
            if keep == self.base.latent:
                self.result.mse[row_range] = mse[row_range]

    def _latents(self, rows: np.ndarray) -> np.ndarray:
        # a run of rows is read several times as fast as the same rows one by one
        is_run = len(rows) == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all()
        return self.functaset.latents(slice(int(rows[0]), int(rows[-1]) + 1) if is_run else rows)

    def _rows(self, pictured: Collection[int], progress: bool) -> Iterator[tuple[int, Signal]]:
        """Each original with the row it belongs to; items that match nothing are noted."""
        items, result = self.table.items, self.result
        waiting: dict[str, deque[int]] = {}
        for number, key in enumerate(items.keys):
            waiting.setdefault(str(key), deque()).append(number)
        failures = self.functaset.failures
        failed = Counter(one.key for one in failures)
        # a shard that was damaged when it was encoded is so still
        damaged = frozenset(_file_name(one.shard) for one in failures if not one.key)
        reads: Iterable[DecodedRecord] = read_items(
            self.shards, self.reading, limit=self.settings.limit, damaged=damaged
        )
        if progress:
            from tqdm.auto import tqdm

            reads = tqdm(reads, total=len(items) + len(failures), desc="report", unit="item")
        for read in reads:
            key = read.record.key
            if failed[key] and (read.reason is not None or not waiting.get(key)):
                failed[key] -= 1
            elif not waiting.get(key):
                result.missing.append(key)
            elif read.reason is not None:
                waiting[key].popleft()
                result.different.append(f"{key} (cannot be read from the shards: {read.reason})")
            elif self._fits(number := waiting[key].popleft(), read.tiles):
                if number in pictured:
                    result.pictures[number] = original(read.tiles[0].item, self.base.normalizer)
                if len(read.tiles) > 1:
                    self._in_tiles[int(items.first[number])] = read.tiles[0].item
                yield from enumerate((tile.signal for tile in read.tiles), start=int(items.first[number]))
        result.extra += [key for key, numbers in waiting.items() for _ in numbers]

    def _fits(self, number: int, tiles: tuple[Tile, ...]) -> bool:
        """The original has the stored item's shape, and as many tiles."""
        items = self.table.items
        first, count = int(items.first[number]), int(items.rows[number])
        stored = self.functaset.shapes[first : first + count].tolist()
        if [list(tile.signal.shape) for tile in tiles] == stored:
            if tiles[0].signal.own_grid in (None, self.functaset.native_grid(first)):
                return True
            self.result.different.append(f"{items.keys[number]} (lies on another grid than is stored)")
            return False
        sizes = ["x".join(map(str, shape)) for shape in (items.shape[number].tolist(), tiles[0].item.shape)]
        self.result.different.append(f"{items.keys[number]} (stored as {sizes[0]}, {sizes[1]} in the shards)")
        return False

    def _judge(self) -> None:
        """List the items whose error is not the stored one."""
        table, result = self.table, self.result
        now = table.items.mse(result.mse)
        recomputed, stored = psnr(now), table.psnr
        with np.errstate(invalid="ignore"):
            off = np.abs(recomputed - stored)
        # equal infinities, and what was not compared
        off[(recomputed == stored) | np.isnan(recomputed)] = 0
        result.largest = float(off.max()) if len(off) else 0.0
        is_noise = np.abs(np.sqrt(now) - np.sqrt(table.mse)) <= NOISE
        for number in np.flatnonzero((off > TOLERANCE_DB) & ~is_noise):
            values = f"{stored[number]:.2f} dB stored, {recomputed[number]:.2f} found"
            result.different.append(f"{table.items.keys[number]} ({values})")


def lengths(latent: int) -> list[int]:
    """`latent` and the powers of two below it: all of them, or evenly every second, third, ... one."""
    powers = [*(2**power for power in range((latent - 1).bit_length())), latent]
    every = math.ceil(len(powers) / MOST_LENGTHS)
    return powers[::-every][::-1]


def measures_of(base: Base, batch: Batch, features: Features, decoded: Features) -> Measures:
    """The measures of decoded features; an infinite error where there is no number: NaN is what was not compared."""
    measures = compare(base, batch, features, decoded)
    return {**measures, "mse": np.nan_to_num(measures["mse"], nan=np.inf, posinf=np.inf)}


def _listed(texts: Sequence[str], most: int = 10) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
