"""Which sites' latents the cells read, and sums over all cells that read a site."""

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
class Reads:
    """Whose latents each cell depends on; the number of sites stands for "none": a place beyond the border."""

    index: Int[Tensor, "cell read"]
    sites: int
    is_distinct: bool = False
    """every cell reads one site, and no two cells the same"""

    @property
    def each(self) -> int:
        """How many sites a cell reads."""
        return self.index.shape[1]

    def of(self, latents: Latents) -> Float[Tensor, "item cell number"]:
        """What each cell reads, one site's numbers after the other's."""
        padded = torch.cat([latents, torch.zeros_like(latents[:, :1])], 1)
        return padded[:, self.index].flatten(2)

    @cached_property
    def onto_sites(self) -> OrderedSum:
        """Sums of what cells say of the sites they read, `[item, cell * read, ...]` to `[item, site, ...]`."""
        if self.is_distinct:
            return OrderedSum(self.index[:, 0], None, self.sites)
        return OrderedSum.of(self.index.flatten(), self.sites)

    @cached_property
    def onto_pairs(self) -> OrderedSum:
        """The same for pairs of sites that a cell reads, `[item, cell * read * read, ...]` to
        `[item, site * site, ...]`.
        """
        one, other = self.index[:, :, None], self.index[:, None, :]
        is_none = (one == self.sites) | (other == self.sites)
        return OrderedSum.of(torch.where(is_none, self.sites**2, one * self.sites + other).flatten(), self.sites**2)
