"""From finished blocks to a sealed functaset."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import functaconv
from functaconv.conversion.options import EncodeOptions
from functaconv.conversion.reading import nothing_usable
from functaconv.conversion.work import Work
from functaconv.data.decoders import USABLE_HINT
from functaconv.data.ignored import ignore
from functaconv.data.naming import short_name, shown
from functaconv.errors import (
    ChangedInputError,
    FunctaconvError,
    InputError,
    StoppedError,
    TooManyFailuresError,
    VerificationError,
)
from functaconv.functaset.attributes import Attributes, Normaliser, Quantisation, Range, Solver, Summary
from functaconv.functaset.blocks import DAMAGED, BlockFacts
from functaconv.functaset.files import damaged
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import PARTS
from functaconv.functaset.unfinished import Listed, Parts
from functaconv.functaset.writer import Arrays, assembled
from functaconv.functaset.writer import seal as seal_store
from functaconv.summary import Items, Method, Size, of_measures, raw_bytes, summarise
from functaconv.words import counted


@dataclass
class Blocks:
    """All finished blocks in the order of the input, and totals over them."""

    files: list[Path] = field(default_factory=list)
    ranges: list[list[Range]] = field(default_factory=list)
    """of each shard"""
    sources: list[Mapping[str, Any]] = field(default_factory=list)
    """the fingerprint of each shard"""
    rows: int = 0
    failed: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    has_meta: bool = False
    damaged: list[str] = field(default_factory=list)

    def add(self, file: Path, facts: BlockFacts) -> None:
        self.files.append(file)
        self.ranges[-1].append(Range(stop=facts.stop, ignored=facts.ignored))
        self.rows, self.failed = self.rows + facts.rows, self.failed + len(facts.failures)
        self.has_meta = self.has_meta or facts.has_meta
        for kind, count in facts.ignored.items():
            ignore(self.ignored, kind, count)
        self.damaged += [one.reason.removeprefix(DAMAGED) for one in facts.failures if one.is_damage]


def all_blocks(parts: Parts, names: Sequence[str], run: str, limit: int | None = None) -> Blocks:
    """The blocks of these shards, made with the settings that `run` is the digest of.

    A StoppedError where some are missing, a ChangedInputError where a shard became another one on the way, an
    InputError for blocks of something else.
    """
    blocks, listed, room = Blocks(), parts.listed(), limit
    for shard, name in enumerate(names):
        blocks.ranges.append([])
        blocks.sources.append({"name": short_name(name)})
        if room == 0:
            continue
        one = listed.pop(shard, Listed())
        if not one.is_complete:
            raise StoppedError(
                f"blocks of {shown(name)} are missing: they were removed, or this machine does not see them yet",
                hint="run the same command again",
            )
        start = 0
        for number, file in sorted(one.files.items()):
            facts = parts.facts_of(file)
            is_after_end = one.last is not None and number > one.last
            if is_after_end or (facts.run, facts.shard, facts.number, facts.start) != (run, shard, number, start):
                raise damaged(file, "it is no block of this run")
            if number and facts.source != blocks.sources[-1]:
                raise ChangedInputError(
                    f"changed input: {shown(name)} became another one while it was read",
                    hint=f"delete the blocks {one.files[0].name[:6]}-*.npz in {parts.root} and run again",
                )
            blocks.sources[-1] = facts.source
            blocks.add(file, facts)
            start = facts.stop
        room = None if room is None else room - min(room, start)
    if listed:
        raise damaged(next(iter(listed[min(listed)].files.values())), "it is no block of this run")
    return blocks


def seal(work: Work, path: Path, *, run: str | None, items_per_second: float | None) -> tuple[dict[str, Any], int]:
    """Make a functaset of the finished blocks at `path`. The caller holds the lock.

    Returns its report, and how many rows have the key of an earlier one.
    """
    parts = Parts(path / PARTS)
    blocks = all_blocks(parts, work.names, work.digest, work.options.limit)
    if blocks.rows + blocks.failed == 0:
        raise NothingUsableError(nothing_usable(work, blocks.ignored), hint=USABLE_HINT)
    read = (parts.read(file, work.layout) for file in blocks.files)
    with assembled(path, read, work.layout, work.codec, rows=blocks.rows, has_meta=blocks.has_meta) as made:
        report, items = _report(work, made, blocks, items_per_second)
        seal_store(path, made, _attributes(work, made, blocks, report, items, run), work.stored.content, report)
        return report, made.duplicates


class NothingUsableError(InputError):
    """There was no item, and none that failed."""


def _report(work: Work, made: Arrays, blocks: Blocks, items_per_second: float | None) -> tuple[dict[str, Any], int]:
    """The report, and of how many items."""
    stored, axes, shapes = work.stored, work.stored.base.axes, made.column("shape")
    layout = work.layout
    items = Items.of(
        None, shapes, made.column("tile") if layout.tiled else None, made.column("view") if layout.has_views else None
    )
    report = summarise(
        items.mse(made.column("mse")), failed=blocks.failed, ignored=blocks.ignored,
        method=Method(stored.recipe.solver.kind, work.steps, stored.base.sites, stored.base.numbers),
        size=Size(made.nbytes(), len(stored.content), raw_bytes(items.shape, axes.channels, axes.itemsize)),
        items_per_second=items_per_second,
        measures=of_measures(
            layout.kind, {name: made.column(name)[items.first] for name in layout.kind.measure_names},
            axes.variables, axes.units,
        ),
    )  # fmt: skip
    # how the base compares with the closed form, on the items that it was validated on
    training = stored.description.training
    report |= {name: training[name] for name in ("closed_form", "learned") if name in training}
    if layout.tiled or layout.has_views:
        report["rows"] = blocks.rows
    return report, len(items)


def _attributes(
    work: Work, made: Arrays, blocks: Blocks, report: Mapping[str, Any], items: int, run: str | None
) -> Attributes:
    stored, layout, normalizer = work.stored, work.layout, work.stored.base.normalizer
    return Attributes(
        **layout.model_dump(exclude={"bits", "has_views"}),
        coordinate_convention=layout.kind.convention,
        normaliser=Normaliser(
            offset=normalizer.offset,
            scale=normalizer.scale,
            itemsize=stored.base.axes.itemsize,
            levels=dict(normalizer.levels),
        ),
        solver=Solver(name=stored.recipe.solver.kind, steps=work.steps),
        canonical=stored.base.is_canonical,
        quantisation=Quantisation(bits=work.options.bits),
        views=work.options.views,
        units=stored.base.axes.units,
        psnr_peak=normalizer.scale if layout.kind.has_coordinates else (),
        summary=Summary(
            count=blocks.rows,
            failed=blocks.failed,
            ignored=dict(blocks.ignored),
            items=items,
            duplicate_keys=made.duplicates,
            psnr_mean=report["psnr"]["mean"],
            psnr_of_mean_mse=report["psnr_of_mean_mse"],
            bytes_per_item=report["bytes"]["per_item"],
            damaged=tuple(blocks.damaged),
        ),
        base_sha256=stored.sha256,
        tool_version=functaconv.__version__,
        seed=stored.recipe.training.seed,
        input=[dict(source) for source in blocks.sources],
        blocks=tuple(map(tuple, blocks.ranges)),
        run=run,
        settings=work.settings,
        budgets=work.budgets,
    )


def complaint_of(functaset: Functaset, options: EncodeOptions) -> FunctaconvError | None:
    """The error that makes the exit code other than 0 although the functaset is complete; None for none."""
    max_error_rate, min_psnr = options.max_error_rate, options.min_psnr
    report, damaged_shards = functaset.report, functaset.attributes.summary.damaged
    if damaged_shards:
        return InputError(
            f"{counted(len(damaged_shards), 'damaged shard')}: {damaged_shards[0]}",
            hint="the items before the damage are converted; mend the shard, and --retry-failed converts it again",
        )
    count, failed = int(report["count"]), int(report["failed"])
    if failed > max_error_rate * (count + failed):
        first = next(functaset.each_failure())
        return TooManyFailuresError(
            f"{failed} of {count + failed} items failed, more than --max-error-rate {max_error_rate:g}; the first: "
            f"{first.key}: {first.reason}",
            hint=f"{functaset.path / 'failed.jsonl'} says why, item by item",
        )
    mean = report["psnr"]["mean"]
    if min_psnr is not None and not count:
        return VerificationError(f"there is no item that could have the --min-psnr of {min_psnr:g} dB")
    # without a number the mean is infinite: some item is perfect
    if min_psnr is not None and mean is not None and mean < min_psnr:
        return VerificationError(f"the mean PSNR is {mean:.2f} dB, less than --min-psnr {min_psnr:g}")
    return None
