"""From decoded records to a block: fitted, quantised, measured."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from functaconv.conversion.progress import Progress
from functaconv.conversion.reading import Portion, read
from functaconv.conversion.tasks import Task
from functaconv.conversion.work import Work
from functaconv.data.naming import shown
from functaconv.functaset.blocks import DAMAGED, Block, Failure
from functaconv.functaset.codecs import Codec
from functaconv.functaset.grids import GridTable
from functaconv.functaset.schema import NO_TIME, columns
from functaconv.functaset.unfinished import Parts
from functaconv.joining import Joined
from functaconv.measuring import measure, measure_joined
from functaconv.metrics import psnr
from functaconv.modalities.reading import DecodedRecord
from functaconv.signals.batch import Batch
from functaconv.signals.device import matmul_precision
from functaconv.signals.loader import prefetched
from functaconv.signals.signal import Signal

# bytes of the values of a batch: fitting takes up to a hundred times as much
MOST_TOGETHER = {"cpu": 16 << 20, "cuda": 1 << 30}
Tell = Callable[[int, np.ndarray], None]
"""told after each batch how many records of the block are done, and the errors of the batch's items"""


@dataclass
class Job:
    """Reads and encodes tasks for an engine. Pickled for another process, it carries the work only."""

    work: Work
    parts: Parts | None = None
    progress: Progress | None = None
    records: dict[int, int] = field(default_factory=dict)
    """how many records of each shard have been read"""

    def __reduce__(self) -> tuple[Any, ...]:
        return Job, (self.work,)

    def announce(self, message: str) -> None:
        """Show a message of the engine to the user."""
        if self.progress is not None:
            self.progress.watcher.announce(message)

    def read(self, task: Task) -> Iterator[Portion]:
        """The portions of a task."""
        for portion in read(self.work, task):
            self.records[task.shard] = portion.stop
            yield portion
            # not held while the next one is decoded
            del portion

    def encode(self, portions: Iterator[Portion]) -> Iterator[Block]:
        """The blocks of the portions, but for those that another process has finished meanwhile."""
        tell = None if self.progress is None else self.progress.batch
        with matmul_precision(self.work.precision, self.work.stored.base.device):
            missing = self._missing(portions)
            while (block := encode_block(self.work, missing, tell)) is not None:
                yield block

    def _missing(self, portions: Iterator[Portion]) -> Iterator[Portion]:
        is_begin, is_done = True, False
        for portion in portions:
            if is_begin:
                is_done = self.parts is not None and self.parts.has(portion.shard, portion.number)
            is_begin = portion.is_end
            if not is_done:
                yield portion
            del portion


@dataclass
class _Fitted:
    """Rows by position in the portion, and why some are not to be used."""

    latent: np.ndarray
    measures: dict[str, np.ndarray]
    reasons: dict[int, str]


def encode_block(work: Work, portions: Iterator[Portion], tell: Tell | None = None) -> Block | None:
    """The block that the next portions make up; None at the end of them. It depends on nothing but its arguments."""
    parts: list[Block] = []
    table, done = GridTable(), 0
    for portion in portions:

        def report(share: float, mse: np.ndarray, portion: Portion = portion, before: int = done) -> None:
            if tell is not None:
                tell(before + round(share * len(portion.reads)), mse)

        parts.append(_encode(work, portion, table, report))
        done += len(portion.reads)
        is_end = portion.is_end
        # nothing of it is held while the next one is decoded
        del portion, report
        if is_end:
            return Block.joined(parts)
    return None


def _encode(work: Work, portion: Portion, table: GridTable, report: Callable[[float, np.ndarray], None]) -> Block:
    """The rows and failures of a portion."""
    reads = portion.reads
    tiles = [(number, tile) for number, read in enumerate(reads) for tile in read.tiles]
    fitted = _fit(work, [tile.signal for _, tile in tiles], report)
    _measure_joined(work, reads, fitted)
    # an item with a tile that cannot be fitted is lost as a whole
    lost = {tiles[position][0]: reason for position, reason in sorted(fitted.reasons.items(), reverse=True)}
    reasons = {number: read.reason for number, read in enumerate(reads) if read.reason is not None} | lost
    name = shown(work.names[portion.shard])
    failures = [
        Failure(name, reads[number].record.record, reads[number].record.key, reason, portion.shard)
        for number, reason in sorted(reasons.items())
    ]
    if portion.damage is not None:
        failures.append(Failure(name, portion.stop, "", DAMAGED + portion.damage, portion.shard))
    kept = [position for position, (number, _) in enumerate(tiles) if number not in lost]
    places = [tiles[position][1] for position in kept]
    axes = work.stored.base.axes.dims
    measures = {name: values[kept] for name, values in fitted.measures.items()}
    mse = measures.pop("mse")
    signals = [place.signal for place in places]
    rows = {
        "latent": fitted.latent[kept],
        "key": np.array([signal.key for signal in signals], object),
        "label": np.array([signal.label for signal in signals], np.int64),
        "shape": np.array([signal.shape for signal in signals], np.int32).reshape(-1, axes),
        "mse": mse,
        "psnr": psnr(mse).astype(np.float32),
        "record": np.array([reads[tiles[position][0]].record.record for position in kept], np.int32),
        **measures,
    }
    if work.layout.kind.has_coordinates:
        rows |= _grid_columns(work, table, signals)
    meta = [_meta(work, signal) for signal in signals]
    if any(text != "null" for text in meta):
        rows["meta"] = np.array(meta, object)
    if work.options.views > 1:
        rows["view"] = np.array([position % work.options.views for position in kept], np.int32)
    if work.options.tile is not None:
        origins = [[*place.origin, *place.item.shape] for place in places]
        rows["tile"] = np.array(origins, np.int32).reshape(-1, 2 * axes)
    return Block(
        shard=portion.shard,
        number=portion.number,
        start=portion.start,
        stop=portion.stop,
        is_last=portion.is_last,
        source=portion.source,
        run=work.digest,
        columns=rows,
        grids=table if work.layout.kind.has_coordinates else None,
        failures=failures,
        ignored=dict(portion.ignored),
    )


