"""Training items that a closed-form fit looks at time and again, in memory, grouped by grid and mask."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from functaconv.base import Base
from functaconv.networks.cosines import by_axis, counts_of
from functaconv.signals.batch import Batch
from functaconv.signals.geometry import Geometry
from functaconv.signals.grid import AnyGrid
from functaconv.signals.normalizer import Normalizer
from functaconv.training.closed_form.domain import Average, Mean, Transform
from functaconv.training.closed_form.gaps import filled_with_mean, fitted_again, known_in_some

MOST_MASKS = 8
"""of a grid, that items share"""


@dataclass(frozen=True)
class Group:
    """Batches on one grid; where values are missing, missing at the same points, or at points of each item's own."""

    grid: AnyGrid
    weights: Tensor | None
    """`[point]`, what each point counts, 0 where values of all items are missing; None when all count the same"""
    batches: tuple[Batch, ...]
    known: tuple[Tensor | None, ...] = ()
    """where items miss values of their own: which values of each batch are not filled in"""

    @property
    def items(self) -> int:
        return sum(len(batch) for batch in self.batches)


@dataclass(frozen=True)
class Sample:
    """Items, and how their values become features."""

    normalizer: Normalizer
    geometry: Geometry
    groups: tuple[Group, ...]
    device: torch.device

    @classmethod
    def of(
        cls,
        batches: Iterable[Batch],
        normalizer: Normalizer,
        geometry: Geometry,
        device: torch.device,
        *,
        by_area: bool,
    ) -> "Sample":
        """Grouped; `by_area`: points of a globe's grid count by the area they stand for."""
        on_grids: dict[AnyGrid, list[Batch]] = {}
        for batch in batches:
            on_grids.setdefault(batch.grid, []).append(batch)
        groups = []
        for grid, mask, own in _alike(on_grids):
            known = known_in_some(own) if mask is None else mask[0].all(-1)
            weights = None if known.all() else known.float().to(device)
            if by_area and (areas := grid.areas()) is not None:
                areas = areas.to(device)
                weights = areas if weights is None else areas * weights
            if mask is None and any(batch.valid is not None for batch in own):
                filled = filled_with_mean(own, normalizer, device)
                groups.append(Group(grid, weights, filled, tuple(batch.valid for batch in own)))
            else:
                groups.append(Group(grid, weights, tuple(own)))
        return cls(normalizer, geometry, tuple(groups), device)

    @property
    def items(self) -> int:
        return sum(group.items for group in self.groups)

    @property
    def channels(self) -> int:
        return self.groups[0].batches[0].values.shape[-1]

    def part(self, values: int) -> "Sample":
        """Whole batches of about so many values, spread evenly; all groups are there."""
        whole = sum(batch.values.numel() for group in self.groups for batch in group.batches)
        step = max(1, round(whole / values))
        return replace(self, groups=tuple(
            replace(group, batches=group.batches[::step], known=group.known[::step]) for group in self.groups
        ))  # fmt: skip

    def filled_again(self, base: Base) -> "Sample":
        """The same items, with what their latents say where they miss values of their own."""
        return replace(self, groups=tuple(
            replace(group, batches=tuple(
                fitted_again(base, batch, known) for batch, known in zip(group.batches, group.known, strict=True)
            )) if group.known else group for group in self.groups
        ))  # fmt: skip

    def features(self, group: Group) -> Iterator[Tensor]:
        """Normalised values, `[item, point, channel]`, batch by batch; finite where values are missing."""
        for batch in group.batches:
            yield self.normalizer.features(batch.to(self.device)).float()

    def averages(self, counts: Sequence[int]) -> list[Average]:
        """The mean of each group's items."""
        averages = []
        for group in self.groups:
            total: Tensor | None = None
            squares = 0.0
            for features in self.features(group):
                total = features.double().sum(0) if total is None else total + features.double().sum(0)
                squares += float(features.double().square().sum())
            assert total is not None
            values = total / group.items
            weights = torch.full_like(values, group.items) if group.weights is None else (
                (group.weights[:, None] * group.items).expand_as(values)
            )  # fmt: skip
            variance = squares / (group.items * values.numel()) - float(values.square().mean())
            transform = Transform.of(group.grid, self.geometry, counts, self.device)
            averages.append(Average(transform, values.float(), weights.float(), max(0.0, variance)))
        return averages

    def residuals(self, group: Group, mean: Mean) -> Iterator[Tensor]:
        """What differs from the dataset's mean, `[item, point, channel]`, batch by batch."""
        average = self.mean_on(group, mean)
        for features in self.features(group):
            yield features - average

    def mean_on(self, group: Group, mean: Mean) -> Tensor:
        """The dataset's mean at a group's points, `[point, channel]`."""
        counts = counts_of(mean.frequencies)
        transform = Transform.of(group.grid, self.geometry, counts, self.device)
        return transform.synthesise(by_axis(mean.frequencies, counts, mean.weights)[None])[0]


def _alike(on_grids: Mapping[AnyGrid, Sequence[Batch]]) -> Iterator[tuple[AnyGrid, Tensor | None, list[Batch]]]:
    """Batches of one grid and one mask, with the mask, and those of one grid that miss values here and there: each
    mask has matrices of its own, so where there are many they are not told apart.
    """
    for grid, batches in on_grids.items():
        masks = {batch.mask_key: batch.valid for batch in batches if batch.mask_key is not None}
        if len(masks) > MOST_MASKS:
            masks = {}
        for key, mask in masks.items():
            yield grid, mask, [batch for batch in batches if batch.mask_key == key]
        if others := [batch for batch in batches if batch.mask_key not in masks]:
            yield grid, None, others
