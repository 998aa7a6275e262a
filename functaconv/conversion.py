"""Encoding: shards in, functaset out, block by block."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

import functaconv
from functaconv.checkpoint import StoredBase, read_base
from functaconv.errors import (
    ChangedInputError,
    FunctaconvError,
    InputError,
    ItemError,
    OutputExistsError,
    TooManyFailuresError,
    UsageError,
    VerificationError,
    lookup,
)
from functaconv.fitting import SOLVERS
from functaconv.functaset.blocks import Block, Failure
from functaconv.functaset.ledger import PARTS, Ledger
from functaconv.functaset.quantise import Quantiser
from functaconv.functaset.reader import open_functaset
from functaconv.functaset.schema import FAILED, STORED, Attributes, Bits, Layout, Quantisation, Solver
from functaconv.functaset.writer import FunctasetWriter
from functaconv.interruption import Stop, stopping
from functaconv.metrics import psnr
from functaconv.signals.batch import Signal, batched
from functaconv.signals.device import device_of, precision
from functaconv.signals.grid import AXES
from functaconv.signals.loader import map_ahead, prefetched
from functaconv.signals.reading import Reading
from functaconv.signals.tiles import Tile
from functaconv.sources.images import ImageTransform
from functaconv.sources.images import Size as ImageSize
from functaconv.sources.items import Record
from functaconv.sources.webdataset import expand_shards, fingerprint, index_shard, read_records
from functaconv.summary import Items, Size, raw_bytes, summarise

CONVENTION = "cell centres of the unit interval, square or cube; first axis first"
CODE_SIGMAS = 4.5
"""8-bit codes span this many standard deviations of the training latents to either side"""
DAMAGED = "damaged shard: "
PIPED = "what came through a pipe cannot be resumed: --overwrite begins anew"
BLOCK_VALUES = 1 << 21
LEAST_BLOCK, MOST_BLOCK = 64, 4096
FAR_FROM_TRAINING = 1.5
"""an image this many times larger or smaller along an axis than any in training deserves a warning"""


class Watcher:
    """Told how an encoding goes. This one says nothing."""

    def announce(self, message: str) -> None:
        """Something a user wants to know once."""

    def report(self, done: int, failed: int, total: int | None, mean_psnr: float) -> None:
        """Called after every batch: items so far, and of how many where that is known."""


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
    precision_name: str = "auto",
    field_name: str | None = None,
    transform: ImageTransform | None = None,
    tile: int | None = None,
    max_error_rate: float = 0.01,
    min_psnr: float | None = None,
    limit: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    stdin: BinaryIO | None = None,
    watcher: Watcher | None = None,
) -> Encoded:
    """Fit a latent to every item of the shards and write a functaset.

    Interrupted and called again with the same arguments it goes on with the block it was in. Items that cannot be
    converted become lines of `failed.jsonl`. The functaset is complete when this returns; `complaint` tells of
    damaged shards, too many failures, or too low a PSNR.
    """
    watcher = watcher or Watcher()
    stored = read_base(base, device_of(device))
    names = expand_shards([shards] if isinstance(shards, str) else list(shards))
    _check_request(stored, names, solver, steps, tile, transform)
    work = Work(
        stored, names, steps=steps if steps is not None else stored.base.solver.steps,
        batch_size=batch_size or (64 if stored.base.device.type == "cpu" else 1024), bits=_bits(bits),
        field_name=field_name or stored.recipe.data.field, transform=transform, tile=tile, limit=limit,
        workers=workers if workers is not None else (os.cpu_count() or 1), stdin=stdin,
    )  # fmt: skip
    target = Path(output)
    if "-" in names and not overwrite and target.exists() and any(target.iterdir() if target.is_dir() else [0]):
        raise OutputExistsError(
            f"{target} exists, and what came through a pipe cannot be resumed",
            hint="--overwrite, or another name",
        )
    writer = FunctasetWriter.open(target, work.layout, work.settings, overwrite=overwrite)
    if writer.finished:
        return _finished(target, work, min_psnr, max_error_rate, watcher)
    with precision(precision_name, stored.base.device), stopping() as stop:
        speed = _convert(work, writer, stop, watcher)
    writer.assemble(work.quantiser)
    report = _seal(work, writer, speed)
    return Encoded(
        target, report, _complaint(report, open_functaset(target).attributes.summary, min_psnr, max_error_rate)
    )


def plan(base: Path | str, shards: str | Sequence[str], output: Path | str, *, bits: str = "float16") -> Plan:
    """What `encode` would do, without doing it."""
    stored = read_base(base)
    names = expand_shards([shards] if isinstance(shards, str) else list(shards))
    records = None if "-" in names else sum(len(index_shard(name)) for name in names)
    done = sum(Ledger(Path(output) / PARTS).progress(part).records for part in range(len(names)))
    if not done and (Path(output) / "zarr.json").exists():
        done = len(open_functaset(output))
    width = np.dtype(STORED[_bits(bits)]).itemsize
    return Plan(tuple(names), records, done, stored.base.numbers, stored.base.numbers * width)


@dataclass
class Work:
    """Everything about an encoding that does not change while it runs."""

    stored: StoredBase
    names: Sequence[str]
    steps: int
    batch_size: int
    bits: Bits
    field_name: str | None
    transform: ImageTransform | None
    tile: int | None
    limit: int | None
    workers: int
    stdin: BinaryIO | None = None
    sources: list[Mapping[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sources = [fingerprint(name) for name in self.names]

    @property
    def layout(self) -> Layout:
        base = self.stored.base
        return Layout(
            axes=AXES[base.axes.dims], sites=base.sites, latent=base.latent, bits=self.bits,
            tiled=self.tile is not None,
        )  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """What makes another functaset when it changes; batch size and device do not."""
        transform = self.transform or ImageTransform()
        return {
            "base": self.stored.sha256,
            "shards": [source["name"] for source in self.sources],
            "solver": self.stored.recipe.solver.kind,
            "steps": self.steps,
            "bits": self.bits,
            "field": self.field_name,
            "resize": _plain(transform.resize),
            "crop": _plain(transform.crop),
            "tile": self.tile,
            "limit": self.limit,
        }

    @property
    def reading(self) -> Reading:
        return Reading(self.stored.base.axes, self.field_name, self.transform, self.tile)

    @property
    def quantiser(self) -> Quantiser:
        if self.bits != "8":
            return Quantiser(self.bits)
        base = self.stored.base
        mean, reach = base.latent_mean.cpu().numpy(), CODE_SIGMAS * base.latent_std.cpu().numpy()
        return Quantiser.for_range(mean - reach, mean + reach)

    @property
    def block(self) -> int:
        """Records in a block: the unit of saving. A property of the base, so that batches do not depend on the run."""
        shapes = self.stored.description.training.get("shapes") or [[1024]]
        points = max(1, int(np.prod([float(size) for size in shapes[0]])))
        return int(min(MOST_BLOCK, max(LEAST_BLOCK, BLOCK_VALUES // points)))


@dataclass(frozen=True)
class _Read:
    """What became of a record before fitting."""

    record: Record
    tiles: tuple[Tile, ...] = ()
    reason: str | None = None

    @property
    def is_ignored(self) -> bool:
        return not self.tiles and self.reason is None


def _bits(name: str) -> Bits:
    table: dict[str, Bits] = {"float16": "float16", "float32": "float32", "8": "8"}
    return lookup(table, name, what="--bits")


def _plain(size: ImageSize | None) -> int | list[int] | None:
    """A size as JSON holds it."""
    return list(size) if isinstance(size, tuple) else size


def _check_request(
    stored: StoredBase,
    names: Sequence[str],
    solver: str | None,
    steps: int | None,
    tile: int | None,
    transform: ImageTransform | None,
) -> None:
    if solver is not None:
        lookup(SOLVERS, solver, what="solver")
        if solver != stored.recipe.solver.kind:
            raise UsageError(
                f"the base was learned for the solver {stored.recipe.solver.kind!r}, not {solver!r}",
                hint="leave --solver out, or learn a base with it",
            )
    if steps is not None and steps < 1:
        raise UsageError(f"--steps must be at least 1, not {steps}")
    if len([name for name in names if name == "-"]) > 1:
        raise UsageError("stdin can be read once only", hint="give - once")
    is_image = stored.base.axes.kind == "image"
    if (tile is not None or transform is not None) and not is_image:
        raise UsageError("--tile, --resize and --crop are for images; this base is for arrays")
    if tile is not None and tile < 8:
        raise UsageError(f"--tile must be at least 8 pixels, not {tile}")


def _finished(target: Path, work: Work, min_psnr: float | None, rate: float, watcher: Watcher) -> Encoded:
    functaset = open_functaset(target)
    for found, asked in zip(functaset.attributes.input, work.sources, strict=True):
        if dict(found) != dict(asked):
            raise ChangedInputError(
                f"changed input: {target} was made from another {asked['name']} (size or content differ)",
                hint="--overwrite converts the new one, or choose another name",
            )
    watcher.announce(f"{target} is finished, with these settings: nothing to do")
    complaint = _complaint(functaset.report, functaset.attributes.summary, min_psnr, rate)
    return Encoded(target, functaset.report, complaint, was_finished=True)


@dataclass
class _Pace:
    """Items and seconds of this run."""

    items: int = 0
    failed: int = 0
    seconds: float = 0.0
    squared_error_psnr: float = 0.0
    resumed: int = 0

    @property
    def items_per_second(self) -> float | None:
        return self.items / self.seconds if self.items and self.seconds else None

    @property
    def mean_psnr(self) -> float:
        return self.squared_error_psnr / self.items if self.items else float("nan")


def _convert(work: Work, writer: FunctasetWriter, stop: Stop, watcher: Watcher) -> _Pace:
    """Bring every part to its end."""
    pace, taken, warned = _Pace(), 0, _Once(watcher)
    started = time.monotonic()
    for part, name in enumerate(work.names):
        progress = writer.begin(part, dict(work.sources[part]))
        if progress.records:
            pace.resumed += progress.records
            watcher.announce(f"{name}: going on after record {progress.records}")
        room = None if work.limit is None else max(0, work.limit - taken)
        if any(failure.reason.startswith(DAMAGED) for failure in progress.failures):
            # killed between the block that holds the damage and the end of the part
            writer.end(part, progress.records)
            taken += progress.records
        elif not progress.done:
            reader = _Reader(work, part, name, progress.records, progress.last_key, room)
            for number, reads in enumerate(reader.blocks(), start=progress.blocks):
                block = _encode_block(work, reads, reader, warned, pace, stop, watcher)
                writer.commit(part, number, block)
                pace.seconds = time.monotonic() - started
                saved = f"{reader.consumed} records of {name} are saved in {writer.path}"
                stop.check(saved, PIPED) if name == "-" else stop.check(saved)
            writer.end(part, reader.consumed)
            taken += reader.consumed
        else:
            taken += progress.records
    return pace


class _Once:
    """Warnings that are given once, however many items they are about."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher, self._given = watcher, set[str]()

    def __call__(self, kind: str, message: str) -> None:
        if kind not in self._given:
            self._given.add(kind)
            self._watcher.announce(f"warning: {message}")


