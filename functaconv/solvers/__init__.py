"""The inner loop on plain tensors: the problem that a batch poses, and the solvers that fit latents to it."""

from functaconv.solvers.fit import Fit, best_fit, fit
from functaconv.solvers.gauss_newton import GaussNewton
from functaconv.solvers.gradient import GradientDescent
from functaconv.solvers.linearization import Linearization, along
from functaconv.solvers.problem import Problem, fitting_problem
from functaconv.solvers.solver import Solver

SOLVERS: dict[str, type[GradientDescent] | type[GaussNewton]] = {
    "gradient": GradientDescent,
    "gauss-newton": GaussNewton,
}

__all__ = [
    "SOLVERS",
    "Fit",
    "GaussNewton",
    "GradientDescent",
    "Linearization",
    "Problem",
    "Solver",
    "along",
    "best_fit",
    "fit",
    "fitting_problem",
]
