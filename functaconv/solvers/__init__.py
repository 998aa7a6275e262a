"""The inner loop on plain tensors: what a batch asks of a latent, and the solvers that answer."""

from functaconv.solvers.fit import Fit, Solver, best_fit, fit
from functaconv.solvers.gauss_newton import GaussNewton
from functaconv.solvers.gradient import GradientDescent
from functaconv.solvers.problem import Reconstruction, Tangent, along, reconstruction

AnySolver = GradientDescent | GaussNewton
SOLVERS: dict[str, type[GradientDescent] | type[GaussNewton]] = {
    "gradient": GradientDescent,
    "gauss-newton": GaussNewton,
}

__all__ = [
    "SOLVERS",
    "AnySolver",
    "Fit",
    "GaussNewton",
    "GradientDescent",
    "Reconstruction",
    "Solver",
    "Tangent",
    "along",
    "best_fit",
    "fit",
    "reconstruction",
]
