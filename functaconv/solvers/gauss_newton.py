"""Gauss-Newton: the normal equations of the latent, solved at every step.

`(J'WJ + damping) step = J'W(y - f)` per item, J the derivative of the features by the latent; damping after Levenberg
(1944) and Marquardt (1963). A latent is small and the problem is least squares: two or three such steps end where
gradient steps would need hundreds.
"""

import math
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from functaconv.options import STRICT, Steps
from functaconv.shapes import Latents, PerItem
from functaconv.solvers.linearization import Gradient, NormalEquations
from functaconv.solvers.normal_matrix import Metric, NormalMatrix
from functaconv.solvers.problem import Problem
from functaconv.solvers.solver import Solver, SolverOptions

LEAST_DAMPING, MOST_DAMPING = 1e-9, 1e6
# of the widest latent's deviation: one that hardly varies stays where it is
LEAST_SPREAD = 1e-4


@dataclass(frozen=True, config=STRICT)
class GaussNewtonOptions(SolverOptions):
    """Gauss-Newton steps."""

    kind: Literal["gauss-newton"] = "gauss-newton"
    steps: Steps = 3
    """steps that the base learns for, and that encode takes"""
    damping: Annotated[float, Field(ge=LEAST_DAMPING, le=MOST_DAMPING)] = 1e-3
    """added to the normal matrix, relative to the mean of its diagonal"""
    learned_damping: bool = False
    """the damping is a parameter of the base"""
    chord: bool = False
    """the normal matrix of the start serves all steps"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the step before that is added to each: many chords of a clipped base become few. No step is then taken
    back"""


class GaussNewton(Solver):
    """`latents + (J'WJ + damping * mean_diagonal * D)^-1 J'W(y - f)`, with the mean of the diagonal of J'WJ.

    D is the identity, or `metric` once the latents have been brought to a canonical basis. With `learned_damping` the
    damping is a parameter of the base. As a `chord` every step uses the normal matrix of the start, wherever all items
    share it: a step then costs no more than a gradient step.
    """

    needs_jacobian = True
    is_adaptive = True
    solves_linear = True
    exports_canonical = True
    Options = GaussNewtonOptions
    metric: Tensor | None

    def __init__(self, latent: int, options: GaussNewtonOptions, *, generator: torch.Generator | None) -> None:
        super().__init__(options.steps)
        self.chord, self.momentum, self.is_adaptive = options.chord, options.momentum, not options.momentum
        logarithm = torch.tensor(math.log(options.damping))
        if options.learned_damping:
            self.log_damping = nn.Parameter(logarithm)
        else:
            self.register_buffer("log_damping", logarithm)
        self.register_buffer("metric", None)
        self.noise: float | None = None
        self._known_metric: tuple[object, Metric | None] = (None, None)

    def expect(self, spread: Float[Tensor, " latent"], noise: float) -> None:
        """Damp from now on as a normal prior says: latents around zero with these standard deviations, and an error
        (the weighted mean of squares) of which `noise` is the expectation, divided by the number of values.
        """
        self.metric = torch.diag(spread.clamp(min=float(spread.max()) * LEAST_SPREAD).square().reciprocal())
        self.noise = noise

    def _damping(self, normal_matrix: NormalMatrix) -> Tensor:
        if self.noise is None:
            return self.log_damping.exp()
        return self.noise / normal_matrix.mean_diagonal(self._metric).mean()

    def prepare(self, problem: Problem) -> None:
        """Factor the normal matrix at the start, where all items share it."""
        if problem.linearization is not None:
            start = problem.linearization
            start.factor(self._damping(start.normal_matrix), self._metric)

    def linearize(self, problem: Problem, latents: Latents) -> NormalEquations:
        """The normal equations at these latents; as a chord, with the normal matrix of the start."""
        start = problem.linearization
        if self.chord and start is not None:
            here = problem.gradient(latents)
            return NormalEquations(here.jt_residual, here.error, start.normal_matrix)
        return problem.normal_equations(latents)

    def step(self, problem: Problem, view: Gradient, number: int, damping_scale: PerItem | None = None) -> Latents:
        """Solve the damped normal equations."""
        assert isinstance(view, NormalEquations)
        start, damping = problem.linearization, self._damping(view.normal_matrix)
        if start is None or view.normal_matrix.matrix is not start.normal_matrix.matrix:
            if damping_scale is not None:
                damping = (damping * damping_scale).clamp(LEAST_DAMPING, MOST_DAMPING)
            return view.normal_matrix.damped(damping, self._metric).solve(view.jt_residual)
        # one factor serves all items: an item that needs more damping gets a shorter step
        step = start.factor(damping, self._metric).solve(view.jt_residual)
        return step if damping_scale is None else step / damping_scale.clamp(min=1)[:, None, None]

    @property
    def is_canonical(self) -> bool:
        """The latents have been brought to their canonical basis: the damping has a metric."""
        return self.metric is not None

    def change_basis(self, matrix: Float[Tensor, "latent latent"]) -> None:
        """Damp the new latents as the old ones were."""
        like = self.log_damping
        metric = torch.eye(len(matrix)).double() if self.metric is None else self.metric.double().cpu()
        metric = matrix.mT @ metric @ matrix
        self.metric = ((metric + metric.mT) / 2).to(like)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}metric" in state_dict and self.metric is None:
            # only canonical bases have one: make room for its values
            self.metric = torch.empty_like(state_dict[f"{prefix}metric"])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def project(self) -> None:
        """Keep a learned damping within reason, after an outer update."""
        if self.log_damping.requires_grad:
            self.log_damping.clamp_(math.log(LEAST_DAMPING), math.log(MOST_DAMPING))

    @property
    def _metric(self) -> Metric | None:
        """The metric with its inverse, computed anew only when the metric has changed."""
        if self.metric is None:
            return None
        version = (self.metric.data_ptr(), self.metric._version)
        if self._known_metric[0] != version:
            self._known_metric = version, Metric.of(self.metric)
        return self._known_metric[1]