class _Reader:
    """The records of one part, decoded, a block at a time; damage ends the part and is remembered."""

    def __init__(self, work: Work, part: int, name: str, start: int, last_key: str | None, room: int | None) -> None:
        self._work, self._part, self.name, self._room = work, part, name, room
        self.consumed, self._last_key = start, last_key
        self.damage: str | None = None
        self.last_key = last_key or ""

    def blocks(self) -> Iterator[list[_Read]]:
        """Blocks of records; the last one may be short, and is there (empty) when the shard is damaged."""
        reads = map_ahead(self._read, self._records(), workers=self._work.workers)
        while True:
            block: list[_Read] = []
            try:
                while len(block) < self._work.block and (read := next(reads, None)) is not None:
                    block.append(read)
            except ChangedInputError:
                raise
            except InputError as error:
                self.damage = str(error)
            self.consumed += len(block)
            if block:
                self.last_key = block[-1].record.key
            if block or self.damage:
                yield block
            if len(block) < self._work.block:
                return

    def _records(self) -> Iterator[Record]:
        # one record earlier: its key says whether the shard is still the one that was begun
        start = max(0, self.consumed - 1)
        records = read_records(self.name, self._part, start=start, stream=self._work.stdin)
        if self.consumed:
            before = next(records, None)
            if before is None or before.key != self._last_key:
                found = "its end" if before is None else repr(before.key)
                raise ChangedInputError(
                    f"changed input: record {start} of {self.name} was {self._last_key!r}, now it is {found}",
                    hint="put the shard back as it was, or start again with --overwrite",
                )
        room = None if self._room is None else max(0, self._room - self.consumed)
        yield from islice(records, room)

    def _read(self, record: Record) -> _Read:
        try:
            return _Read(record, self._work.reading.tiles(record))
        except ItemError as error:
            return _Read(record, reason=str(error))


