"""Samples that are means over cells, not values at points: so items of a coarse grid are fitted with a base that was
learned on a finer one.

What a base knows of an item are values at the points of the training items, each of which stands for a small cell.
The mean of a cosine over an interval is the cosine at its middle times a sinc: for a global latent's cosines the mean
over a larger cell is exact. Every other network is averaged over sub-points, as close to each other as those points.
"""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from functaconv.cache import Cache
from functaconv.errors import UsageError
from functaconv.networks import ModulatedNetwork, Placement
from functaconv.networks.fourier import Fourier
from functaconv.networks.reads import OrderedSum, Reads
from functaconv.shapes import CellFeatures, CellJacobian, Latents
from functaconv.signals.geometry import Geometry, Points
from functaconv.signals.grid import AnyGrid, Grid

# numbers of an item, all of which a mean may depend on, and entries of the Jacobian
MOST_NUMBERS, MOST_ENTRIES = 4096, 1 << 26
# grids, and their points, whose means are kept
MOST_GRIDS, MOST_KEPT = 64, 1 << 20


@dataclass(frozen=True)
class Trained:
    """What a base was learned on, as far as that is known."""

    shape: tuple[int, ...] | None = None
    """of an item"""
    mse: float | None = None
    """of items that were not learned from: what the base cannot say"""

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> "Trained":
        """From what a base's file says of its training."""
        shapes, psnr = training.get("shapes"), training.get("psnr")
        return cls(tuple(shapes[0]) if shapes else None, None if psnr is None else 10 ** (-psnr / 10))


class Areas:
    """The fields of means over the cells of grids, each made once."""

    def __init__(self, geometry: Geometry, trained: Trained) -> None:
        self.geometry, self.trained = geometry, trained
        self._known: Cache[tuple[Any, Placement]] = Cache(MOST_KEPT, MOST_GRIDS)

    def of(self, field: ModulatedNetwork, grid: AnyGrid, points: Points, placement: Placement) -> tuple[Any, Placement]:
        """What gives the means over the grid's cells (a `ModulatedNetwork`, or `CellMeans`), and where they are placed.
        `points` and `placement` are those of the cells' centres.
        """
        key = (grid, points.coords.device)
        return self._known.get(key, grid.points, lambda: self._made(field, grid, points, placement))

    def _made(
        self, field: ModulatedNetwork, grid: AnyGrid, points: Points, placement: Placement
    ) -> tuple[Any, Placement]:
        trained = self.trained.shape or grid.shape
        if isinstance(grid, Grid) and (exact := exactly(field, grid.shape, trained)) is not None:
            return exact, placement
        pairs = zip(trained, grid.shape, strict=True)
        halvings = max(math.ceil(math.log2(max(1, most / size))) for most, size in pairs)
        fine = grid
        for _ in range(halvings):
            fine = fine.halved()
        # [point, sub-point]: numbers of the finer grid's points
        parts = [side for size in grid.shape for side in (size, 2**halvings)]
        order = torch.arange(fine.points, device=points.coords.device).reshape(parts)
        order = order.permute(*range(0, len(parts), 2), *range(1, len(parts), 2)).reshape(grid.points, -1)
        sub_points = self.geometry.points(fine).to(points.coords)
        means = CellMeans(field, field.sites.place(sub_points.coords, sub_points.positions), order)
        index = torch.arange(grid.points, device=points.coords.device)[None]
        return means, Placement(points.coords[None], index, None, None, None, field.sites.count)


@torch.no_grad()
def exactly(field: ModulatedNetwork, shape: tuple[int, ...], trained: tuple[int, ...]) -> ModulatedNetwork | None:
    """The field of means over the cells of a grid of the unit cube, around their centres; None unless it is one of
    cosines alone, of a global latent. Training items' values, of the shape `trained`, are means over their smaller
    cells too.
    """
    finer = [max(sizes) for sizes in zip(shape, trained, strict=True)]
    network = field.network
    if not isinstance(network, Fourier) or network.learned or len(network.weights):
        return None
    if field.sites.count > 1 or field.is_corrected:
        return None

    def gains(frequencies: Tensor) -> Tensor:
        coarse, fine = (frequencies / (2 * frequencies.new_tensor(sizes)) for sizes in (shape, finer))
        return (torch.sinc(coarse) / torch.sinc(fine)).prod(1)

    means, own = deepcopy(field), deepcopy(network)
    of_weights = gains(network.frequencies).repeat_interleave(network.channels)
    own.readout.mul_(of_weights)
    own.mean.mul_(gains(network.mean_frequencies)[:, None])
    means.network = own
    means.latent_map.weight.mul_(of_weights[:, None])
    return means


