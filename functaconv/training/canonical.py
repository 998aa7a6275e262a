"""Canonical latents: what a Gauss-Newton base's latents mean is brought to a common form when it is exported.

The latent map is linear, so it can absorb any change of basis: the functions stay the same, and the latents become
centred, uncorrelated, ordered by how much they matter, and measured in units of the error of the output. The first
numbers are then the best ones to keep, a missing one is a 0, and one quantisation step suits all. A base that learned
rates of gradient descent keeps the basis in which it learned them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from functaconv.base import Base
from functaconv.shapes import Latents
from functaconv.signals.batch import Batch

# of the mean of the normal matrix's eigenvalues, added to each, so that also a number that changes nothing has a
# length; float32 rounds by some 1e-6 of it
JITTER = 1e-4
TINY = 1e-30

Matrix = Float[Tensor, "latent latent"]


@dataclass(frozen=True)
class Basis:
    """`latent = matrix @ canonical + constant`, in float64 on the CPU."""

    matrix: Matrix
    inverse: Matrix
    constant: Float[Tensor, " latent"]

    @classmethod
    def of(cls, normal_matrix: Matrix, latents: Latents, *, is_centred: bool) -> "Basis":
        """Such that changes of a canonical latent have the length of the changes they make to the output, along the
        principal axes of the latents: the axes of what they differ from their mean, or from zero.
        """
        flat = latents.flatten(0, 1)
        constant = flat.mean(0) if is_centred else torch.zeros_like(flat[0])
        # root' root = normal_matrix; not by Cholesky: rounded in float32 a normal matrix may have negative eigenvalues
        strength, directions = torch.linalg.eigh(normal_matrix)
        root = (strength.clamp(min=0) + JITTER * strength.mean().clamp(min=TINY)).sqrt()[:, None] * directions.mT
        seen = (flat - constant) @ root.mT
        axes = torch.linalg.eigh(seen.mT @ seen / len(seen)).eigenvectors.flip(1)
        matrix = torch.linalg.solve(root, axes)
        # either direction of an axis would do: the largest entry is positive
        largest = matrix.abs().argmax(0)
        signs = matrix.gather(0, largest[None])[0].sign()
        return cls(matrix * signs, (root.mT @ axes * signs).mT, constant)

    def canonical(self, latents: Latents) -> Latents:
        """Latents in this basis."""
        return (latents - self.constant) @ self.inverse.mT


@torch.no_grad()
def make_canonical(base: Base, batches: Iterable[Batch]) -> Basis | None:
    """Rewrite a base, in place, for canonical latents; `batches` are some of its training items, and where there are
    none the base stays as it is. The new basis, in terms of the old.

    What their mean is becomes part of the network's biases where that is exact; elsewhere latents are not centred. The
    damping goes along: fits go the same way as before.
    """
    fitted = [(_normal_matrix(base, batch), base.encode(batch).latents.double().cpu()) for batch in batches]
    fitted = [(matrix, latents[latents.isfinite().all(-1).all(-1)]) for matrix, latents in fitted]
    count = sum(len(latents) for _, latents in fitted)
    if not count:
        return None
    latents = torch.cat([latents for _, latents in fitted])
    normal_matrix = torch.stack([matrix * (len(own) / count) for matrix, own in fitted]).sum(0)
    basis = Basis.of(normal_matrix, latents, is_centred=base.field.absorbs_constants)
    base.field.substitute(basis.matrix.to(base.device), basis.constant.to(base.device))
    base.start.copy_(basis.canonical(base.start.double().cpu()))
    base.solver.change_basis(basis.matrix)
    base.describe_latents(basis.canonical(latents))
    return basis


def _normal_matrix(base: Base, batch: Batch) -> Matrix:
    """J'WJ of a site at the start, averaged over the batch's items, in units of the error over a site's own points."""
    problem = base.problem(batch, chunk=base.chunk(len(batch)))
    blocks = problem.normal_equations(base.start).normal_matrix.blocks
    return blocks.double().mean(0).sum(0).cpu()