@dataclass
class _Fitted:
    """The rows of a block, by position."""

    modulation: np.ndarray
    mse: np.ndarray
    reasons: dict[int, str]


def _encode_block(
    work: Work, reads: Sequence[_Read], reader: _Reader, warn: _Once, pace: _Pace, stop: Stop,
    watcher: Watcher,
) -> Block:  # fmt: skip
    tiles = [(number, tile) for number, read in enumerate(reads) for tile in read.tiles]
    _warn_of_sizes(work, [tile for _, tile in tiles], warn)
    fitted = _fit_rows(work, [tile.signal for _, tile in tiles], pace, stop, watcher)
    failures = [
        Failure(reader.name, read.record.record, read.record.key, read.reason)
        for read in reads
        if read.reason is not None
    ]
    lost: dict[int, str] = {}
    for position, reason in fitted.reasons.items():
        lost.setdefault(tiles[position][0], reason)
    # an image with a tile that cannot be fitted is lost as a whole
    failures += [
        Failure(reader.name, reads[number].record.record, reads[number].record.key, reason)
        for number, reason in lost.items()
    ]
    if reader.damage is not None:
        failures.append(Failure(reader.name, reader.consumed, "", f"{DAMAGED}{reader.damage}"))
    kept = [position for position, (number, _) in enumerate(tiles) if number not in lost]
    signals = [tiles[position][1].signal for position in kept]
    places = [tiles[position][1] for position in kept]
    mse = fitted.mse[kept]
    pace.failed += len(failures)
    meta = [json.dumps(signal.attributes) if signal.attributes else "null" for signal in signals]
    axes = work.stored.base.axes.dims
    return Block(
        modulation=fitted.modulation[kept],
        keys=[signal.key for signal in signals],
        label=np.array([signal.label for signal in signals], np.int64),
        shape=np.array([signal.shape for signal in signals], np.int32).reshape(-1, axes),
        mse=mse,
        psnr=psnr(mse).astype(np.float32),
        records=reader.consumed,
        last_key=reader.last_key,
        meta=meta if any(text != "null" for text in meta) else None,
        tile=None
        if work.tile is None
        else np.array([[*place.origin, *place.whole] for place in places], np.int32).reshape(-1, 2 * axes),
        failures=failures,
        ignored=sum(read.is_ignored for read in reads),
    )


