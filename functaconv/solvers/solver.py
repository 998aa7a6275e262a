"""What a solver is: a way to fit latents, one step after another.

A solver sees the data and the network through a `Problem` only. It is an `nn.Module`: what it has learned is
part of the base.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from functaconv.shapes import Latents, PerItem
from functaconv.solvers.linearization import Gradient
from functaconv.solvers.problem import Problem


class SolverOptions:
    """The section `solver` of a recipe; a subclass is a frozen pydantic dataclass that gives `kind` its name."""

    kind: str
    steps: int


class Solver(nn.Module, ABC):
    """How latents are fitted; a subclass has to define `Options` and `step`."""

    Options: ClassVar[type[SolverOptions]]

    needs_jacobian: ClassVar[bool] = False
    """its steps use the normal equations, not only the gradient"""
    is_adaptive: bool = False
    """a step that makes an item worse is taken back and tried again with more damping"""
    solves_linear: ClassVar[bool] = False
    """one step ends at the optimum where the network is linear in its latent: further ones are not worth learning
    through"""
    exports_canonical: ClassVar[bool] = False
    """`change_basis` can follow a change of basis of the latents, so the base may be exported with canonical ones"""

    momentum: float = 0.0
    """share of the step before that a fit adds to each step, but for the first two"""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    @property
    def is_canonical(self) -> bool:
        """The latents have been brought to their canonical basis."""
        return False

    def going_on(self, step: Latents, before: Latents, number: int) -> Latents:
        """Step `number` of a fit, and the share of the one before that goes on: none of the first one, which may have
        ended at an optimum.
        """
        return step + self.momentum * before if self.momentum and number > 1 else step

    def prepare(self, problem: Problem) -> None:
        """Compute what all steps share; called once, before the first one."""

    def linearize(self, problem: Problem, latents: Latents) -> Gradient:
        """What the next step needs to know at these latents."""
        return problem.normal_equations(latents) if self.needs_jacobian else problem.gradient(latents)

    @abstractmethod
    def step(self, problem: Problem, view: Gradient, number: int, damping_scale: PerItem | None = None) -> Latents:
        """What to add to the latents at which `view` was taken.

        `number` counts steps from 0. Above 1 `damping_scale` asks for a smaller step of an item, below for a larger.
        """

    @torch.no_grad()
    def project(self) -> None:
        """Bring what is learned back within its limits, after an outer update."""

    def change_basis(self, matrix: Float[Tensor, "latent latent"]) -> None:
        """Fit as before where latents are `matrix @ other` of the others that are fitted from now on."""
        raise NotImplementedError


class SolverKind(Protocol):
    """An entry of the table of solvers: a subclass of `Solver`."""

    needs_jacobian: bool
    exports_canonical: bool

    @property
    def Options(self) -> type[SolverOptions]: ...  # noqa: N802 - a class

    def __call__(self, latent: int, options: Any, *, generator: torch.Generator | None) -> Solver:
        """A solver of so many numbers per site, initialised from a generator; without one, to be loaded over."""
