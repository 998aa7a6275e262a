"""Going through all parts, and making a functaset of them."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm.auto import tqdm

import functaconv
from functaconv.conversion.encoding import DAMAGED, Pace, encode_block
from functaconv.conversion.reading import check_first_items, read_blocks
from functaconv.conversion.work import Work
from functaconv.errors import (
    ChangedInputError,
    FunctaconvError,
    InputError,
    OutputExistsError,
    TooManyFailuresError,
    VerificationError,
)
from functaconv.functaset.ledger import PARTS, Ledger, check_store
from functaconv.functaset.reader import open_functaset
from functaconv.functaset.schema import FAILED, MEASURES, Attributes, Quantisation, Solver
from functaconv.functaset.writer import FunctasetWriter
from functaconv.interruption import Stop, stopping
from functaconv.signals.device import matmul_precision
from functaconv.signals.loader import prefetched
from functaconv.signals.tiles import Tile
from functaconv.sources.decoders import USABLE_HINT
from functaconv.sources.images import ImageTransform
from functaconv.sources.webdataset import index_shard
from functaconv.summary import Items, Size, of_measures, raw_bytes, summarise

CONVENTION = "cell centres of the unit interval, square or cube; first axis first"
ON_THE_GLOBE = "latitude and longitude in degrees, as grids/<n> lists them; the base maps them to its coordinates"
PIPED = "what came through a pipe cannot be resumed: --overwrite begins anew"
FAR_FROM_TRAINING = 1.5
"""an image this many times larger or smaller along an axis than any in training deserves a warning"""


class Watcher:
    """Told how an encoding goes. This one says nothing."""

    def announce(self, message: str) -> None:
        """Something a user wants to know once."""

    def report(self, done: int, failed: int, total: int | None, mean_psnr: float) -> None:
        """Called after every batch: items so far, and of how many where that is known."""


class _Bar(Watcher):
    """A bar of tqdm, in a terminal or a notebook."""

    def __init__(self) -> None:
        self._bar = tqdm(unit="item")

    def announce(self, message: str) -> None:
        self._bar.write(message)

    def report(self, done: int, failed: int, total: int | None, mean_psnr: float) -> None:
        self._bar.total = total
        self._bar.set_postfix(dB=f"{mean_psnr:.2f}", failed=failed, refresh=False)
        self._bar.update(done - self._bar.n)


@dataclass(frozen=True)
class Encoded:
    """What came of `encode`."""

    path: Path
    report: dict[str, Any]
    """as `report.json` in the functaset"""
    complaint: FunctaconvError | None = None
    """why the exit code is not 0 although the functaset is there"""
    was_finished: bool = False


@dataclass(frozen=True)
class Plan:
    """What `encode --dry-run` shows."""

    shards: tuple[str, ...]
    records: int | None
    done: int
    numbers: int
    bytes_per_item: int

    def to_json(self) -> dict[str, Any]:
        return {
            "shards": len(self.shards),
            "records": self.records,
            "already_done": self.done,
            "numbers_per_item": self.numbers,
            "bytes_per_item": self.bytes_per_item,
            "bytes": None if self.records is None else self.records * self.bytes_per_item,
        }


def encode(
    base: Path | str,
    shards: str | Sequence[str],
    output: Path | str,
    *,
    steps: int | None = None,
    solver: str | None = None,
    batch_size: int | None = None,
    bits: str = "float16",
    device: str = "auto",
    precision: str = "auto",
    channels: int | None = None,
    field: str | None = None,
    transform: ImageTransform | None = None,
    tile: int | None = None,
    keep: int | None = None,
    min_gain: float | None = None,
    max_error_rate: float = 0.01,
    min_psnr: float | None = None,
    limit: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    stdin: BinaryIO | None = None,
    watcher: Watcher | None = None,
    progress: bool = False,
) -> Encoded:
    """Fit a latent to every item of the shards and write a functaset.

    Interrupted and called again with the same arguments it goes on with the block it was in. Items that cannot be
    converted become lines of `failed.jsonl`. The functaset is complete when this returns; `complaint` tells of
    damaged shards, too many failures, or too low a PSNR. With `progress` a bar shows how far it is.

    With `keep` only the first, most important numbers of every site are fitted and stored; the base must have been
    learned with gauss-newton. With `min_gain` (dB) an item is done when a step has brought less, after `steps` at most.
    """
    watcher = watcher or (_Bar() if progress else Watcher())
    work = Work.of(
        base, shards, steps=steps, solver=solver, batch_size=batch_size, bits=bits, device=device,
        precision=precision, channels=channels, field=field,
        transform=transform, tile=tile, keep=keep, min_gain=min_gain, limit=limit, workers=workers, stdin=stdin,
    )  # fmt: skip
    target = Path(output)
    if work.is_piped and not overwrite and target.exists() and any(target.iterdir() if target.is_dir() else [0]):
        raise OutputExistsError(f"{target} exists, and {PIPED.partition(':')[0]}", hint="--overwrite, or another name")
    check_first_items(work)
    is_new = not target.exists()
    writer = FunctasetWriter.open(target, work.layout, work.settings, overwrite=overwrite)
    if writer.finished:
        return _finished(target, work, min_psnr, max_error_rate, watcher)
    with matmul_precision(work.precision, work.stored.base.device), stopping(watcher.announce) as stop:
        pace = _convert(work, writer, stop, watcher)
    if writer.totals().rows + writer.totals().failed == 0:
        if is_new or overwrite:
            shutil.rmtree(writer.path)
        raise InputError(
            f"there is no usable item in {', '.join(work.names[:3])} ({pace.consumed} records looked at)",
            hint=USABLE_HINT,
        )
    writer.assemble(work.quantiser)
    report = _seal(work, writer, pace)
    summary = open_functaset(target).attributes.summary
    return Encoded(target, report, _complaint(report, summary, target, min_psnr, max_error_rate))


def plan(
    base: Path | str,
    shards: str | Sequence[str],
    output: Path | str,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Plan:
    """What `encode` would do with these arguments, without doing it."""
    work = Work.of(base, shards, **options)
    check_store(Path(output), work.layout, work.settings, overwrite=overwrite)
    records = None
    if not work.is_piped:
        records = sum(len(index_shard(name)) for name in work.names)
        records = records if work.limit is None else min(records, work.limit)
    done = 0
    if not overwrite:
        ledger = Ledger(Path(output) / PARTS)
        done = sum(ledger.progress(part).records for part in range(len(work.names)))
        if not done and (Path(output) / "zarr.json").exists():
            done = records or 0
    numbers = work.stored.base.numbers
    return Plan(tuple(work.names), records, done, numbers, numbers * work.quantiser.dtype.itemsize)


def _convert(work: Work, writer: FunctasetWriter, stop: Stop, watcher: Watcher) -> Pace:
    """Bring every part to its end."""
    pace, warn = Pace(total=work.expected()), _Once(watcher)
    if done := sum(writer.progress(part).records for part in range(len(work.names))):
        watcher.announce(f"going on: {done} records are done already")
    started = time.monotonic()
    for part, name in enumerate(work.names):
        progress = writer.begin(part, dict(work.sources[part]))
        before, consumed = pace.consumed, progress.records
        # killed between the block that holds the damage of a shard and the end of the part
        is_over = any(failure.reason.startswith(DAMAGED) for failure in progress.failures)
        if not progress.done and not is_over:
            room = None if work.limit is None else max(0, work.limit - before)
            # the next block is decoded while this one is fitted
            blocks = prefetched(read_blocks(work, part, progress, room), depth=1)
            for number, block in enumerate(blocks, start=progress.blocks):
                _warn_of_sizes(work, (tile for read in block.reads for tile in read.tiles), warn)
                rows = encode_block(work, name, block, pace, partial(_tell, watcher, pace, before))
                writer.commit(part, number, rows)
                consumed = block.consumed
                pace.seconds = time.monotonic() - started
                saved = f"{consumed} records of {name} are saved in {writer.path}"
                stop.check(saved, PIPED) if work.is_piped else stop.check(saved)
        if not progress.done:
            writer.end(part, consumed)
        pace.consumed = before + consumed
    return pace


def _finished(target: Path, work: Work, min_psnr: float | None, rate: float, watcher: Watcher) -> Encoded:
    functaset = open_functaset(target)
    for found, asked in zip(functaset.attributes.input, work.sources, strict=True):
        if dict(found) != dict(asked):
            raise ChangedInputError(
                f"changed input: {target} was made from another {asked['name']} (size or content differ)",
                hint="--overwrite converts the new one, or choose another name",
            )
    watcher.announce(f"{target} is finished, with these settings: nothing to do")
    complaint = _complaint(functaset.report, functaset.attributes.summary, target, min_psnr, rate)
    return Encoded(target, functaset.report, complaint, was_finished=True)


def _tell(watcher: Watcher, pace: Pace, before: int, done: int) -> None:
    """`done` records of a part after `before` of the parts before it."""
    watcher.report(before + done, pace.failed, pace.total, pace.mean_psnr)


class _Once:
    """Warnings that are given once, however many items they are about."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher, self._given = watcher, set[str]()

    def __call__(self, kind: str, message: str) -> None:
        if kind not in self._given:
            self._given.add(kind)
            self._watcher.announce(f"warning: {message}")


