"""What a base is learned from: training items in batches, validation items, and what all of them have in common."""

import itertools
import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

import numpy as np

from functaconv.data.copies import LocalCopies
from functaconv.data.items import Record
from functaconv.errors import InputError, ItemError, OtherVariablesError
from functaconv.modalities.sphere import Globe
from functaconv.signals.batch import Batch, batched
from functaconv.signals.collection import Collection
from functaconv.signals.geometry import Flat, Geometry
from functaconv.signals.grid import AnyGrid
from functaconv.signals.normalizer import Normalizer, levels_of
from functaconv.signals.sampler import Draw, Position, draws, loaded
from functaconv.signals.signal import Signal
from functaconv.training.closed_form.floor import sampled
from functaconv.training.distributed import Group
from functaconv.training.held_out import held_out
from functaconv.training.progress import Watcher
from functaconv.training.request import Request

HELD_OUT, MOST_HELD_OUT = 0.02, 256
# large items are validated on fewer of them: it would take longer than the learning
LEAST_VALIDATED, VALIDATION_POINTS = 16, 1 << 20
# training items from which the range of the latents is taken: fewer where they are large
LATENT_SAMPLE, LEAST_SAMPLE, SAMPLE_POINTS = 512, 8, 1 << 20
# items that are left out, told with the reason of each
MOST_TOLD = 10
# items whose sizes are compared, and the share of distinct ones that deserves a warning
COMPARED, MOST_DISTINCT = 64, 0.5


