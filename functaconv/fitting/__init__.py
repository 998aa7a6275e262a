"""The inner loop on plain tensors: what a batch asks of a latent, and the solvers that answer."""

from functaconv.fitting.fit import Fit, Solver, best_fit, fit
from functaconv.fitting.gauss_newton import GaussNewton
from functaconv.fitting.gradient_descent import GradientDescent
from functaconv.fitting.reconstruction import Reconstruction, Tangent, along, reconstruction

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
