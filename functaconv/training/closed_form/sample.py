"""Training items that a closed-form fit looks at time and again, in memory, grouped by grid and mask."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from functaconv.signals.batch import Batch
from functaconv.signals.geometry import Geometry
from functaconv.signals.grid import AnyGrid
from functaconv.signals.normalizer import Normalizer
from functaconv.training.closed_form.domain import Average, Mean, Transform


@dataclass(frozen=True)
class Group:
    """Batches on one grid; where values are missing, missing at the same points."""

    grid: AnyGrid
    weights: Tensor | None
    """`[point]`, what each point counts, 0 where values are missing; None when all count the same"""
    batches: tuple[Batch, ...]

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
        alike: dict[tuple[object, ...], list[Batch]] = {}
        for batch in batches:
            is_shared = batch.valid is not None and len(batch.valid) == 1
            alike.setdefault((batch.grid, batch.mask_key if is_shared else None), []).append(batch)
        groups = []
        for (grid, _), own in alike.items():
            assert isinstance(grid, AnyGrid)
            weights = None
            if own[0].mask_key is not None and own[0].valid is not None:
                weights = own[0].valid[0].all(-1).float().to(device)
            if by_area and (areas := grid.areas()) is not None:
                areas = areas.to(device)
                weights = areas if weights is None else areas * weights
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
        return replace(self, groups=tuple(replace(group, batches=group.batches[::step]) for group in self.groups))

    def features(self, group: Group) -> Iterator[Tensor]:
        """Normalised values, `[item, point, channel]`, batch by batch; finite where values are missing."""
        fill: Tensor | None = None
        for batch in group.batches:
            features = self.normalizer.features(batch.to(self.device)).float()
            if batch.valid is not None and batch.mask_key is None:
                # masks that differ from item to item: what is missing counts as the mean of the others
                fill = self._fill(group) if fill is None else fill
                features = torch.where(batch.valid.to(self.device), features, fill)
            yield features

    def _fill(self, group: Group) -> Tensor:
        """The mean of the values that there are, `[point, channel]`."""
        total = torch.zeros(group.grid.points, self.channels, device=self.device)
        count = torch.zeros_like(total)
        for batch in group.batches:
            features = self.normalizer.features(batch.to(self.device)).float()
            valid = torch.ones_like(features) if batch.valid is None else batch.valid.to(features)
            total, count = total + (features * valid).sum(0), count + valid.expand_as(features).sum(0)
        overall = total.sum(0) / count.sum(0).clamp(min=1)
        return torch.where(count > 0, total / count.clamp(min=1), overall)

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
        average = self._mean_on(group, mean)
        for features in self.features(group):
            yield features - average

    def _mean_on(self, group: Group, mean: Mean) -> Tensor:
        """The dataset's mean at a group's points, `[point, channel]`."""
        counts = [int(most) + 1 for most in mean.frequencies.amax(0).tolist()]
        transform = Transform.of(group.grid, self.geometry, counts, self.device)
        place = torch.zeros_like(mean.frequencies[:, 0]).long()
        for axis, count in enumerate(counts):
            place = place * count + mean.frequencies[:, axis].long()
        coefficients = mean.weights.new_zeros(1, math.prod(counts), mean.weights.shape[1])
        coefficients[0, place] = mean.weights
        return transform.synthesise(coefficients)[0]