@dataclass(frozen=True)
class CellMeans:
    """A field whose features are means of another one's over sub-points, for one grid.

    A cell may reach over several of the field's: all points are one cell here, which reads all sites.
    """

    field: ModulatedNetwork
    fine: Placement
    order: Int[Tensor, "point sample"]
    """the sub-points of each point, as numbers of `fine`"""

    @property
    def is_linear(self) -> bool:
        return self.field.is_linear

    @property
    def is_corrected(self) -> bool:
        return self.field.is_corrected

    @property
    def keeps_derivatives(self) -> bool:
        return self.field.keeps_derivatives

    @cached_property
    def _reads(self) -> Reads:
        sites = self.fine.sites
        return Reads(torch.arange(sites, device=self.order.device)[None], sites)

    def reads(self, placement: Placement) -> Reads | None:
        """Every cell reads all sites."""
        return None if self.fine.sites == 1 else self._reads

    def __call__(self, latents: Latents, placement: Placement) -> CellFeatures:
        """Means over the cells, `[item, 1, point, channel]`."""
        return self._means(self.field(latents, self.fine))

    def refined(self, linear: CellFeatures, latents: Latents, placement: Placement) -> CellFeatures:
        """Means of the linear part, with those of what a refinement adds."""
        if self.field.refinement is None:
            return linear
        nothing = linear.new_zeros(len(latents), *self.fine.index.shape, linear.shape[-1])
        return linear + self._means(self.field.refined(nothing, latents, self.fine))

    def vjp(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, Callable[[CellFeatures], Latents]]:
        """The means, and the function that pulls a cotangent of them back onto the latents."""
        features, pullback = self.field.vjp(latents, self.fine)

        def onto_latents(cotangent: CellFeatures) -> Latents:
            shared = cotangent[:, 0, self._owner[self.fine.index]] / self.order.shape[1]
            return pullback(shared if self.fine.valid is None else shared * self.fine.valid)

        return self._means(features), onto_latents

    def jacobian(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, CellJacobian]:
        """The means, and their derivatives by the numbers of all sites."""
        features, rows = self.field.jacobian(latents, self.fine)
        numbers = self.fine.sites * latents.shape[-1]
        size = len(rows) * len(self.order) * rows.shape[3] * numbers
        if size > MOST_ENTRIES or numbers > MOST_NUMBERS:
            raise UsageError(
                f"--footprint area: {size} derivatives of {len(self.order)} points are too many (at most "
                f"{MOST_ENTRIES}, by at most {MOST_NUMBERS} numbers)",
                hint="--footprint point, or smaller items",
            )
        channels, sites, cells = rows.shape[3], self.fine.sites, self.fine.index
        reads = self.field.reads(self.fine)
        read = torch.arange(len(cells), device=cells.device)[:, None] if reads is None else reads.index
        # a point's derivative by a site, once for every sub-point and corner from which it comes
        pairs = self._owner[cells][:, :, None] * (sites + 1) + read[:, None]
        if self.fine.valid is not None:
            # padding belongs to no point
            pairs = torch.where(self.fine.valid > 0, pairs, len(self.order) * (sites + 1))
        entries = rows.reshape(*rows.shape[:4], read.shape[1], -1).transpose(3, 4).flatten(1, 3) / self.order.shape[1]
        dense = OrderedSum.of(pairs.flatten(), len(self.order) * (sites + 1))(entries)
        dense = dense.reshape(len(rows), len(self.order), sites + 1, channels, -1)[:, :, :sites]
        return self._means(features), dense.transpose(2, 3).flatten(3)[:, None]

    @cached_property
    def _owner(self) -> Int[Tensor, " point"]:
        """The point that each sub-point belongs to."""
        owner = torch.empty(self.order.numel(), dtype=torch.long, device=self.order.device)
        owner[self.order] = torch.arange(len(self.order), device=self.order.device)[:, None]
        return owner

    def _means(self, features: CellFeatures) -> CellFeatures:
        values = features.new_empty(len(features), self.order.numel(), features.shape[-1])
        return self.fine.scatter(features, values)[:, self.order].mean(2)[:, None]
