"""The checked request of an encoding: all that does not change while it runs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch

from functaconv.checkpoint import StoredBase, base_from_bytes, read_base
from functaconv.conversion.options import EncodeOptions
from functaconv.data.decoders.transform import Size
from functaconv.data.expansion import expand_shards
from functaconv.data.naming import short_name, shown
from functaconv.data.storage import is_read_once
from functaconv.errors import UsageError, lookup
from functaconv.functaset.attributes import Budgets
from functaconv.functaset.codecs import CODECS, Codec
from functaconv.functaset.schema import Layout
from functaconv.functaset.unfinished import digest_of_plan, plan_of
from functaconv.joining import overlap_of
from functaconv.measuring import sample
from functaconv.modalities.reading import Reading, check_possible
from functaconv.signals.device import HALF, device_of, usable_precision
from functaconv.signals.grid import AXES
from functaconv.signals.views import Views, parse_augment
from functaconv.solvers import SOLVERS

BLOCK_VALUES = 1 << 19
LEAST_BLOCK, MOST_BLOCK = 16, 2048
# items, points and numbers that are fitted together: on the CPU more would not stay in the cache
MOST_TOGETHER = {"cpu": (64, 1 << 16, 1 << 26), "cuda": (1024, 1 << 20, 1 << 30)}

# times as many points where nothing is kept of them but their values
LINEAR_TOGETHER = 16


@dataclass(frozen=True)
class Work:
    """A base, shards, and what to do with them: all that a block depends on."""

    stored: StoredBase
    names: tuple[str, ...]
    options: EncodeOptions
    steps: int
    precision: str
    keep: int | None
    """how many of each site's numbers; the base is one of so many"""
    batch_size: int
    chunk: int
    """points of an item that are fitted together"""
    stdin: BinaryIO | None = None

    @classmethod
    def of(
        cls, base: Path | str, shards: str | Sequence[str], options: EncodeOptions, stdin: BinaryIO | None = None
    ) -> Self:
        """Check the request against the base; what makes no sense stops here, before any work."""
        options = replace(options, device=_device_of_tasks(options))
        # with Ray only the tasks compute: they may have GPUs where this process has none, or none where it has one
        device = torch.device("cpu") if options.engine == "ray" else device_of(options.device)
        stored = read_base(base, device)
        _check(options, stored)
        kind = torch.device(options.device).type if options.engine == "ray" else device.type
        keep = options.keep
        if keep is not None:
            # numbers that are left out are not fitted either
            whole, stored = stored, stored.truncated(keep)
            keep = None if stored is whole else keep
        usual = _usual_batch(stored, kind)
        work = cls(
            stored=stored,
            names=tuple(expand_shards(shards, allow_pipe=options.allow_pipe)),
            options=options,
            steps=options.steps or stored.base.solver.steps,
            precision=_precision(options.precision, stored, torch.device(kind)),
            keep=keep,
            batch_size=options.batch_size or usual,
            # of the usual batch: how an item is summed up does not depend on how many are fitted with it
            chunk=stored.base.chunk(usual, kind),
            stdin=stdin,
        )
        work._prepare()
        return work

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (self.names, self.options, self.steps, self.precision, self.keep, self.batch_size, self.chunk)
        return _unpickled, (self.stored.content, *facts)

    def _prepare(self) -> None:
        """Have the base do what was asked for."""
        self.stored.base.field.network.sweep_dtype = HALF.get(self.precision)
        sample(self.stored.base, self.options.footprint)

    def with_budgets(self, budgets: Budgets) -> "Work":
        """As a run that began before this process computes, on another kind of device perhaps."""
        return replace(self, batch_size=self.options.batch_size or budgets.batch_size, chunk=budgets.chunk)

    @property
    def budgets(self) -> Budgets:
        return Budgets(batch_size=self.batch_size, chunk=self.chunk)

    @property
    def is_piped(self) -> bool:
        """Some of the input can be read only once."""
        return any(is_read_once(name) for name in self.names)

    @property
    def described(self) -> str:
        """The shards, in words: the first few."""
        return ", ".join(map(shown, self.names[:3]))

    def stream(self, name: str) -> BinaryIO | None:
        """The open stream of a shard, if there is one: stdin."""
        return self.stdin if name == "-" else None

    @property
    def workers(self) -> int:
        """Decoding threads; a task of Ray has one core."""
        if self.options.workers is not None:
            return self.options.workers
        return 1 if self.options.engine == "ray" else os.cpu_count() or 1

    @property
    def field(self) -> str | None:
        return self.options.field or self.stored.recipe.data.field

    @property
    def overlap(self) -> tuple[int, ...]:
        """Points that neighbouring tiles share along each axis."""
        return () if self.options.tile is None else overlap_of(self.stored.base, self.options.tile)

    @property
    def layout(self) -> Layout:
        base = self.stored.base
        return Layout(
            axes=AXES[base.axes.dims], sites=base.sites, latent=base.latent, bits=self.options.bits,
            tiled=self.options.tile is not None, overlap=self.overlap, has_views=self.options.views > 1,
            modality=base.axes.kind, variables=base.axes.variables,
        )  # fmt: skip

    @property
    def plan(self) -> dict[str, Any]:
        """What the functaset is to be."""
        return plan_of(self.layout, self.settings)

    @cached_property
    def digest(self) -> str:
        """By which blocks are known to be of this work."""
        return digest_of_plan(self.plan)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes another functaset when it changes; batch size and device do not."""
        options = self.options
        return {
            "base": self.stored.sha256,
            "shards": [short_name(name) for name in self.names],
            "solver": self.stored.recipe.solver.kind,
            "steps": self.steps,
            "keep": self.keep,
            "min_gain": options.min_gain,
            "precision": self.precision,
            "field": self.field,
            "resize": _plain(options.resize),
            "crop": _plain(options.crop),
            "tile": options.tile,
            "limit": options.limit,
            # functasets of earlier versions do not name it
            **({} if options.footprint == "point" else {"footprint": options.footprint}),
            **({} if options.views == 1 else {"views": options.views, "augment": options.augment}),
        }

    @property
    def reading(self) -> Reading:
        options, views = self.options, None
        if options.augment is not None:
            seed = self.stored.recipe.training.seed
            mirrored_axis = self.stored.base.axes.modality.mirrored_axis
            views = Views(options.views, parse_augment(options.augment), seed, mirrored_axis)
        return Reading(self.stored.base.axes, self.field, options.transform, options.tile, self.overlap, views)

    @cached_property
    def codec(self) -> Codec:
        """How latents are stored."""
        base = self.stored.base
        mean, std = base.latent_mean.cpu().numpy(), base.latent_std.cpu().numpy()
        return CODECS[self.options.bits].for_latents(mean, std, is_canonical=base.is_canonical)

    @property
    def block(self) -> int:
        """Records in a block, the unit of saving: a property of the base, so that batches are the same in every run."""
        return int(min(MOST_BLOCK, max(LEAST_BLOCK, BLOCK_VALUES // _usual_points(self.stored))))


def _unpickled(content: bytes, names: tuple[str, ...], options: EncodeOptions, *facts: Any) -> Work:
    """The same work on a device of this process; without an open stdin, which cannot travel."""
    work = Work(base_from_bytes(content, "the base", device_of(options.device)), names, options, *facts)
    work._prepare()
    return work


def _device_of_tasks(options: EncodeOptions) -> str:
    """`cpu` or `cuda` for tasks of Ray, whatever this process has; else as asked."""
    if options.engine != "ray":
        return options.device
    device = "cuda" if options.gpus_per_task else "cpu"
    if options.device not in ("auto", device):
        raise UsageError(
            f"tasks of Ray with {options.gpus_per_task:g} GPUs each do not run on --device {options.device}",
            hint="leave --device out; --gpus-per-task says whether they have GPUs",
        )
    return device


def _check(options: EncodeOptions, stored: StoredBase) -> None:
    axes, solver = stored.base.axes, stored.recipe.solver.kind
    if options.solver is not None:
        lookup(SOLVERS, options.solver, what="solver")
    if options.solver not in (None, solver):
        raise UsageError(
            f"the base was learned for the solver {solver!r}, not {options.solver!r}",
            hint="leave --solver out, or learn a base with it",
        )
    if options.channels not in (None, axes.channels):
        raise UsageError(
            f"the base was learned on {axes.channels} channels, not {options.channels}",
            hint="leave --channels out, or learn a base with it",
        )
    check_possible(axes, options.transform, options.tile)
    if options.views > 1 and axes.modality.has_coordinates:
        raise UsageError(f"--views are not for {axes.described}, which have places of their own", hint="leave them out")


def _precision(name: str, stored: StoredBase, device: torch.device) -> str:
    """`auto` is what the base was learned with. On a processor without units for it, float32 is used."""
    learned = stored.description.training.get("precision")
    if name == "auto" and learned in HALF and device.type == "cpu":
        name = str(learned)
    return usable_precision(name, device)


def _usual_batch(stored: StoredBase, kind: str) -> int:
    """Items that are fitted together on a kind of device, unless another number is asked for."""
    items, points, numbers = MOST_TOGETHER[kind]
    fitted = numbers // stored.base.footprint.workspace
    if stored.base.field.is_linear:
        points *= LINEAR_TOGETHER
    return max(1, min(items, points // _usual_points(stored), fitted))


def _usual_points(stored: StoredBase) -> int:
    """Points of a training item."""
    shapes = stored.description.training.get("shapes") or [[1024]]
    return max(1, int(np.prod([float(size) for size in shapes[0]])))


def _plain(size: Size | None) -> int | list[int] | None:
    """A size as JSON holds it."""
    return list(size) if isinstance(size, tuple) else size
