"""Decoded items beside the originals, from which a modality computes its measures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from functaconv.shapes import Features
from functaconv.signals.batch import Batch


@dataclass(frozen=True, eq=False)
class Compared:
    """A batch, decoded; all on one device."""

    batch: Batch
    features: Features
    """as normalised"""
    decoded: Features
    difference: Features
    """decoded less original, in units of `unit`"""
    unit: Tensor
    """`[channel]`, the range of each channel in raw units"""

    def mean(self, values: Tensor, axes: tuple[int, ...], weights: Tensor | None = None) -> Tensor:
        """Weighted mean of `[item, point, channel]` values over axes and what is valid; NaN where nothing is."""
        share = torch.ones_like(values) if weights is None else weights.expand_as(values)
        if self.batch.valid is not None:
            share = share * self.batch.valid.to(values.device)
        return (values * share).sum(axes) / share.sum(axes)

    def largest(self, values: Tensor) -> Tensor:
        """The largest of each item's and channel's valid values, which are not negative; 0 where nothing is valid."""
        valid = self.batch.valid
        return (values if valid is None else values.masked_fill(~valid.to(values.device), 0.0)).amax(1)
