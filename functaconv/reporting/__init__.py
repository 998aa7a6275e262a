"""Reporting: the quality of a functaset item by item, checked against its shards."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from functaconv.base import Base
from functaconv.checkpoint import base_of
from functaconv.data.expansion import expand_shards
from functaconv.errors import FunctaconvError, UsageError, VerificationError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.reporting.baseline import fit_baseline
from functaconv.reporting.comparison import Comparer
from functaconv.reporting.page import BEST, WORST, to_csv, to_html
from functaconv.reporting.result import ItemQuality, Report, Table, mean_of
from functaconv.reporting.seams import measured_seams
from functaconv.reporting.thumbnails import can_show
from functaconv.signals.device import device_of, matmul_precision
from functaconv.summary import of_measures, rounded

__all__ = ["ItemQuality", "Report", "Table", "report", "to_csv", "to_html"]


def report(
    functaset: Functaset | str | os.PathLike[str],
    *,
    against: str | Sequence[str] | None = None,
    train: str | Sequence[str] | None = None,
    baseline: str | None = None,
    min_psnr: float | None = None,
    allow_pipe: bool = False,
    device: str = "auto",
    progress: bool = False,
) -> Report:
    """Quality and size of a functaset, from its stored numbers.

    `against` (shards) checks that: every item is decoded with the base inside and compared with its original, where
    latents are canonical also with only the first of its numbers (`psnr_by_numbers`, per site).
    `baseline` and `train` (shards) add what PCA makes of the same items with as many numbers. `complaint` is the
    error for disagreements, or for a mean PSNR below `min_psnr`. Shards may be `pipe:COMMAND` only with `allow_pipe`.
    """
    _check_request(against, train, baseline)
    if not isinstance(functaset, Functaset):
        functaset = open_functaset(functaset)
    if functaset.is_truncated:
        raise UsageError(
            "a report is about all the numbers that are stored",
            hint="of the whole functaset it says what fewer are worth; `encode --keep` stores fewer",
        )
    table, summary = Table.of(functaset), dict(functaset.report)
    problems: list[str] = []
    mean = float(table.psnr.mean()) if len(table) else math.nan
    originals: dict[int, np.ndarray] = {}
    if against is not None:
        place = device_of(device)
        with matmul_precision("auto", place), torch.inference_mode():
            shards = expand_shards(against, allow_pipe=allow_pipe)
            comparer = Comparer(functaset, table, base_of(functaset, place), shards)
            yardstick = None
            if train is not None:
                training = expand_shards(train, allow_pipe=allow_pipe)
                yardstick = fit_baseline(functaset, comparer.base, comparer.reading, training)
            also = [] if yardstick is None else [yardstick.measure]
            comparison = comparer.compare(pictured=_pictured(table, comparer.base), also=also, progress=progress)
            seams = measured_seams(functaset, comparer.base)
        originals = comparison.pictures
        recomputed = table.quality(comparison.mse)
        table = replace(table, found_psnr=recomputed)
        problems += comparison.describe()
        compared, ours = int((~np.isnan(recomputed)).sum()), mean_of(recomputed)
        is_compared = ~np.isnan(comparison.mse)
        summary["against"] = {
            "items": compared,
            "psnr_mean": rounded(ours),
            "largest_difference_db": rounded(comparison.largest) if compared else None,
            "missing": len(comparison.missing),
            "extra": len(comparison.extra),
            **of_measures(
                functaset.layout.kind,
                {name: values[is_compared] for name, values in comparison.measures.items()},
                functaset.attributes.variables,
                functaset.attributes.units,
            ),
        }
        if comparison.mse_by_numbers:
            summary["psnr_by_numbers"] = {
                str(keep): rounded(mean_of(table.quality(mse))) for keep, mse in comparison.mse_by_numbers.items()
            }
        if functaset.layout.sites or functaset.layout.tiled:
            summary["seams"] = None if seams is None else round(seams, 4)
        if yardstick is not None:
            summary["pca"] = yardstick.to_json(table, ours)
    return Report(summary, table, functaset, _complaint(problems, mean, min_psnr, len(table)), originals)


def _check_request(
    against: str | Sequence[str] | None, train: str | Sequence[str] | None, baseline: str | None
) -> None:
    if baseline not in (None, "pca"):
        raise UsageError(f"there is no baseline {baseline!r}", hint="pca")
    if baseline is not None and train is None:
        raise UsageError("PCA needs items to learn from", hint="--train SHARDS, the shards the base was learned on")
    if baseline is not None and against is None:
        raise UsageError(
            "PCA is measured on the originals of the functaset's items", hint="--against SHARDS, those it was made from"
        )
    if train is not None and baseline is None:
        raise UsageError("training shards are for a baseline", hint="--baseline pca")


def _pictured(table: Table, base: Base) -> set[int]:
    """The items that a page shows, where items are pictures."""
    if not can_show(base.axes):
        return set()
    return {item.number for item in (*table.ranked(WORST), *table.ranked(BEST, best=True))}


def _complaint(problems: Sequence[str], mean: float, min_psnr: float | None, count: int) -> FunctaconvError | None:
    if problems:
        return VerificationError(
            "; ".join(problems),
            hint="are these the shards it was encoded from? `functaconv inspect --verify` reads all of the functaset",
        )
    if min_psnr is not None and not (count and mean >= min_psnr):
        mean_text = f"{mean:.2f} dB" if count else "that of no item"
        return VerificationError(f"the mean PSNR is {mean_text}, less than --min-psnr {min_psnr:g}")
    return None
