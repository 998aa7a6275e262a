"""Gauss-Newton: the normal equations of the latent, solved at every step.

`(J'WJ + damping) step = J'W(y - f)` per item, J the derivative of the features by the latent; damping after Levenberg
(1944) and Marquardt (1963). A latent is small and the problem is least squares: two or three such steps end where
gradient steps would need hundreds.
"""

import math

import torch
from torch import Tensor, nn

from functaconv.shapes import Latents, PerItem
from functaconv.solvers.normal_matrix import Metric
from functaconv.solvers.problem import NormalEquations, Reconstruction, Slope

LEAST_DAMPING, MOST_DAMPING = 1e-9, 1e6


class GaussNewton(nn.Module):
    """`latents + (J'WJ + damping * level * D)^-1 J'W(y - f)`; level is the mean of the diagonal of J'WJ.

    D is the identity, or `metric` once the latents have been brought to a canonical basis. With `learned_damping` it
    is a parameter of the base. As a `chord` the curvature is that of the start throughout, wherever all items
    share it: a step then costs no more than a gradient step.
    """

    settings = ("damping", "learned_damping", "chord")
    """what a recipe may say of it"""
    metric: Tensor | None

    def __init__(
        self,
        latent: int,
        *,
        steps: int = 2,
        damping: float = 1e-3,
        learned_damping: bool = False,
        chord: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.steps, self.chord = steps, chord
        logarithm = torch.tensor(math.log(damping))
        if learned_damping:
            self.log_damping = nn.Parameter(logarithm)
        else:
            self.register_buffer("log_damping", logarithm)
        self.register_buffer("metric", None)
        self._known: tuple[object, Metric | None] = (None, None)

    @property
    def is_adaptive(self) -> bool:
        """A step that makes an item worse is taken back and tried again with more damping."""
        return True

    def prepare(self, problem: Reconstruction) -> None:
        """Factor the curvature at the start, where all items share it."""
        if problem.tangent is not None:
            problem.tangent.factor(self.log_damping.exp(), self._measure)

    def look(self, problem: Reconstruction, latents: Latents) -> NormalEquations:
        """What the next step needs to know at these latents."""
        tangent = problem.tangent
        if self.chord and tangent is not None:
            here = problem.slope(latents)
            return NormalEquations(here.slope, here.error, tangent.curvature)
        return problem.normal_equations(latents)

    def move(self, problem: Reconstruction, view: Slope, number: int, trust: PerItem | None = None) -> Latents:
        """The step; `trust` below 1 damps an item's more."""
        assert isinstance(view, NormalEquations)
        tangent, damping = problem.tangent, self.log_damping.exp()
        if tangent is None or view.curvature.matrix is not tangent.curvature.matrix:
            if trust is not None:
                damping = (damping / trust).clamp(LEAST_DAMPING, MOST_DAMPING)
            return view.curvature.damped(damping, self._measure).solve(view.slope)
        # one factor for all items: an item that is trusted less goes less far
        step = tangent.factor(damping, self._measure).solve(view.slope)
        return step if trust is None else step * trust.clamp(max=1)[:, None, None]

    @property
    def _measure(self) -> Metric | None:
        if self.metric is None:
            return None
        version = (self.metric.data_ptr(), self.metric._version)
        if self._known[0] != version:
            self._known = version, Metric.of(self.metric)
        return self._known[1]

    @torch.no_grad()
    def project(self) -> None:
        """Keep a learned damping within reason, after an outer update."""
        self.log_damping.clamp_(math.log(LEAST_DAMPING), math.log(MOST_DAMPING))
