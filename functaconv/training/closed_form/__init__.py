"""A base without an outer loop: linear in its latent, fitted in closed form, in seconds.

    f(x; z) = m(x) + sum over the sites s near x of w(x - s) * sum_k z_sk b_k(x - s)

w is a window that reaches the neighbouring sites and whose shifts add up to one, b_k are sums of cosines of the two
cells around a site, m is the mean of the dataset. A global latent is one site without a window.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from functaconv.base import Base
from functaconv.construction import build, closure_of
from functaconv.modalities import Axes
from functaconv.networks import Fourier, FourierOptions
from functaconv.recipe import Recipe
from functaconv.signals.batch import Batch
from functaconv.signals.geometry import Geometry
from functaconv.signals.normalizer import Normalizer
from functaconv.solvers import GaussNewtonOptions
from functaconv.training.closed_form.domain import counts_of, fit_mean, numbered
from functaconv.training.closed_form.layout import MOST_PRODUCTS
from functaconv.training.closed_form.rounds import GAIN, improve
from functaconv.training.closed_form.sample import Sample
from functaconv.training.closed_form.whole import Basis, fit_whole
from functaconv.training.closed_form.windows import MOST_FACTORED
from functaconv.training.validation import validation_psnr

LEAST_WINDOW_FEATURES, MOST_WINDOW_FEATURES = 128, 256
"""as many as can be fitted by one factorisation, within these limits"""
MOST_WINDOW_MEAN = 256
"""cosines of the mean where windows follow it, too"""
MOST_ROUNDS = 16
FILLINGS = 4
"""of what items miss, by latents of one base: less work than another base"""
DAMPING = 1e-5
"""of global latents"""
CLIPPED_STEPS, MOMENTUM = 24, 0.9
"""of a clipped base. Measured on volumes of 32x32x32 with 256 numbers: 24 steps give 27.2 dB, without momentum 24.8"""
CLIPPED_FEATURES = 512
"""smooth ones: clipping makes the edges. With 512, 1024 and 2048 the same test gave 26.5, 26.1 and 26.0 dB"""


@dataclass(frozen=True)
class ClosedForm:
    """A base fitted in closed form."""

    base: Base
    recipe: Recipe
    psnr: float
    """mean PSNR (dB) of the held-out items"""
    seconds: float


@dataclass(frozen=True)
class Situation:
    """What a closed form is fitted to."""

    axes: Axes
    normalizer: Normalizer
    geometry: Geometry
    """planar"""
    device: torch.device

    def sample(self, batches: Iterable[Batch], recipe: Recipe) -> Sample:
        by_area = recipe.data.weights == "area"
        return Sample.of(batches, self.normalizer, self.geometry, self.device, by_area=by_area)


def learnable(recipe: Recipe) -> bool:
    """Something is left to learn when the closed form is there."""
    is_closed_form = recipe.network.has_closed_form and not recipe.latent.map_width
    return not is_closed_form and recipe.training.minutes != 0


def linear_recipe(recipe: Recipe, features: int, mean_features: int) -> Recipe:
    """The recipe of the linear base with the same latents."""
    settings = recipe.changed(
        {
            "latent": {
                "interpolation": "window" if math.prod(recipe.latent.sites) > 1 else "nearest",
                "frame": "auto", "kernel": 1, "learned_start": False, "map_width": 0, "knots": (), "mapping": 0,
            },
            "data": {"geometry": "planar", "clipped": False},
        }
    )  # fmt: skip
    network = FourierOptions(features=features, mean_features=mean_features)
    return replace(settings, network=network, solver=GaussNewtonOptions(steps=1, damping=DAMPING))


@torch.no_grad()
def fit_closed_form(
    recipe: Recipe,
    situation: Situation,
    training: Iterable[Batch],
    held_out: Sequence[Batch],
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> ClosedForm:
    """The best linear base for the recipe's latents; what is chosen is chosen on the held-out items."""
    started = time.monotonic()
    # a latent that does not suit the items is found before anything is computed
    _built(linear_recipe(recipe, 1, 1), situation)
    sample = situation.sample(training, recipe)
    fit = _windowed if math.prod(recipe.latent.sites) > 1 else _whole
    base, chosen = fit(recipe, situation, sample, held_out, tell)
    if recipe.data.clipped:
        base, chosen = _clipped(base, chosen, situation)
    return ClosedForm(base, chosen, validation_psnr(base, held_out), time.monotonic() - started)


