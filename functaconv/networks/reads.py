"""Which sites' latents the cells read, and sums over all cells that read a site.

Around a pole the mean of the row of sites next to it is read as if it were a site's: see `Poles`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from functaconv.shapes import Latents


@dataclass(frozen=True)
class OrderedSum:
    """Adds up the rows that have the same number, always in the same order.

    `index_add` on a GPU adds in the order in which its threads come by, and the last bits change from run to run. Here
    the rows of every number are listed once, padded to one length; then they are gathered and summed.
    """

    numbers: Int[Tensor, " number"]
    """those that rows have, each once"""
    rows: Int[Tensor, "number row"] | None
    """the rows of each number, padded with one beyond the last; None: row i is the only one of number i"""
    count: int
    """how many sums there are"""

    @classmethod
    def of(cls, index: Int[Tensor, " row"], count: int) -> "OrderedSum":
        """The sums of rows whose numbers are `index`; rows with the number `count` belong to none."""
        order = torch.argsort(index, stable=True)
        order = order[index[order] < count]
        numbers, lengths = torch.unique_consecutive(index[order], return_counts=True)
        place = torch.arange(int(lengths.amax(0)) if len(order) else 0, device=index.device)
        rows = (lengths.cumsum(0) - lengths)[:, None] + place
        rows = torch.where(place < lengths[:, None], order[rows.clamp(max=len(order) - 1)], len(index))
        return cls(numbers, rows, count)

    def __call__(self, values: Float[Tensor, "item row *rest"]) -> Float[Tensor, "item number *rest"]:
        if self.rows is not None:
            padded = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
            values = padded[:, self.rows].sum(2)
        if len(self.numbers) == self.count and self.rows is not None:
            return values
        return values.new_zeros(len(values), self.count, *values.shape[2:]).index_copy(1, self.numbers, values)


@dataclass(frozen=True)
class Poles:
    """Poles that a grid of sites reaches: there all of the last axis is one place, and the mean of the row of
    sites around it is what is read. These means follow the sites, as sites of their own.
    """

    shape: tuple[int, ...] = ()
    """sites along each axis"""
    reached: tuple[bool, bool] = (False, False)
    """at the beginning and at the end of the first axis"""

    @property
    def count(self) -> int:
        return sum(self.reached)

    @property
    def _rows(self) -> list[slice]:
        """The sites around each pole."""
        sites, around = math.prod(self.shape), self.shape[-1] if self.shape else 0
        rows = (slice(0, around), slice(sites - around, sites))
        return [row for row, is_reached in zip(rows, self.reached, strict=True) if is_reached]

    def extended(self, values: Float[Tensor, "item site *rest"]) -> Float[Tensor, "item place *rest"]:
        """Values of the sites, and after them those at the poles."""
        if not self.count:
            return values
        return torch.cat([values, *(values[:, row].mean(1, keepdim=True) for row in self._rows)], 1)

    def folded(self, values: Float[Tensor, "item place *rest"]) -> Float[Tensor, "item site *rest"]:
        """The adjoint of `extended`."""
        if not self.count:
            return values
        own, polar = values[:, : -self.count].clone(), values[:, -self.count :]
        for number, row in enumerate(self._rows):
            own[:, row] += polar[:, number : number + 1] / self.shape[-1]
        return own


NO_POLES = Poles()


@dataclass(frozen=True)
class Reads:
    """Whose latents each cell depends on: the sites', then the poles'; the number after these stands for "none": a
    place beyond the border.
    """

    index: Int[Tensor, "cell read"]
    sites: int
    is_distinct: bool = False
    """every cell reads one site, and no two cells the same"""
    poles: Poles = NO_POLES

    @property
    def each(self) -> int:
        """How many sites a cell reads."""
        return self.index.shape[1]

    def of(self, latents: Latents) -> Float[Tensor, "item cell number"]:
        """What each cell reads, one site's numbers after the other's."""
        padded = torch.cat([self.poles.extended(latents), torch.zeros_like(latents[:, :1])], 1)
        return padded[:, self.index].flatten(2)

    def onto_sites(self, values: Float[Tensor, "item row *rest"]) -> Float[Tensor, "item site *rest"]:
        """Sums of what cells say of the sites they read, `[item, cell * read, ...]` to `[item, site, ...]`."""
        return self.poles.folded(self._onto_places(values))

    def onto_pairs(self, values: Float[Tensor, "item row *rest"]) -> Float[Tensor, "item site other *rest"]:
        """The same for pairs of sites that a cell reads, `[item, cell * read * read, ...]` to
        `[item, site, site, ...]`.
        """
        places = self.sites + self.poles.count
        sums = self._onto_pairs_of_places(values)
        sums = sums.reshape(len(sums), places, places, *sums.shape[2:])
        return self.poles.folded(self.poles.folded(sums).transpose(1, 2)).transpose(1, 2)

    @cached_property
    def _onto_places(self) -> OrderedSum:
        if self.is_distinct:
            return OrderedSum(self.index[:, 0], None, self.sites)
        return OrderedSum.of(self.index.flatten(), self.sites + self.poles.count)

    @cached_property
    def _onto_pairs_of_places(self) -> OrderedSum:
        places = self.sites + self.poles.count
        one, other = self.index[:, :, None], self.index[:, None, :]
        is_none = (one == places) | (other == places)
        return OrderedSum.of(torch.where(is_none, places**2, one * places + other).flatten(), places**2)
