"""The normal matrix of a least-squares fit, J'WJ, cell by cell, and the ways to solve with it.

A cell contributes one small matrix over the latents it reads, as an element contributes to a stiffness matrix. Where
every cell reads a site of its own the whole is block diagonal; where cells overlap (linear interpolation, 3x3 latent
maps) it is assembled and factored when it is small or shared by many items, and solved by conjugate gradients with
the sites' own blocks as preconditioner when not.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.networks.reads import Reads
from functaconv.shapes import CellMatrices, ItemMask, Latents, PerItem

# numbers of an item up to which a matrix shared by all items is assembled
MOST_ASSEMBLED = 4096
# the same for matrices of single items: beyond that their factors cost more than conjugate gradients
MOST_ASSEMBLED_EACH = 512
CONJUGATE_STEPS = 16
# to the end: until what is left is this share, looked at now and then. With windows, 6x12x8 numbers and a third of the
# values missing 16 steps are 0.47 dB from the solution, these 0.01
MOST_CONJUGATE_STEPS, LOOK_EVERY, LEFT = 512, 16, 1e-8
# added where a division by zero would be possible
TINY = 1e-30


@dataclass(frozen=True)
class Metric:
    """What the damping is proportional to, in place of the identity: a positive definite matrix."""

    matrix: Float[Tensor, "latent latent"]
    inverse: Float[Tensor, "latent latent"]

    @classmethod
    def of(cls, matrix: Float[Tensor, "latent latent"]) -> "Metric":
        inverse, _ = torch.linalg.inv_ex(matrix.double())
        return cls(matrix, inverse.to(matrix.dtype))


@runtime_checkable
class Factor(Protocol):
    """Something that solves `(J'WJ + damping) x = J'W(y - f)`."""

    def solve(self, jt_residual: Latents) -> Latents: ...


@dataclass(frozen=True)
class NormalMatrix:
    """J'WJ of every item, or one for all items."""

    matrix: CellMatrices
    reads: Reads | None
    """whose latents a cell's rows and columns stand for; None when cell i reads site i only"""
    sites: int
    is_common: bool = False
    """one matrix for all items of all batches, not only for the items at hand"""

    @property
    def items(self) -> int:
        """How many matrices there are; one may stand for all items."""
        return len(self.matrix)

    @property
    def is_coupled(self) -> bool:
        """Latents of different sites depend on each other."""
        return self.reads is not None and self.reads.each > 1

    @property
    def latent(self) -> int:
        return self.matrix.shape[-1] // (1 if self.reads is None else self.reads.each)

    @cached_property
    def blocks(self) -> Float[Tensor, "item site latent latent"]:
        """Each site's own block of the whole matrix."""
        if self.reads is None:
            return self.matrix
        count, size, index = self.reads.each, self.latent, self.reads.index
        # a cell at the border may read a site twice: both places count, and so do the terms between them (not those
        # of a pole with its sites, which is near enough for damping and preconditioning)
        same = (index[:, :, None] == index[:, None, :]).to(self.matrix.dtype)
        elements = self.matrix.reshape(*self.matrix.shape[:2], count, size, count, size)
        own = torch.einsum("cab,icaxby->icaxy", same, elements).flatten(1, 2)
        return self.reads.onto_sites(own)

    def assembled(self) -> Float[Tensor, "item number number"]:
        """The whole matrix, sites one after the other."""
        device, sites, size = self.matrix.device, self.sites, self.latent
        reads = Reads(torch.arange(sites, device=device)[:, None], sites) if self.reads is None else self.reads
        count = reads.each
        elements = self.matrix.reshape(*self.matrix.shape[:2], count, size, count, size)
        pairs = reads.onto_pairs(elements.transpose(3, 4).flatten(1, 3))
        whole = pairs.transpose(2, 3)
        return whole.reshape(-1, sites * size, sites * size)

    def times(self, latents: Latents) -> Latents:
        """The product with one latent per item."""
        if self.reads is None:
            return _times(self.matrix, latents)
        product = _times(self.matrix, self.reads.of(latents))
        return self.reads.onto_sites(product.reshape(len(latents), -1, self.latent))

    def mean_diagonal(self, metric: Metric | None = None) -> PerItem:
        """The mean of the diagonal, in the coordinates in which the damping `metric` is the identity."""
        diagonal = self.blocks.mean(1)
        if metric is not None:
            return (diagonal * metric.inverse.T).sum((-2, -1)) / self.latent
        return diagonal.diagonal(dim1=-2, dim2=-1).mean(-1)

    def damped(self, damping: Tensor | float, metric: Metric | None = None, *, to_the_end: bool = False) -> Factor:
        """Add `damping * mean_diagonal * metric` to every site's block and factor.

        `damping` is one number, or one per item. Always finite: a matrix that cannot be factored is replaced by its
        diagonal.
        """
        # a Python number stays one: as a tensor on a GPU it would be copied there at every step
        damping = damping.to(self.matrix) if isinstance(damping, Tensor) else damping
        amount = damping * self.mean_diagonal(metric)
        eye = torch.eye(self.latent, device=self.matrix.device, dtype=self.matrix.dtype)
        eye = eye if metric is None else metric.matrix
        added = amount[:, None, None, None] * eye
        if not self.is_coupled:
            return _Blocks.of(self.blocks + added)
        numbers = self.sites * self.latent
        if numbers <= MOST_ASSEMBLED_EACH or (self.is_common and len(added) == 1 and numbers <= MOST_ASSEMBLED):
            every = torch.kron(torch.eye(self.sites, device=eye.device, dtype=eye.dtype), eye)
            whole = self.assembled() + amount[:, None, None] * every
            return _Blocks.of(whole[:, None])
        return ConjugateGradients(self, added, _Blocks.of(self.blocks + added), to_the_end=to_the_end)

    def select(self, chosen: Tensor) -> "NormalMatrix":
        """The matrices of some of the items."""
        return self if self.items == 1 else NormalMatrix(self.matrix[chosen], self.reads, self.sites)

    def where(self, mask: ItemMask, other: "NormalMatrix") -> "NormalMatrix":
        """The matrices of this where `mask` holds, those of `other` elsewhere."""
        if other is self:
            return self
        return NormalMatrix(torch.where(mask[:, None, None, None], self.matrix, other.matrix), self.reads, self.sites)