def _clipped(base: Base, recipe: Recipe, situation: Situation) -> tuple[Base, Recipe]:
    """The same base with features that are clipped: the best unclipped one is a good one, learning it further with
    clipped features is learning by heart (measured on 2,000 volumes).
    """
    solver = {"steps": CLIPPED_STEPS, "chord": True, "momentum": MOMENTUM}
    chosen = recipe.changed({"data": {"clipped": True}, "solver": solver})
    clipped = _built(chosen, situation)
    clipped.load_state_dict(base.state_dict())
    return clipped, chosen


def _whole(
    recipe: Recipe, situation: Situation, sample: Sample, held_out: Sequence[Batch], tell: Callable[[str], None]
) -> tuple[Base, Recipe]:
    others = situation.sample(held_out, recipe)
    numbers = recipe.latent.numbers
    features = _features_asked(recipe)
    if features is None and recipe.data.clipped:
        features = max(CLIPPED_FEATURES, 2 * numbers)
    basis = fit_whole(sample, others, numbers, features=features)
    tell(f"{len(basis.frequencies)} cosines, {len(basis.mean.frequencies)} of the mean")
    base, chosen = _of_basis(basis, recipe, situation)
    if not any(group.known for group in sample.groups):
        return base, chosen
    # what items miss is taken from the last fit
    reached = validation_psnr(base, held_out)
    for number in range(MOST_ROUNDS):
        for _ in range(FILLINGS):
            sample, others = sample.filled_again(base), others.filled_again(base)
        basis = fit_whole(sample, others, numbers, features=len(basis.frequencies))
        better, recipe_of_it = _of_basis(basis, recipe, situation)
        before, reached = reached, validation_psnr(better, held_out)
        tell(f"round {number + 1} of filling in: {reached:.2f} dB")
        if reached > before or not held_out:
            base, chosen = better, recipe_of_it
        if not reached - before > GAIN:
            break
    return base, chosen


def _of_basis(basis: Basis, recipe: Recipe, situation: Situation) -> tuple[Base, Recipe]:
    chosen = linear_recipe(recipe, len(basis.frequencies), len(basis.mean.frequencies))
    base = _built(chosen, situation)
    network = base.field.network
    assert isinstance(network, Fourier)
    network.frequencies.copy_(basis.frequencies)
    network.mean_frequencies.copy_(basis.mean.frequencies)
    network.mean.copy_(basis.mean.weights)
    weights = basis.weights.flatten(0, 1)
    # a few small items have fewer components than a latent has numbers: the others of these change nothing
    base.field.latent_map.weight.zero_()[:, : weights.shape[1]] = weights
    return base, chosen


def _windowed(
    recipe: Recipe, situation: Situation, sample: Sample, held_out: Sequence[Batch], tell: Callable[[str], None]
) -> tuple[Base, Recipe]:
    shapes = [group.grid.shape for group in sample.groups]
    closure = closure_of(situation.geometry)
    counts = counts_of(shapes, MOST_WINDOW_MEAN, closure)
    mean = fit_mean(sample.averages(counts), counts, MOST_WINDOW_MEAN, closure)
    # as many cosines along an axis as a window has pixels
    pixels = [max(2, round(2 * max(sizes) / sites))
              for sizes, sites in zip(zip(*shapes, strict=True), recipe.latent.sites, strict=True)]  # fmt: skip
    every = numbered(pixels, situation.device)
    # in half-waves per pixel
    roughness = (every / torch.tensor(pixels, device=every.device)).square().sum(1)
    many = max(LEAST_WINDOW_FEATURES, min(MOST_WINDOW_FEATURES, MOST_FACTORED // (recipe.latent.numbers + 1)))
    # and so few that the matrices of the 3^d kinds of cells of a regular grid have room
    many = min(many, int((MOST_PRODUCTS / 3 ** len(pixels)) ** 0.5) // 2 ** len(pixels))
    order = roughness.argsort(stable=True)[: _features_asked(recipe) or many]
    frequencies = every[order]
    chosen = linear_recipe(recipe, len(frequencies), len(mean.frequencies))
    base = _built(chosen, situation)
    network = base.field.network
    assert isinstance(network, Fourier)
    network.frequencies.copy_(frequencies)
    ridge = recipe.closed_form.smoothness * roughness[order].square()
    damping = improve(base, sample, held_out, mean, ridge, recipe.closed_form, tell)
    return base, chosen.changed({"solver": {"damping": damping}})


def _features_asked(recipe: Recipe) -> int | None:
    """How many features the recipe says; None where they are to suit the data."""
    network = recipe.network
    own = network.features if isinstance(network, FourierOptions) and network.has_closed_form else 0
    return own or recipe.closed_form.features or None


def _built(recipe: Recipe, situation: Situation) -> Base:
    base = build(recipe, situation.axes, situation.normalizer, situation.geometry).to(situation.device)
    return base.requires_grad_(False)
