"""PCA on the training items as the yardstick: as many numbers per item, the best that a linear code can do."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.data.shards import index_shard
from functaconv.data.storage import is_seekable
from functaconv.errors import InputError
from functaconv.functaset.reader import Functaset
from functaconv.modalities.reading import Reading
from functaconv.reporting.comparison import read_items
from functaconv.reporting.pca import MOST_BYTES, Analysis, Pca, analysis, cells_of, of_incomplete
from functaconv.reporting.result import Table, mean_of
from functaconv.signals.batch import Batch, batched
from functaconv.signals.grid import AnyGrid
from functaconv.signals.loader import prefetched
from functaconv.signals.signal import Signal
from functaconv.summary import rounded

BATCH = 256
# of items with gaps: values, masks, and what a round makes of them
BYTES_PER_VALUE = 24


class _UnsuitableError(Exception):
    """The training items are not made for PCA; the message says why."""


class _GapsError(Exception):
    """Training items miss different values."""


@dataclass(eq=False)
class Baseline:
    """Fitted on training items, then measured on the originals of a functaset."""

    functaset: Functaset
    base: Base
    train_items: int = 0
    whole: Pca | None = None
    """over all values of an item"""
    cells: Pca | None = None
    """spatial latents: over the values of a site's cell, with a site's numbers"""
    reason: str | None = None
    """why there is no `whole`"""
    grid: AnyGrid | None = None
    """where the points of all training items lie; None before any was read"""
    mask: bytes | None = None
    """digest of the mask that all training items share; PCA is over the values that it leaves, and over all without"""

    def __post_init__(self) -> None:
        # one range for all levels: the unit of PSNR
        self.normalizer = replace(self.base.normalizer, levels={})
        self.whole_mse, self.cells_mse = np.full((2, len(self.functaset)), np.nan)
        measures = self.base.axes.modality.agreement_measures
        self.whole_agreement = {measure.name: np.full(len(self.functaset), np.nan) for measure in measures}

    def check(self, batch: Batch, *, is_training: bool = False) -> None:
        """_UnsuitableError where values of a batch are not those of the same places as the training items'; _GapsError
        for training items that miss values of their own.
        """
        if batch.grid != self.grid:
            raise _UnsuitableError("items lie on different grids")
        if is_training and (batch.mask_key != self.mask or (batch.valid is not None and self.mask is None)):
            raise _GapsError
        if self.mask is not None and batch.mask_key != self.mask:
            raise _UnsuitableError("items miss other values than the training items")

    def measure(self, batch: Batch) -> None:
        """Measure the rows of a batch; one that does not fit ends the measurement."""
        if self.whole is None and self.cells is None:
            return
        try:
            self.check(batch)
        except _UnsuitableError as error:
            self.whole, self.cells, self.reason = None, None, str(error)
            return
        positions, features = np.array(batch.positions), self.normalizer.features(batch)
        if self.whole is not None and self.mask is None and batch.valid is not None:
            rows = features.flatten(1)
            valid = batch.valid.flatten(1).to(rows.device).expand_as(rows)
            squares = (rows - self.whole.reconstruct(rows, valid)).square() * valid
            self.whole_mse[positions] = (squares.sum(1) / valid.sum(1)).cpu().numpy()
            # a cell with gaps is none
            self.cells = None
        elif self.whole is not None:
            rows = _known(batch, features)
            reconstructed = self._reconstructed(self.whole, rows)
            self.whole_mse[positions] = (rows - reconstructed).square().mean(-1).cpu().numpy()
            for name, values in self.base.axes.modality.agreement(reconstructed, rows).items():
                self.whole_agreement[name][positions] = values.cpu().numpy()
        cells = None if self.cells is None else cells_of(features, batch.shape, self.base.sites)
        if self.cells is not None and cells is not None:
            difference = cells - self._reconstructed(self.cells, cells)
            self.cells_mse[positions] = difference.square().mean(-1).reshape(len(batch), -1).mean(1).cpu().numpy()

    def _reconstructed(self, pca: Pca, rows: Tensor) -> Tensor:
        """Clipped where the base's own features are."""
        return self.base.clipped(pca.reconstruct(rows))

    def to_json(self, table: Table, ours: float) -> dict[str, Any]:
        """The entry of the report; `ours` is the functaset's own mean PSNR over the same items."""
        entry: dict[str, Any] = {"psnr": None, "reason": self.reason}
        if self.whole is not None:
            mean = mean_of(table.quality(self.whole_mse))
            entry = {
                "psnr": rounded(mean),
                "numbers": self.functaset.layout.numbers,
                "train_items": self.train_items,
                "difference": rounded(ours - mean),
            }
            for measure in self.base.axes.modality.agreement_measures:
                # thresholded as the functaset is
                entry[measure.report] = rounded(float(np.nanmean(self.whole_agreement[measure.name])))
        if self.cells is not None:
            entry["psnr_per_patch"] = rounded(mean_of(table.quality(self.cells_mse)))
        return entry


