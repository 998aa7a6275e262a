"""The inner loop on plain tensors: the problem that a batch poses, and the solvers that fit latents to it."""

from functaconv.solvers.fit import Fit, best_fit, fit
from functaconv.solvers.gauss_newton import GaussNewton, GaussNewtonOptions
from functaconv.solvers.gradient import GradientDescent, GradientOptions
from functaconv.solvers.linearization import Linearization, along
from functaconv.solvers.problem import Problem, fitting_problem
from functaconv.solvers.solver import Solver, SolverKind, SolverOptions

SOLVERS: dict[str, SolverKind] = {"gradient": GradientDescent, "gauss-newton": GaussNewton}

__all__ = [
    "SOLVERS",
    "Fit",
    "GaussNewton",
    "GaussNewtonOptions",
    "GradientDescent",
    "GradientOptions",
    "Linearization",
    "Problem",
    "Solver",
    "SolverKind",
    "SolverOptions",
    "along",
    "best_fit",
    "fit",
    "fitting_problem",
]
