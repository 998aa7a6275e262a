"""Going through all parts, and making a functaset of them."""

import json
import shutil
import uuid
from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm.auto import tqdm

import functaconv
from functaconv.conversion.encoding import Pace
from functaconv.conversion.parts import ranges_of
from functaconv.conversion.reading import check_first_items
from functaconv.conversion.share import PIPED, Share, Watcher
from functaconv.conversion.work import Work
from functaconv.errors import (
    ChangedInputError,
    FunctaconvError,
    InputError,
    OutputExistsError,
    StoppedError,
    TooManyFailuresError,
    UsageError,
    VerificationError,
)
from functaconv.functaset.beginning import check_store, holds_nothing
from functaconv.functaset.blocks import DAMAGED
from functaconv.functaset.claims import Claims, Held, Owner
from functaconv.functaset.ledger import Ledger
from functaconv.functaset.reader import Functaset, open_functaset
from functaconv.functaset.retry import Done, file_name, forget_failed, recut_under_limit, reopen_without_failures
from functaconv.functaset.schema import FAILED, MEASURES, PARTS, Attributes, Quantisation, Solver
from functaconv.functaset.writer import FunctasetWriter
from functaconv.interruption import stopping
from functaconv.parallel import Ranks
from functaconv.parallel import ranks as ranks_of_environment
from functaconv.signals.device import matmul_precision
from functaconv.sources.decoders import USABLE_HINT
from functaconv.sources.images import ImageTransform
from functaconv.sources.webdataset import index_shard, is_seekable, shown
from functaconv.summary import Items, Size, of_measures, raw_bytes, summarise

CONVENTION = "cell centres of the unit interval, square or cube; first axis first"
ON_THE_GLOBE = "latitude and longitude in degrees, as grids/<n> lists them; the base maps them to its coordinates"
FINALISE = "finalise"


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
    is_told: bool = False
    """of several processes another one has this report too, and tells it"""
    left_to: tuple[str, ...] = ()
    """several processes: those that still work, of which the last one finishes the functaset and has the report"""


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
    allow_pipe: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    stdin: BinaryIO | None = None,
    ranks: Ranks | None = None,
    watcher: Watcher | None = None,
    progress: bool = False,
) -> Encoded:
    """Fit a latent to every item of the shards and write a functaset.

    Interrupted and called again with the same arguments it goes on with the block it was in. Items that cannot be
    converted become lines of `failed.jsonl`. The functaset is complete when this returns; `complaint` tells of
    damaged shards, too many failures, or too low a PSNR. With `progress` a bar shows how far it is.

    With `keep` only the first, most important numbers of every site are fitted and stored; the base must have been
    learned with gauss-newton. With `min_gain` (dB) an item is done when a step has brought less, after `steps` at most.

    Several processes that are given the same arguments, as `ranks` of one run (default: those that torchrun or a SLURM
    array tells in the environment), share the blocks of records. Each returns when nothing is left to take; the one
    that ends last completes the functaset.
    """
    watcher = watcher or (_Bar() if progress else Watcher())
    work = Work.of(
        base, shards, steps=steps, solver=solver, batch_size=batch_size, bits=bits, device=device,
        precision=precision, channels=channels, field=field,
        transform=transform, tile=tile, keep=keep, min_gain=min_gain, limit=limit,
        allow_pipe=allow_pipe, workers=workers, stdin=stdin,
    )  # fmt: skip
    target, ranks = Path(output), ranks or ranks_of_environment()
    if work.is_piped and ranks.count > 1:
        raise UsageError("several processes cannot share a pipe", hint="write the tar to a file first")
    if work.is_piped and not overwrite and _is_in_the_way(target):
        raise OutputExistsError(f"{target} exists, and {PIPED.partition(':')[0]}", hint="--overwrite, or another name")
    if retry_failed and (ranks.count > 1 or work.is_piped or overwrite):
        raise UsageError(
            "--retry-failed is for one process, files as input, and without --overwrite",
            hint="run it once by itself: it does only what failed",
        )
    if retry_failed and not target.exists():
        raise InputError(f"no such functaset: {target}", hint="nothing has failed yet: leave --retry-failed out")
    if overwrite:
        ranks.check_named()
    check_first_items(work)
    is_new = not target.exists()
    writer = FunctasetWriter.open(target, work.layout, work.settings, overwrite=overwrite, run=ranks.run)
    if retry_failed:
        writer = _reopened(work, writer, watcher)
    if writer.finished:
        return _finished(target, work, min_psnr, max_error_rate, watcher, ranks)
    owner = Owner(ranks.run or uuid.uuid4().hex, ranks.rank, ranks.count)
    with (
        matmul_precision(work.precision, work.stored.base.device),
        stopping(watcher.announce) as stop,
        ExitStack() as stack,
        closing(Claims(writer.parts, owner, is_over=lambda: stop.signal is not None)) as claims,
    ):
        # when the claims are given back
        stack.callback(writer.sweep)
        try:
            share = Share(work, writer, claims, stop, watcher)
            left = share.convert()
            if left or (left := _held(claims.take_surely(FINALISE))):
                return _elsewhere(target, left, watcher)
            # asked with the claim in hand: whoever had it before has sealed it, or never will
            if writer.is_sealed:
                return _finished(target, work, min_psnr, max_error_rate, watcher, ranks)
            report = _finalise(work, writer, claims, watcher, share.pace, ranks.run, is_new or overwrite)
        except (FileNotFoundError, ValueError, InputError):
            # another process was faster, and removed what all are done with
            if not writer.is_sealed:
                raise
            return _finished(target, work, min_psnr, max_error_rate, watcher, ranks)
    return Encoded(writer.path, report, _complaint(writer.path, report, min_psnr, max_error_rate))