def _grid_columns(work: Work, table: GridTable, signals: Sequence[Signal]) -> dict[str, np.ndarray]:
    """The number of each item's axes and mask in the table, which holds each once, and its time."""
    grid, mask = np.full((2, len(signals)), -1, np.int32)
    time = np.full(len(signals), NO_TIME, np.int64)
    for row, signal in enumerate(signals):
        grid[row] = table.number(*work.layout.kind.stored_axes(signal.grid))
        mask[row] = table.mask_number(int(grid[row]), None if signal.valid is None else ~signal.valid)
        seconds = work.layout.kind.seconds(signal.attributes or {})
        if seconds is not None:
            time[row] = seconds
    return {"grid": grid, "mask": mask, "time": time}


def _meta(work: Work, signal: Signal) -> str:
    """The item's attributes as JSON, without those that the functaset keeps in columns or grids."""
    attributes = work.layout.kind.meta(signal.attributes or {})
    return json.dumps(attributes) if attributes else "null"


@torch.no_grad()
def _fit(work: Work, signals: Sequence[Signal], report: Callable[[float, np.ndarray], None]) -> _Fitted:
    base, codec, layout = work.stored.base, work.codec, work.layout
    shape = (*layout.sites, layout.latent)
    measures = {
        column.name: np.zeros((len(signals), *column.tail), np.float32)
        for column in columns(layout, meta=False)
        if column.name in ("mse", *layout.kind.measure_names)
    }
    fitted = _Fitted(np.zeros((len(signals), *shape), codec.dtype), measures, {})
    device, done = base.device.type, 0
    batches = (
        Batch.of([signals[position] for position in positions], positions, pin=device == "cuda")
        for positions in together(signals, work.batch_size, MOST_TOGETHER[device])
    )
    for batch in prefetched(batches):
        fit = base.encode(batch, steps=work.steps, min_gain=work.options.min_gain, chunk=work.chunk)
        latents = fit.latents
        # here a batch waits for the device: between the inner loop and the codec, and below for its error
        values = latents.cpu().numpy().reshape(len(batch), *shape)
        positions = np.array(batch.positions)
        fits = codec.fits(values)
        stored = codec.encode(np.where(fits.reshape(-1, *(1,) * len(shape)), values, 0))
        kept = torch.from_numpy(codec.decode(stored).reshape(latents.shape)).to(base.device)
        measured = measure(base, batch, kept, fit)
        mse = measured["mse"]
        fits &= np.isfinite(mse)
        fitted.latent[positions] = stored
        for name, values in measured.items():
            measures[name][positions] = values
        for position in positions[~fits]:
            fitted.reasons[int(position)] = f"the fit diverged (latents not finite, or too large for {codec.name})"
        done += len(batch)
        report(done / len(signals), mse[fits])
    return fitted


def _measure_joined(work: Work, reads: Sequence[DecodedRecord], fitted: _Fitted) -> None:
    """Items in tiles: the error of each tile becomes that of the whole item, joined as it is rendered."""
    first = 0
    for one in reads if work.options.tile is not None else ():
        rows = slice(first, first := first + len(one.tiles))
        if len(one.tiles) < 2 or any(row in fitted.reasons for row in range(rows.start, rows.stop)):
            continue
        latents = partial(_decoded, work.codec, fitted.latent[rows])
        origins = np.array([tile.origin for tile in one.tiles])
        shapes = np.array([tile.signal.shape for tile in one.tiles])
        item = one.tiles[0].item
        joined = Joined(work.stored.base, origins, shapes, item.shape, work.overlap, latents)
        fitted.measures["mse"][rows] = measure_joined(joined, item)


def _decoded(codec: Codec, stored: np.ndarray, some: slice) -> np.ndarray:
    return codec.decode(stored[some])


def together(signals: Sequence[Signal], size: int, most_bytes: int) -> Iterator[list[int]]:
    """Positions of signals that are fitted together: of one shape each, at most `size` and about `most_bytes`."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, signal in enumerate(signals):
        groups.setdefault(signal.batches_with, []).append(position)
    for group in groups.values():
        most = max(1, min(size, most_bytes // max(1, signals[group[0]].values.nbytes)))
        positions = iter(group)
        while chosen := list(islice(positions, most)):
            yield chosen