def _warn_of_sizes(work: Work, tiles: Iterable[Tile], warn: _Once) -> None:
    trained = work.stored.description.training.get("shapes") or []
    if not trained:
        return
    low, high = np.min(trained, axis=0), np.max(trained, axis=0)
    for tile in tiles:
        shape = np.array(tile.signal.shape)
        if (shape > FAR_FROM_TRAINING * high).any() or (FAR_FROM_TRAINING * shape < low).any():
            size, usual = "x".join(map(str, shape)), "x".join(map(str, high))
            advice = f"; --tile {max(high)} would cut it" if work.tile is None and (shape > high).any() else ""
            warn("size", f"{tile.signal.key} is {size}, the base was learned on {usual}: expect a low PSNR{advice}")
            return


@torch.no_grad()
def _fit_rows(work: Work, signals: Sequence[Signal], pace: _Pace, stop: Stop, watcher: Watcher) -> _Fitted:
    base, quantiser, layout = work.stored.base, work.quantiser, work.layout
    sites = layout.sites
    fitted = _Fitted(
        np.zeros((len(signals), *sites, layout.latent), quantiser.dtype), np.zeros(len(signals), np.float32), {}
    )
    pin = base.device.type == "cuda"
    for batch in prefetched(batched(enumerate(signals), work.batch_size, pin=pin)):
        problem = base.problem(batch, chunk=base.chunk(len(batch)))
        latents = base.fit(problem, steps=work.steps).latents
        # the one moment a batch waits for the device
        values = latents.cpu().numpy().reshape(len(batch), *sites, layout.latent)
        positions = np.array(batch.positions)
        fits = quantiser.fits(values)
        values = np.where(fits.reshape(-1, *(1,) * (values.ndim - 1)), values, 0)
        stored = quantiser.quantise(values)
        kept = torch.from_numpy(quantiser.dequantise(stored).reshape(latents.shape)).to(base.device)
        mse = problem.error(kept).cpu().numpy()
        fits &= np.isfinite(mse)
        fitted.modulation[positions], fitted.mse[positions] = stored, mse
        for position in positions[~fits]:
            fitted.reasons[int(position)] = f"the fit diverged (latents not finite, or too large for {work.bits})"
        pace.items += int(fits.sum())
        pace.squared_error_psnr += float(psnr(mse[fits]).clip(max=200).sum())
        watcher.report(pace.items + pace.resumed, pace.failed + len(fitted.reasons), None, pace.mean_psnr)
        if stop.signal is not None and work.names[0] == "-":
            break
    return fitted