class CellMatrixSum:
    """Cell matrices of the pieces of a problem: those of one cell are added up, different cells stand side by side."""

    def __init__(self) -> None:
        self._cells: dict[int, CellMatrices] = {}

    def add(self, first: int, matrix: CellMatrices) -> None:
        """Add the matrices of the cells from number `first` on."""
        before = self._cells.get(first)
        self._cells[first] = matrix if before is None else before + matrix

    def total(self, reads: Reads | None, sites: int, *, is_common: bool = False) -> NormalMatrix:
        """The normal matrix of all cells, which read `reads`."""
        matrices = list(self._cells.values())
        return NormalMatrix(matrices[0] if len(matrices) == 1 else torch.cat(matrices, 1), reads, sites, is_common)


@dataclass(frozen=True)
class _Blocks:
    """Cholesky factors, one per site, or one for all the sites of an item."""

    lower: Float[Tensor, "item block number number"]

    @classmethod
    def of(cls, matrix: Float[Tensor, "item block number number"]) -> "_Blocks":
        lower, failed = torch.linalg.cholesky_ex(matrix)
        # not positive definite in this precision: a step along the gradient, scaled number by number
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        usable = (failed == 0) & torch.isfinite(lower).all(-1).all(-1)
        scale = diagonal.nan_to_num(0, 0, 0).clamp(min=0)
        scale = (scale + scale.amax(-1, keepdim=True) + TINY).sqrt()
        spare = torch.diag_embed(scale).detach()
        if torch.is_grad_enabled() and matrix.requires_grad:
            # a derivative must not go through a factor that failed: 0 * inf
            eye = torch.eye(matrix.shape[-1], device=matrix.device, dtype=matrix.dtype)
            lower, _ = torch.linalg.cholesky_ex(torch.where(usable[..., None, None], matrix, eye))
        return cls(torch.where(usable[..., None, None], lower, spare))

    def solve(self, jt_residual: Latents) -> Latents:
        by_block = jt_residual.reshape(len(jt_residual), self.lower.shape[1], -1)
        return self._solved(by_block).reshape(jt_residual.shape)

    def _solved(self, by_block: Float[Tensor, "item block number"]) -> Float[Tensor, "item block number"]:
        if len(self.lower) == 1:
            # cholesky_solve copies the factor in every call: five times the time at 4096 numbers and four items
            lower = self.lower[0]
            half = torch.linalg.solve_triangular(lower, by_block.permute(1, 2, 0), upper=False)
            steps: Tensor = torch.linalg.solve_triangular(lower.mT, half, upper=True)
            return steps.permute(2, 0, 1)
        return torch.cholesky_solve(by_block[..., None], self.lower)[..., 0]


@dataclass(frozen=True)
class ConjugateGradients:
    """Preconditioned conjugate gradients (Hestenes and Stiefel 1952): a fixed number of steps, none of which waits
    for the device, unless they go on to the end.
    """

    normal_matrix: NormalMatrix
    added: Float[Tensor, "item 1 latent latent"]
    preconditioner: Factor
    steps: int = CONJUGATE_STEPS
    to_the_end: bool = False
    """go on until there is nothing left to speak of, where no gradient goes back"""

    def solve(self, jt_residual: Latents) -> Latents:
        size = jt_residual.detach().abs().amax((1, 2), keepdim=True).clamp(min=TINY)
        jt_residual = jt_residual / size
        solution = torch.zeros_like(jt_residual)
        residual = jt_residual
        direction = preconditioned = self.preconditioner.solve(residual)
        energy = _dot(residual, preconditioned)
        whole, goes_on = energy, self.to_the_end and not torch.is_grad_enabled()
        for number in range(MOST_CONJUGATE_STEPS if goes_on else self.steps):
            if goes_on and number % LOOK_EVERY == 0 and not bool((energy > LEFT * whole).any()):
                break
            applied = self.normal_matrix.times(direction) + _times(self.added, direction)
            curved = _dot(direction, applied)
            # what has converged stays where it is: 0 / 0 is no step
            length = torch.where(curved > TINY, energy / curved.clamp(min=TINY), 0.0)[:, None, None]
            solution = solution + length * direction
            residual = residual - length * applied
            preconditioned = self.preconditioner.solve(residual)
            before, energy = energy, _dot(residual, preconditioned)
            ratio = torch.where(before > TINY, energy / before.clamp(min=TINY), 0.0)[:, None, None]
            direction = preconditioned + ratio * direction
        return size * solution


def _times(matrix: Tensor, values: Latents) -> Latents:
    """A matrix per cell times a vector per cell; one item's matrices may stand for all."""
    if len(matrix) == 1 and len(values) > 1:
        # [cell, number, number] @ [cell, number, item]
        return (matrix[0] @ values.permute(1, 2, 0)).permute(2, 0, 1)
    return (matrix @ values[..., None])[..., 0]


def _dot(one: Latents, other: Latents) -> PerItem:
    return (one * other).sum((1, 2))