def _warn_of_sizes(work: Work, tiles: Iterable[Tile], warn: _Once) -> None:
    trained = work.stored.description.training.get("shapes") or []
    if not trained:
        return
    low, high = np.min(trained, axis=0), np.max(trained, axis=0)
    for tile in tiles:
        shape = np.array(tile.signal.shape)
        if (shape > FAR_FROM_TRAINING * high).any() or (FAR_FROM_TRAINING * shape < low).any():
            size, usual = "x".join(map(str, shape)), "x".join(map(str, high))
            is_cut = work.stored.base.axes.kind == "image" and work.tile is None and (shape > min(high)).any()
            advice = f"; --tile {min(high)} would cut it" if is_cut else ""
            warn("size", f"{tile.signal.key} is {size}, the base was learned on {usual}: expect a low PSNR{advice}")
            return


def _seal(work: Work, writer: FunctasetWriter, pace: Pace) -> dict[str, Any]:
    stored, totals = work.stored, writer.totals()
    shapes = writer.column("shape")
    tiles = writer.column("tile") if work.tile is not None else None
    items = Items.of(None, shapes, tiles)
    normaliser: dict[str, Any] = {
        "offset": list(stored.base.normalizer.offset),
        "scale": list(stored.base.normalizer.scale),
        "itemsize": stored.base.axes.itemsize,
    }
    if stored.base.normalizer.levels:
        normaliser["levels"] = {
            level: [list(offset), list(scale)] for level, (offset, scale) in stored.base.normalizer.levels.items()
        }
    size = Size(writer.nbytes(), len(stored.content), raw_bytes(items.shape, normaliser))
    report = summarise(
        items.mse(writer.column("mse"), shapes), failed=totals.failed, solver=stored.recipe.solver.kind,
        steps=work.steps, sites=stored.base.sites, numbers=stored.base.numbers, size=size,
        items_per_second=pace.items_per_second,
        measures=of_measures(
            {name: writer.column(name) for name in MEASURES.get(work.layout.modality, ())},
            stored.base.axes.variables, stored.base.axes.units,
        ),
    )  # fmt: skip
    if work.tile is not None:
        report["rows"] = totals.rows
    attributes = Attributes(
        modality=stored.base.axes.kind,
        axes=work.layout.axes,
        coordinate_convention=ON_THE_GLOBE if stored.base.axes.kind == "grid" else CONVENTION,
        normaliser=normaliser,
        solver=Solver(name=stored.recipe.solver.kind, steps=work.steps),
        sites=work.layout.sites,
        latent=work.layout.latent,
        canonical=stored.base.is_canonical,
        quantisation=Quantisation(bits=work.bits),
        tiled=work.tile is not None,
        variables=stored.base.axes.variables,
        units=stored.base.axes.units,
        psnr_peak=stored.base.normalizer.scale if stored.base.axes.kind == "grid" else (),
        summary={
            "count": totals.rows,
            "failed": totals.failed,
            "ignored": totals.ignored,
            "items": len(items),
            "psnr_mean": report["psnr"]["mean"],
            "psnr_of_mean_mse": report["psnr_of_mean_mse"],
            "bytes_per_item": report["bytes"]["per_item"],
            "damaged": list[Any](_damaged(writer)),
        },
        base_sha256=stored.sha256,
        tool_version=functaconv.__version__,
        seed=stored.recipe.training.seed,
        input=[dict(source) for source in work.sources],
        settings=work.settings,
    )
    writer.seal(attributes, stored.content, report)
    return report