def _seal(work: Work, writer: FunctasetWriter, pace: _Pace) -> dict[str, Any]:
    stored, totals = work.stored, writer.totals()
    shapes = writer.column("shape")
    tiles = writer.column("tile") if work.tile is not None else None
    items = Items.of(writer.column("key"), shapes, tiles)
    normaliser: dict[str, Any] = {
        "offset": list(stored.base.normalizer.offset),
        "scale": list(stored.base.normalizer.scale),
        "itemsize": stored.base.axes.itemsize,
    }
    size = Size(writer.nbytes(), len(stored.content), raw_bytes(items.shape, normaliser))
    report = summarise(
        items.mse(writer.column("mse"), shapes), failed=totals.failed, solver=stored.recipe.solver.kind,
        steps=work.steps, sites=stored.base.sites, numbers=stored.base.numbers, size=size,
        items_per_second=pace.items_per_second,
    )  # fmt: skip
    if work.tile is not None:
        report["rows"] = totals.rows
    attributes = Attributes(
        modality=stored.base.axes.kind,
        axes=work.layout.axes,
        coordinate_convention=CONVENTION,
        normaliser=normaliser,
        solver=Solver(name=stored.recipe.solver.kind, steps=work.steps),
        sites=work.layout.sites,
        latent=work.layout.latent,
        quantisation=Quantisation(bits=work.bits),
        tiled=work.tile is not None,
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


def _complaint(
    report: Mapping[str, Any], summary: Mapping[str, Any], min_psnr: float | None, max_error_rate: float
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
            f"{failed} of {count + failed} items failed, more than --max-error-rate {max_error_rate:g}",
            hint="failed.jsonl in the functaset says why, item by item",
        )
    mean = report["psnr"]["mean"]
    if min_psnr is not None and not count:
        return VerificationError(f"there is no item that could have the --min-psnr of {min_psnr:g} dB")
    # without a number the mean is infinite: some item is perfect
    if min_psnr is not None and mean is not None and mean < min_psnr:
        return VerificationError(f"the mean PSNR is {mean:.2f} dB, less than --min-psnr {min_psnr:g}")
    return None