def _is_in_the_way(target: Path) -> bool:
    is_there = any(target.iterdir()) if target.is_dir() else target.exists()
    return is_there and not holds_nothing(target)


def _reopened(work: Work, writer: FunctasetWriter, watcher: Watcher) -> FunctasetWriter:
    """The same functaset, of which the blocks that held failures are to be done anew."""
    if not writer.finished:
        records = forget_failed(writer.parts, may_recut=work.limit is None)
    elif (functaset := open_functaset(writer.path)).attributes.failed:
        damaged = {file_name(failure.shard) for failure in functaset.failures if failure.is_damage}
        if damaged and work.limit is not None:
            raise recut_under_limit()
        _check_sources(functaset, work, mended=damaged)
        counts, room, shards = _records_of(functaset), work.limit, list[Done]()
        for shard, (name, count) in enumerate(zip(map(shown, work.names), counts, strict=True)):
            # what follows a damage may be there now, and is cut when its turn comes
            ranges = None if file_name(name) in damaged else ranges_of(work, shard, room)
            shards.append(Done(name, work.sources[shard], ranges, count))
            room = None if room is None else room - count
        records = reopen_without_failures(writer.path, work.layout, work.settings, shards)
        writer = FunctasetWriter.open(writer.path, work.layout, work.settings)
    else:
        records = 0
    watcher.announce(f"{records} records are done anew: those that failed, and what is saved together with them")
    return writer


def _records_of(functaset: Functaset) -> list[int]:
    """How many records each shard gave."""
    found = functaset.attributes.summary.get("records")
    counts = found if isinstance(found, list) else []
    if len(counts) != len(functaset.attributes.input):
        raise InputError(
            f"{functaset.path} does not say how many records its shards had: it was made by an older functaconv",
            hint="--overwrite converts all of it again",
        )
    return [int(str(count)) for count in counts]


def _finalise(
    work: Work, writer: FunctasetWriter, claims: Claims, watcher: Watcher, pace: Pace, run: str | None, is_new: bool
) -> dict[str, Any]:
    """Make a functaset of parts that are all done; its report."""
    totals = writer.totals()
    if totals.rows + totals.failed == 0:
        if is_new:
            shutil.rmtree(writer.path)
        raise InputError(
            f"there is no usable item in {work.described} ({totals.records} records looked at)",
            hint=USABLE_HINT,
        )
    _check_alone(writer, claims)
    writer.assemble(work.quantiser)
    report = _seal(work, writer, pace, claims, run)
    if writer.duplicates:
        watcher.announce(
            f"warning: {writer.duplicates} of {report['count']} items have the key of an earlier one; all are stored, "
            "and of those with one key the first is found by it"
        )
    return report