class Dataset:
    """The items of a training. All ranks have the same ones to learn from; the first one validates."""

    def __init__(self, request: Request, watcher: Watcher, group: Group) -> None:
        self._request, self._watcher, self._group = request, watcher, group
        self._axes = request.choice.axes
        self._reading = request.recipe.data.reading(self._axes)
        self._left_out = itertools.count(1)
        self._compared: list[tuple[int, ...]] = []
        self.shapes: set[tuple[int, ...]] = set()
        copies = group.first_of_machine(lambda: LocalCopies(request.shards, watcher.announce))
        self._items = self._collection(request.shards, copies)
        self.indices, self.validation = self._split()

    @property
    def records(self) -> set[int]:
        """Those that are learned from, usable or not."""
        return {index // self._items.each for index in self.indices}

    @property
    def bad(self) -> set[int]:
        """Records that this rank found unusable."""
        return self._items.bad

    def batches(self, position: Position) -> Generator[tuple[list[Batch], Draw]]:
        """This rank's share of one batch after another, grouped by shape, decoded in threads."""
        training = self._request.recipe.training
        # a mixed item needs others of the batch, which may be those of other ranks
        share = (lambda items: slice(0, items)) if training.mixup else self._group.share
        drawn = draws(self.indices, training.batch_size, training.seed, position)
        pin = self._request.device.type == "cuda"
        return loaded(drawn, self._items.__getitem__, share, workers=self._request.workers, pin=pin)

    def note(self, batches: Sequence[Batch]) -> None:
        """Remember which shapes were learned from, and say it when they hardly ever repeat."""
        self.shapes |= {batch.shape for batch in batches}
        if len(self._compared) < COMPARED:
            self._compared += [batch.shape for batch in batches for _ in range(len(batch))]
            sizes, count = len(set(self._compared)), len(self._compared)
            if count >= COMPARED and sizes > MOST_DISTINCT * count:
                advice = "; --resize, --crop or --tile makes them alike" if self._axes.modality.can_transform else ""
                self._watcher.announce(
                    f"{sizes} sizes among {count} items: few can be learned from together, which is slow{advice}"
                )

    def closed_form_sample(self) -> list[Batch]:
        """Training items that a closed form is fitted to."""
        batches = list(sampled(self._items.__getitem__, self.indices, self._request.recipe))
        self.shapes |= {batch.shape for batch in batches}
        return batches

    def latent_sample(self) -> Iterator[Batch]:
        """Some training items, for the range of the latents."""
        training = self._request.recipe.training
        points = max((math.prod(shape) for shape in self.shapes), default=1)
        count = min(LATENT_SAMPLE, max(LEAST_SAMPLE, SAMPLE_POINTS // points))
        chosen = np.random.default_rng((training.seed, 1)).permutation(self.indices)[:count]
        signals = ((int(index), signal) for index in sorted(chosen) if (signal := self._items[int(index)]) is not None)
        return batched(signals, min(64, training.batch_size))

    def described(self, saved: Mapping[str, Any] | None) -> tuple[Normalizer, Geometry]:
        """In which range the values of the training items lie, and where their points do; as `saved`, if given."""
        axes = self._axes
        if saved is None and axes.modality.has_code_range:
            return Normalizer.of_code_range(axes.channels), Flat(axes.dims)
        values = self._group.first(self._looked_through) if saved is None else saved
        geometry = values["geometry"]
        return (
            Normalizer(tuple(values["offset"]), tuple(values["scale"]), levels_of(values["levels"])),
            Flat(axes.dims) if geometry is None else Globe(**geometry),
        )

    def _looked_through(self) -> dict[str, Any]:
        """The same, from the training items themselves, in values that JSON has."""
        axes, data = self._axes, self._request.recipe.data
        grids: dict[AnyGrid, None] = {}

        def signals() -> Iterator[Signal]:
            for signal in self._items.all(workers=os.cpu_count() or 1):
                if signal.own_grid is not None:
                    grids[signal.own_grid] = None
                yield signal

        normalizer = Normalizer.of_range(signals(), data.levels)
        if normalizer.levels:
            self._watcher.announce(f"levels have ranges of their own: {', '.join(normalizer.levels)}")
        return plainly(normalizer, axes.modality.geometry(grids, axes, data.geometry))

    def _split(self) -> tuple[list[int], list[Batch]]:
        """Indices to train on, and batches to validate on, whose positions are the numbers of the records."""
        request, count, each = self._request, self._items.records, self._items.each
        chosen = [] if request.validation else held_out(count, min(MOST_HELD_OUT, math.ceil(HELD_OUT * count)))
        records = set(range(count)) - (set(chosen) if count > len(chosen) else set())
        if chosen and len(records) == count:
            self._watcher.announce("too few items to hold any out: the validation PSNR is that of the training items")
        indices = [record * each + number for record in sorted(records) for number in range(each)]
        if not self._group.is_first:
            return indices, []
        others = self._items
        if request.validation:
            others = self._collection(request.validation, LocalCopies(request.validation, self._watcher.announce))
            order = np.random.default_rng((request.recipe.training.seed, 0)).permutation(others.records)
            chosen = order[:MOST_HELD_OUT].tolist()
        return indices, self._validation(others, chosen)

    def _validation(self, items: Collection, records: Sequence[int]) -> list[Batch]:
        signals: list[tuple[int, Signal]] = []
        points = 0
        for record, signal in ((number, signal) for number in records for signal in items.signals(number)):
            if len(signals) >= LEAST_VALIDATED and points >= VALIDATION_POINTS:
                break
            signals.append((record, signal))
            points += math.prod(signal.shape)
        signals.sort(key=itemgetter(0))
        return list(batched(signals, min(64, self._request.recipe.training.batch_size)))

    def _collection(self, shards: Sequence[str], copies: LocalCopies) -> Collection:
        return Collection(shards, self._decode, each=self._request.choice.tiles, copies=copies)

    def _decode(self, record: Record) -> Sequence[Signal]:
        try:
            return [tile.signal for tile in self._reading.tiles(record)]
        except OtherVariablesError as error:
            raise InputError(
                f"mixed dataset: {record.key}: {error}",
                hint="put grids of different variables, or in different units, in shards of their own",
            ) from error
        except ItemError as error:
            number = next(self._left_out)
            if number <= MOST_TOLD:
                more = "; what else is left out is only counted" if number == MOST_TOLD else ""
                self._watcher.announce(f"left out {record.key}: {error}{more}")
            return ()


def plainly(normalizer: Normalizer, geometry: Geometry) -> dict[str, Any]:
    """In values that JSON has."""
    return {
        "offset": normalizer.offset,
        "scale": normalizer.scale,
        "levels": dict(normalizer.levels),
        "geometry": asdict(geometry) if isinstance(geometry, Globe) else None,
    }
