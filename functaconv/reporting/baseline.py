"""PCA on the training items as the yardstick: as many numbers per item, the best that a linear code can do."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from functaconv.base import Base
from functaconv.data.shards import index_shard, is_seekable
from functaconv.errors import InputError
from functaconv.functaset.reader import Functaset
from functaconv.metrics import psnr
from functaconv.modalities import Modality, modality_of
from functaconv.modalities.reading import Reading
from functaconv.reporting.comparison import read_items
from functaconv.reporting.pca import MOST_BYTES, Analysis, Pca, analysis, cells_of
from functaconv.reporting.result import Table
from functaconv.signals.batch import Batch, batched
from functaconv.signals.grid import AnyGrid
from functaconv.signals.loader import prefetched
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal

BATCH = 256


@dataclass(eq=False)
class Baseline:
    """Fitted on training items, then shown the originals of the functaset."""

    numbers: int
    train_items: int = 0
    whole: Pca | None = None
    """over all values of an item"""
    cells: Pca | None = None
    """spatial latents: over the values of a site's cell, with a site's numbers"""
    sites: tuple[int, ...] = ()
    reason: str | None = None
    """why there is no `whole`"""
    grid: AnyGrid | None = None
    """where the points of all training items lie; None before any was read"""
    mask: bytes | None = None
    """digest of the mask that all training items share; PCA is over what it leaves"""
    normalizer: Normalizer = field(default_factory=lambda: Normalizer.of_code_range(1))
    """one range for all levels: the unit of PSNR"""
    modality: Modality = field(default_factory=lambda: modality_of(""))
    whole_mse: np.ndarray = field(default_factory=lambda: np.zeros(0))
    whole_agreement: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cells_mse: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def is_empty(self) -> bool:
        return self.whole is None and self.cells is None

    def mismatch(self, batch: Batch) -> str | None:
        """Why values of a batch do not stand for the same places as those of the training items."""
        if batch.grid != self.grid:
            return "items lie on different grids"
        is_shared = batch.valid is None or batch.mask_key is not None
        return None if is_shared and batch.mask_key == self.mask else "items miss different values"

    def see(self, batch: Batch) -> None:
        """Measure the rows of a batch."""
        if self.is_empty:
            return
        if reason := self.mismatch(batch):
            self.whole, self.cells, self.reason = None, None, reason
            return
        positions, features = np.array(batch.positions), self.normalizer.features(batch)
        if self.whole is not None:
            rows = _known(batch, features)
            reconstructed = self.whole.reconstruct(rows)
            self.whole_mse[positions] = (rows - reconstructed).square().mean(-1).cpu().numpy()
            if self.modality.agreement_measure is not None:
                self.whole_agreement[positions] = self.modality.agreement(reconstructed, rows).cpu().numpy()
        cells = None if self.cells is None else cells_of(features, batch.shape, self.sites)
        if self.cells is not None and cells is not None:
            error = self.cells.error(cells).reshape(len(batch), -1).mean(1)
            self.cells_mse[positions] = error.cpu().numpy()

    def to_json(self, functaset: Functaset, table: Table, ours: float) -> dict[str, Any]:
        """The entry of the report; `ours` is the functaset's own mean PSNR over the same items."""
        entry: dict[str, Any] = {"psnr": None, "reason": self.reason}
        if self.whole is not None:
            mean = _mean_psnr(self.whole_mse, functaset, table)
            entry = {
                "psnr": _rounded(mean),
                "numbers": self.numbers,
                "train_items": self.train_items,
                "difference": _rounded(ours - mean),
            }
            if self.modality.agreement_measure is not None:
                # thresholded as the functaset is
                name = self.modality.agreement_measure.report
                entry[name] = _rounded(float(np.nanmean(self.whole_agreement)))
        if self.cells is not None:
            entry["psnr_per_patch"] = _rounded(_mean_psnr(self.cells_mse, functaset, table))
        return entry


