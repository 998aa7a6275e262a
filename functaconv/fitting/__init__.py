"""The inner loop on plain tensors: what a batch asks of a latent, and the solvers that answer."""

from functaconv.fitting.fit import Fit, Solver, fit
from functaconv.fitting.gradient_descent import GradientDescent
from functaconv.fitting.reconstruction import Reconstruction, reconstruction

SOLVERS = {"gradient": GradientDescent}

__all__ = ["SOLVERS", "Fit", "GradientDescent", "Reconstruction", "Solver", "fit", "reconstruction"]
