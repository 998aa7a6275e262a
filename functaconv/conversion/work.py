"""Everything about an encoding that does not change while it runs."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from functaconv.checkpoint import StoredBase, read_base
from functaconv.errors import InputError, UsageError, lookup
from functaconv.fitting import SOLVERS
from functaconv.functaset.quantise import Quantiser
from functaconv.functaset.schema import Bits, Layout
from functaconv.signals.device import device_of, precision_of, sweep_dtype_of
from functaconv.signals.grid import AXES
from functaconv.signals.reading import Reading, check_possible
from functaconv.sources.images import ImageTransform, Size
from functaconv.sources.webdataset import (
    expand_shards,
    fingerprint,
    index_shard,
    is_read_once,
    is_seekable,
    shown,
)

CODE_SIGMAS = 4.5
"""8-bit codes span this many standard deviations of the training latents to either side"""
FINER = 4
"""how much finer the common step of canonical latents is than the widest one's codes allow: that one, and others more
than a quarter as wide, have steps of their own. Measured on CIFAR-10 with 256 numbers: 0.04 dB lost and 146 bytes, with
one step for all 0.49 dB and 105 bytes, with a step for each 0.02 dB and 235 bytes."""
BLOCK_VALUES = 1 << 19
LEAST_BLOCK, MOST_BLOCK = 16, 2048
BATCH_ON_CPU, BATCH_ON_GPU = 64, 1024
POINTS_ON_CPU, POINTS_ON_GPU = 1 << 16, 1 << 20
"""of a batch: on the CPU more would only leave the cache"""
NUMBERS_ON_CPU, NUMBERS_ON_GPU = 1 << 26, 1 << 30
"""that the fits of a batch may take"""
BITS: dict[str, Bits] = {"float16": "float16", "float32": "float32", "8": "8"}


@dataclass(frozen=True)
class Work:
    """A base, shards, and what to do with them."""

    stored: StoredBase
    names: Sequence[str]
    bits: Bits
    steps: int
    batch_size: int
    workers: int
    precision: str = "float32"
    may_lose_colour: bool = False
    """gray was asked for by name: colour images may be converted"""
    field: str | None = None
    transform: ImageTransform | None = None
    tile: int | None = None
    keep: int | None = None
    """how many of each site's numbers; the base is one of so many"""
    min_gain: float | None = None
    """dB of a step that brings too little to go on"""
    limit: int | None = None
    stdin: BinaryIO | None = None

    @classmethod
    def of(
        cls,
        base: Path | str,
        shards: str | Sequence[str],
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
        limit: int | None = None,
        allow_pipe: bool = False,
        workers: int | None = None,
        stdin: BinaryIO | None = None,
    ) -> "Work":
        """Check the request against the base; what makes no sense stops here, before any work."""
        stored = read_base(base, device_of(device))
        for name, value in {"steps": steps, "batch-size": batch_size, "limit": limit}.items():
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, not {value}")
        if min_gain is not None and not 0 <= min_gain < math.inf:
            raise UsageError(
                f"--min-gain must be 0 dB or more, not {min_gain:g}", hint="leave it out to take every step: --steps"
            )
        if solver is not None:
            lookup(SOLVERS, solver, what="solver")
        if solver not in (None, stored.recipe.solver.kind):
            raise UsageError(
                f"the base was learned for the solver {stored.recipe.solver.kind!r}, not {solver!r}",
                hint="leave --solver out, or learn a base with it",
            )
        if channels not in (None, stored.base.axes.channels):
            raise UsageError(
                f"the base was learned on {stored.base.axes.channels} channels, not {channels}",
                hint="leave --channels out, or learn a base with it",
            )
        check_possible(stored.base.axes, transform, tile)
        if keep is not None:
            # numbers that are left out are not fitted either
            whole, stored = stored, stored.truncated(keep)
            keep = None if stored is whole else keep
        precision = precision_of(precision, stored.base.device)
        stored.base.field.network.sweep_dtype = sweep_dtype_of(precision)
        if batch_size is None:
            on_cpu = stored.base.device.type == "cpu"
            most, room = (BATCH_ON_CPU, POINTS_ON_CPU) if on_cpu else (BATCH_ON_GPU, POINTS_ON_GPU)
            numbers = NUMBERS_ON_CPU if on_cpu else NUMBERS_ON_GPU
            fitted = numbers // stored.recipe.workspace(stored.base.axes.channels)
            batch_size = max(1, min(most, room // _usual_points(stored), fitted))
        return cls(
            stored,
            expand_shards([shards] if isinstance(shards, str) else list(shards), allow_pipe=allow_pipe),
            lookup(BITS, bits, what="kind of --bits"),
            steps=steps or stored.base.solver.steps,
            batch_size=batch_size,
            workers=(os.cpu_count() or 1) if workers is None else workers,
            precision=precision,
            may_lose_colour=channels == 1,
            field=field or stored.recipe.data.field,
            transform=transform,
            tile=tile,
            keep=keep,
            min_gain=min_gain,
            limit=limit,
            stdin=stdin,
        )

    @property
    def is_piped(self) -> bool:
        """Some of the input can be read only once."""
        return any(is_read_once(name) for name in self.names)

    @property
    def described(self) -> str:
        """The shards, in words: the first few."""
        return ", ".join(map(shown, self.names[:3]))

    def stream(self, name: str) -> BinaryIO | None:
        """What stands for a shard that is already open."""
        return self.stdin if name == "-" else None

    @cached_property
    def sources(self) -> list[Mapping[str, Any]]:
        """A fingerprint of every shard, by which a changed one is noticed."""
        return [fingerprint(name) for name in self.names]

    @property
    def layout(self) -> Layout:
        base = self.stored.base
        axes, tiled = AXES[base.axes.dims], self.tile is not None
        return Layout(
            axes=axes, sites=base.sites, latent=base.latent, bits=self.bits, tiled=tiled,
            modality=base.axes.kind, variables=base.axes.variables,
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
            "keep": self.keep,
            "min_gain": self.min_gain,
            "precision": self.precision,
            "field": self.field,
            "resize": _plain(transform.resize),
            "crop": _plain(transform.crop),
            "tile": self.tile,
            "limit": self.limit,
        }

    @property
    def reading(self) -> Reading:
        return Reading(self.stored.base.axes, self.field, self.transform, self.tile)

    @cached_property
    def quantiser(self) -> Quantiser:
        if self.bits != "8":
            return Quantiser(self.bits)
        base = self.stored.base
        mean, reach = base.latent_mean.cpu().numpy(), CODE_SIGMAS * base.latent_std.cpu().numpy()
        if base.is_canonical:
            # an error of any number is as large in the output: one step for all that it leaves room for
            reach = np.maximum(reach, reach.max() / FINER)
        return Quantiser.for_range(mean - reach, mean + reach)

    @property
    def block(self) -> int:
        """Records in a block, the unit of saving: a property of the base, so that batches are the same in every run."""
        return int(min(MOST_BLOCK, max(LEAST_BLOCK, BLOCK_VALUES // _usual_points(self.stored))))

    def expected(self) -> int | None:
        """About how many records there are: those of the first shard, in proportion to the bytes of all.

        None where that cannot be told: from a pipe or afar, compressed, or when the first shard is damaged.
        """
        sizes = [int(source.get("size", 0)) for source in self.sources]
        if self.is_piped or not all(sizes) or not is_seekable(self.names[0]):
            return self.limit
        try:
            records = round(len(index_shard(self.names[0])) * sum(sizes) / sizes[0])
        except InputError:
            # the work itself will come upon the damage, after the good items
            return None
        return records if self.limit is None else min(records, self.limit)


def _usual_points(stored: StoredBase) -> int:
    """Points of a training item."""
    shapes = stored.description.training.get("shapes") or [[1024]]
    return max(1, int(np.prod([float(size) for size in shapes[0]])))


def _plain(size: Size | None) -> int | list[int] | None:
    """A size as JSON holds it."""
    return list(size) if isinstance(size, tuple) else size