def fit_baseline(functaset: Functaset, base: Base, reading: Reading, shards: Sequence[str]) -> Baseline:
    """PCA on the items of the shards, with as many numbers as the functaset's latents have."""
    baseline = Baseline(functaset.layout.numbers, sites=base.sites, modality=base.axes.modality)
    baseline.normalizer = replace(base.normalizer, levels={})
    baseline.whole_mse, baseline.cells_mse, baseline.whole_agreement = np.full((3, len(functaset)), np.nan)
    shapes = np.unique(functaset.shapes, axis=0)
    if len(shapes) != 1:
        baseline.reason = "the items have different shapes" if len(shapes) else "there are no items"
        return baseline
    shape = tuple(shapes[0].tolist())
    values = math.prod(shape) * base.axes.channels
    rows = None
    if not reading.tile and all(map(is_seekable, shards)):
        rows = sum(len(index_shard(shard)) for shard in shards)
    if baseline.numbers >= values:
        baseline.reason = f"the latent holds {baseline.numbers} numbers, an item has {values} values"
    whole = None if baseline.reason else analysis(values, rows, base.device)
    if whole is None and baseline.reason is None:
        baseline.reason = f"it would take more than {MOST_BYTES >> 30} GiB for items of {values} values"
    cells = _of_cells(base, shape, rows)
    try:
        if whole is not None or cells is not None:
            _read(baseline, reading, shards, shape, whole, cells)
    except _UnsuitableError as error:
        baseline.reason = str(error)
        return baseline
    if whole is not None:
        baseline.train_items = whole.rows
        if whole.rows < baseline.numbers:
            baseline.reason = f"{whole.rows} training items are fewer than {baseline.numbers} numbers"
        else:
            baseline.whole = whole.pca(baseline.numbers)
    if cells is not None and cells.rows >= base.latent:
        baseline.cells = cells.pca(base.latent)
    return baseline


def _known(batch: Batch, features: Tensor) -> Tensor:
    """The values of each item that are not missing, `[item, value]`."""
    rows = features.flatten(1)
    return rows if batch.valid is None else rows[:, batch.valid[0].flatten().to(rows.device)]


class _UnsuitableError(Exception):
    """The training items are not made for PCA; the message says why."""


def _of_cells(base: Base, shape: tuple[int, ...], rows: int | None) -> Analysis | None:
    if not base.sites or any(size % count for size, count in zip(shape, base.sites, strict=True)):
        return None
    values = math.prod(shape) // math.prod(base.sites) * base.axes.channels
    if base.latent >= values:
        return None
    every = None if rows is None else rows * math.prod(base.sites)
    return analysis(values, every, base.device)


def _read(
    baseline: Baseline,
    reading: Reading,
    shards: Sequence[str],
    shape: tuple[int, ...],
    whole: Analysis | None,
    cells: Analysis | None,
) -> None:
    for batch in prefetched(batched(_signals(reading, shards, shape), BATCH)):
        if baseline.grid is None:
            baseline.grid, baseline.mask = batch.grid, batch.mask_key
        if reason := baseline.mismatch(batch):
            raise _UnsuitableError(reason)
        features = baseline.normalizer.features(batch)
        if whole is not None:
            whole.add(_known(batch, features))
        # a mask cuts through cells
        if cells is not None and batch.valid is None:
            cut = cells_of(features, batch.shape, baseline.sites)
            cells.add(cut if cut is not None else features.flatten(1))
    if baseline.grid is None:
        raise InputError("no training item can be decoded", hint="`functaconv inspect --verify` lists why")


def _signals(reading: Reading, shards: Sequence[str], shape: tuple[int, ...]) -> Iterator[tuple[int, Signal]]:
    for read in read_items(shards, reading):
        for tile in read.tiles:
            if tile.signal.shape != shape:
                sizes = ["x".join(map(str, size)) for size in (tile.signal.shape, shape)]
                raise _UnsuitableError(f"a training item is {sizes[0]}, the items of the functaset {sizes[1]}")
            yield 0, tile.signal


def _mean_psnr(mse: np.ndarray, functaset: Functaset, table: Table) -> float:
    by_item = psnr(table.items.mse(mse.astype(np.float32), functaset.shapes))
    by_item = by_item[~np.isnan(by_item)]
    return float(by_item.mean()) if len(by_item) else math.nan


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