def fit_baseline(functaset: Functaset, base: Base, reading: Reading, shards: Sequence[str]) -> Baseline:
    """PCA on the items of the shards, with as many numbers as the functaset's latents have."""
    baseline, numbers = Baseline(functaset, base), functaset.layout.numbers
    shapes = np.unique(functaset.shapes, axis=0)
    if len(shapes) != 1:
        baseline.reason = "the items have different shapes" if len(shapes) else "there are no items"
        return baseline
    shape = tuple(shapes[0].tolist())
    values = math.prod(shape) * base.axes.channels
    count = None
    if not reading.tile and all(map(is_seekable, shards)):
        count = sum(len(index_shard(shard)) for shard in shards)
    if numbers >= values:
        baseline.reason = f"the latent holds {numbers} numbers, an item has {values} values"
    whole = None if baseline.reason else analysis(values, count, base.device)
    if whole is None and baseline.reason is None:
        baseline.reason = f"it would take more than {MOST_BYTES >> 30} GiB for items of {values} values"
    cells = _of_cells(base, shape, count)
    try:
        if whole is not None or cells is not None:
            try:
                _read(baseline, _signals(reading, shards, shape), whole, cells)
            except _GapsError:
                baseline.mask = whole = cells = None
                if baseline.reason is None:
                    _fit_with_gaps(baseline, _signals(reading, shards, shape), numbers)
    except _UnsuitableError as error:
        baseline.reason = str(error)
        return baseline
    if whole is not None:
        baseline.train_items = whole.rows
        if whole.rows < numbers:
            baseline.reason = f"{whole.rows} training items are fewer than {numbers} numbers"
        else:
            baseline.whole = whole.pca(numbers)
    if cells is not None and cells.rows >= base.latent:
        baseline.cells = cells.pca(base.latent)
    return baseline


def _known(batch: Batch, features: Tensor) -> Tensor:
    """The values of each item that are not missing, `[item, value]`."""
    rows = features.flatten(1)
    return rows if batch.valid is None else rows[:, batch.valid[0].flatten().to(rows.device)]


def _of_cells(base: Base, shape: tuple[int, ...], count: int | None) -> Analysis | None:
    if not base.sites or any(size % sites for size, sites in zip(shape, base.sites, strict=True)):
        return None
    values = math.prod(shape) // math.prod(base.sites) * base.axes.channels
    if base.latent >= values:
        return None
    return analysis(values, None if count is None else count * math.prod(base.sites), base.device)


def _read(
    baseline: Baseline, signals: Iterator[tuple[int, Signal]], whole: Analysis | None, cells: Analysis | None
) -> None:
    for batch in prefetched(batched(signals, BATCH)):
        if baseline.grid is None:
            baseline.grid, baseline.mask = batch.grid, batch.mask_key
        baseline.check(batch, is_training=True)
        features = baseline.normalizer.features(batch)
        if whole is not None:
            whole.add(_known(batch, features))
        # a mask cuts through cells
        if cells is not None and batch.valid is None:
            cut = cells_of(features, batch.shape, baseline.base.sites)
            cells.add(cut if cut is not None else features.flatten(1))
    if baseline.grid is None:
        raise InputError("no training item can be decoded", hint="`functaconv inspect --verify` lists why")


def _fit_with_gaps(baseline: Baseline, signals: Iterator[tuple[int, Signal]], numbers: int) -> None:
    """The same where training items miss values of their own: all are in memory."""
    rows, masks = [], []
    taken = 0
    for batch in prefetched(batched(signals, BATCH)):
        baseline.check(batch)
        rows.append(baseline.normalizer.features(batch).flatten(1))
        masks.append(torch.ones(rows[-1].shape, dtype=torch.bool) if batch.valid is None else
                     batch.valid.flatten(1).expand_as(rows[-1]))  # fmt: skip
        taken += BYTES_PER_VALUE * rows[-1].numel()
        if taken > MOST_BYTES:
            raise _UnsuitableError(f"it would take more than {MOST_BYTES >> 30} GiB for items with gaps")
    baseline.train_items = sum(map(len, rows))
    if baseline.train_items < numbers:
        raise _UnsuitableError(f"{baseline.train_items} training items are fewer than {numbers} numbers")
    device = baseline.base.device
    baseline.whole = of_incomplete(torch.cat(rows).to(device), torch.cat(masks).to(device), numbers)


def _signals(reading: Reading, shards: Sequence[str], shape: tuple[int, ...]) -> Iterator[tuple[int, Signal]]:
    for read in read_items(shards, reading):
        for tile in read.tiles:
            if tile.signal.shape != shape:
                sizes = ["x".join(map(str, size)) for size in (tile.signal.shape, shape)]
                raise _UnsuitableError(f"a training item is {sizes[0]}, the items of the functaset {sizes[1]}")
            yield 0, tile.signal
