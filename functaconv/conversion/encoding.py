"""From a block of decoded records to the rows of a functaset."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from functaconv.conversion.places import grids_of, seconds_of
from functaconv.conversion.reading import ReadBlock
from functaconv.conversion.work import Work
from functaconv.functaset.blocks import DAMAGED, Block, Failure
from functaconv.functaset.schema import MEASURES, columns
from functaconv.measuring import measure
from functaconv.metrics import psnr
from functaconv.signals.batch import Signal, batched
from functaconv.signals.loader import prefetched

MOST_TOGETHER = {"cpu": 16 << 20, "cuda": 1 << 30}
"""bytes of the values of a batch: fitting takes up to a hundred for each of a byte"""
INFINITE_DB = 200.0
"""what a perfect item counts in a running mean"""


@dataclass
class Pace:
    """How an encoding goes: what this process has done, in this run."""

    items: int = 0
    failed: int = 0
    rows: int = 0
    sum_of_psnr: float = 0.0
    seconds: float = 0.0
    records: int = 0

    @property
    def items_per_second(self) -> float | None:
        return self.items / self.seconds if self.items and self.seconds else None

    @property
    def mean_psnr(self) -> float:
        return self.sum_of_psnr / self.rows if self.rows else float("nan")


@dataclass
class _Fitted:
    """Rows by position in the block, and why some are not to be used."""

    latent: np.ndarray
    measures: dict[str, np.ndarray]
    reasons: dict[int, str]


def encode_block(work: Work, shard: str, block: ReadBlock, pace: Pace, report: Callable[[int], None]) -> Block:
    """Fit, quantise, measure. `report` is called after every batch with how many records of the block are done."""
    tiles = [(number, tile) for number, read in enumerate(block.reads) for tile in read.tiles]
    fitted = _fit(
        work, [tile.signal for _, tile in tiles], pace,
        lambda rows: report(round(len(block.reads) * rows / len(tiles))),
    )  # fmt: skip
    # an image with a tile that cannot be fitted is lost as a whole
    lost = {tiles[position][0]: reason for position, reason in sorted(fitted.reasons.items(), reverse=True)}
    reasons = {number: read.reason for number, read in enumerate(block.reads) if read.reason is not None} | lost
    failures = [
        Failure(shard, block.reads[number].number, block.reads[number].key, reason)
        for number, reason in sorted(reasons.items())
    ]
    if block.damage is not None:
        failures.append(Failure(shard, block.consumed, "", DAMAGED + block.damage))
    kept = [position for position, (number, _) in enumerate(tiles) if number not in lost]
    places = [tiles[position][1] for position in kept]
    pace.items += len({tiles[position][0] for position in kept})
    pace.failed += len(failures)
    axes = work.stored.base.axes.dims
    measures = {name: values[kept] for name, values in fitted.measures.items()}
    mse = measures.pop("mse")
    meta = [_meta(place.signal) for place in places]
    return Block(
        latent=fitted.latent[kept],
        keys=[place.signal.key for place in places],
        label=np.array([place.signal.label for place in places], np.int64),
        shape=np.array([place.signal.shape for place in places], np.int32).reshape(-1, axes),
        mse=mse,
        psnr=psnr(mse).astype(np.float32),
        record=np.array([block.reads[tiles[position][0]].number for position in kept], np.int32),
        records=block.consumed,
        last_key=block.last_key,
        meta=meta if any(text != "null" for text in meta) else None,
        tile=None
        if work.tile is None
        else np.array([[*place.origin, *place.whole] for place in places], np.int32).reshape(-1, 2 * axes),
        measures=measures,
        grids=grids_of([place.signal for place in places]) if work.layout.modality == "grid" else None,
        failures=failures,
        ignored=sum(read.is_ignored for read in block.reads),
    )


def _meta(signal: Signal) -> str:
    """What the input said of the item, as JSON; what has a column or a grid of its own is there."""
    said = signal.attributes or {}
    if signal.globe is not None and seconds_of(said) is not None:
        said = {name: value for name, value in said.items() if name != "time"}
    return json.dumps(said) if said else "null"


@torch.no_grad()
def _fit(work: Work, signals: Sequence[Signal], pace: Pace, report: Callable[[int], None]) -> _Fitted:
    base, quantiser, layout = work.stored.base, work.quantiser, work.layout
    shape = (*layout.sites, layout.latent)
    measures = {
        column.name: np.zeros((len(signals), *column.tail), np.float32)
        for column in columns(layout, meta=False)
        if column.name in ("mse", *MEASURES.get(layout.modality, ()))
    }
    fitted = _Fitted(np.zeros((len(signals), *shape), quantiser.dtype), measures, {})
    done, chunk = 0, base.chunk(work.batch_size)
    device = base.device.type
    room = MOST_TOGETHER[device]
    batches = batched(enumerate(signals), work.batch_size, most_bytes=room, pin=device == "cuda")
    for batch in prefetched(batches):
        # the same chunks for short batches too: how an item is summed up must not depend on where a run began
        found = base.encode(batch, steps=work.steps, min_gain=work.min_gain, chunk=chunk)
        latents = found.latents
        # here a batch waits for the device: between the inner loop and the quantiser, and below for its error
        values = latents.cpu().numpy().reshape(len(batch), *shape)
        positions = np.array(batch.positions)
        fits = quantiser.fits(values)
        stored = quantiser.quantise(np.where(fits.reshape(-1, *(1,) * len(shape)), values, 0))
        kept = torch.from_numpy(quantiser.dequantise(stored).reshape(latents.shape)).to(base.device)
        measured = measure(base, batch, kept, found)
        mse = measured["mse"]
        fits &= np.isfinite(mse)
        fitted.latent[positions] = stored
        for name, values in measured.items():
            measures[name][positions] = values
        for position in positions[~fits]:
            fitted.reasons[int(position)] = f"the fit diverged (latents not finite, or too large for {work.bits})"
        pace.rows += int(fits.sum())
        pace.sum_of_psnr += float(psnr(mse[fits]).clip(max=INFINITE_DB).sum())
        done += len(batch)
        report(done)
    return fitted