def _damaged(writer: FunctasetWriter) -> list[str]:
    lines = (writer.path / FAILED).read_text(encoding="utf-8").splitlines()
    reasons = [str(json.loads(line)["reason"]) for line in lines]
    return [reason.removeprefix(DAMAGED) for reason in reasons if reason.startswith(DAMAGED)]


def _first_failure(target: Path) -> str:
    first = open_functaset(target).failures[0]
    return f"{first.key}: {first.reason}"


def _complaint(
    report: Mapping[str, Any],
    summary: Mapping[str, Any],
    target: Path,
    min_psnr: float | None,
    max_error_rate: float,
) -> FunctaconvError | None:
    damaged = list(summary.get("damaged") or [])
    if damaged:
        return InputError(
            f"{len(damaged)} damaged shard{'s' * (len(damaged) > 1)}: {damaged[0]}",
            hint="the items before the damage are converted; mend the shard and convert it again",
        )
    count, failed = int(report["count"]), int(report["failed"])
    if failed > max_error_rate * (count + failed):
        return TooManyFailuresError(
            f"{failed} of {count + failed} items failed, more than --max-error-rate {max_error_rate:g}; the first: "
            f"{_first_failure(target)}",
            hint=f"{target / FAILED} says why, item by item",
        )
    mean = report["psnr"]["mean"]
    if min_psnr is not None and not count:
        return VerificationError(f"there is no item that could have the --min-psnr of {min_psnr:g} dB")
    # without a number the mean is infinite: some item is perfect
    if min_psnr is not None and mean is not None and mean < min_psnr:
        return VerificationError(f"the mean PSNR is {mean:.2f} dB, less than --min-psnr {min_psnr:g}")
    return None