def _held(held: Held | None) -> list[Held]:
    return [] if held is None else [held]


def _elsewhere(target: Path, left: Sequence[Held], watcher: Watcher) -> Encoded:
    """Others of this run are at work on what is left: nobody waits for them, and they will finish it."""
    owners = sorted({str(held.owner) for held in left})
    watcher.announce(f"nothing is left to take: {', '.join(owners)} will finish {target}")
    return Encoded(target, {}, left_to=tuple(owners))


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
    overwrite = overwrite or holds_nothing(Path(output))
    check_store(Path(output), work.layout, work.settings, overwrite=overwrite)
    records = None
    if not work.is_piped and all(map(is_seekable, work.names)):
        records = sum(len(index_shard(name)) for name in work.names)
        records = records if work.limit is None else min(records, work.limit)
    done = 0
    if not overwrite:
        ledger = Ledger(Path(output) / PARTS)
        done = ledger.records() if ledger.root.exists() else 0
        if not done and (Path(output) / "zarr.json").exists():
            done = records or 0
    numbers = work.stored.base.numbers
    return Plan(tuple(work.names), records, done, numbers, numbers * work.quantiser.dtype.itemsize)


def _finished(
    target: Path, work: Work, min_psnr: float | None, max_error_rate: float, watcher: Watcher, ranks: Ranks
) -> Encoded:
    functaset = open_functaset(target)
    _check_sources(functaset, work)
    watcher.announce(f"{target} is finished, with these settings: nothing to do")
    is_told = ranks.count > 1 and (functaset.attributes.run == ranks.run or not ranks.is_first)
    complaint = _complaint(target, functaset.report, min_psnr, max_error_rate)
    return Encoded(target, functaset.report, complaint, was_finished=True, is_told=is_told)


def _check_sources(functaset: Functaset, work: Work, *, mended: Container[str] = ()) -> None:
    for name, found, asked in zip(work.names, functaset.attributes.input, work.sources, strict=True):
        if dict(found) != dict(asked) and file_name(shown(name)) not in mended:
            raise ChangedInputError(
                f"changed input: {functaset.path} was made from another {asked['name']} (size or content differ)",
                hint="--overwrite converts the new one, or choose another name",
            )


def _seal(work: Work, writer: FunctasetWriter, pace: Pace, claims: Claims, run: str | None) -> dict[str, Any]:
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
            "records": list[Any](writer.records_of(len(work.names))),
            "items": len(items),
            "duplicate_keys": writer.duplicates,
            "psnr_mean": report["psnr"]["mean"],
            "psnr_of_mean_mse": report["psnr_of_mean_mse"],
            "bytes_per_item": report["bytes"]["per_item"],
            "damaged": list[Any](_damaged(writer)),
        },
        base_sha256=stored.sha256,
        tool_version=functaconv.__version__,
        seed=stored.recipe.training.seed,
        input=[dict(source) for source in work.sources],
        run=run,
        settings=work.settings,
    )
    _check_alone(writer, claims)
    writer.seal(attributes, stored.content, report)
    return report


def _check_alone(writer: FunctasetWriter, claims: Claims) -> None:
    if not claims.has(FINALISE):
        # we were silent for so long that another process took over, and may be assembling now
        raise StoppedError(f"another process finishes {writer.path}", hint="run the same command again to see it done")


def _damaged(writer: FunctasetWriter) -> list[str]:
    lines = (writer.path / FAILED).read_text(encoding="utf-8").splitlines()
    reasons = [str(json.loads(line)["reason"]) for line in lines]
    return [reason.removeprefix(DAMAGED) for reason in reasons if reason.startswith(DAMAGED)]


def _first_failure(target: Path) -> str:
    first = open_functaset(target).failures[0]
    return f"{first.key}: {first.reason}"


def _complaint(
    target: Path, report: Mapping[str, Any], min_psnr: float | None, max_error_rate: float
) -> FunctaconvError | None:
    summary: Mapping[str, Any] = open_functaset(target).attributes.summary
    damaged = list(summary.get("damaged") or [])
    if damaged:
        return InputError(
            f"{len(damaged)} damaged shard{'s' * (len(damaged) > 1)}: {damaged[0]}",
            hint="the items before the damage are converted; mend the shard, and --retry-failed converts it again",
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
