"""Recipes sized for the data and the device, so that minutes are enough."""

import math
from dataclasses import replace

from pydantic.dataclasses import dataclass

from functaconv.networks import FourierOptions, NetworkOptions, SirenOptions
from functaconv.recipe import LatentRecipe, Recipe, TrainingRecipe
from functaconv.solvers import GaussNewtonOptions, GradientOptions, SolverOptions

# points of an item in an update of a sized preset: at least, and at most in whole cells
LEAST_POINTS, MOST_POINTS = 256, 8192
# values of an item in the inner fit for each number of a global latent: with three, it fits the points drawn
EQUATIONS = 6
# sized presets of which a global latent is refined, on flat domains
REFINED = ("images", "arrays")


@dataclass(frozen=True)
class Situation:
    """What a preset may size itself by."""

    shape: tuple[int, ...]
    """native shape of the first item"""
    channels: int
    on_gpu: bool
    latent: LatentRecipe | None = None
    """what was asked for, where something was"""
    solver: str | None = None
    """the same"""
    has_network: bool = False
    """a network was asked for, by its kind or its settings"""
    is_refinable: bool = True
    """of a global latent a refinement learns more than a network of coordinates"""
    has_many: bool = False
    """thousands of records: too many to be learned by heart"""


def sized(name: str, situation: Situation) -> Recipe:
    """Global latents for small items, spatial ones behind windows for large: sized so that minutes are enough on the
    device.
    """
    points, gpu = math.prod(situation.shape), situation.on_gpu
    latent = situation.latent or _usual_latent(name, situation)
    is_as_asked = (
        situation.has_network or situation.solver or latent.kernel > 1 or latent.learned_start or latent.mapping
    )
    if latent.sites and latent.interpolation == "window" and not is_as_asked:
        return _corrected(name, points, replace(latent, map_width=128))
    if not latent.sites and name in REFINED and situation.is_refinable and not is_as_asked:
        return _corrected(name, points, replace(latent, map_width=48))
    sized = by_gradient if situation.solver == "gradient" else by_gauss_newton
    network, solver, training = sized(points, situation.channels, latent, gpu)
    return Recipe(name=name, network=network, latent=latent, solver=solver, training=training)


def _usual_latent(name: str, situation: Situation) -> LatentRecipe:
    """Photographs have little in common beyond a few pixels: theirs are spatial sooner, unless there are thousands of
    small ones for a refinement to learn from.
    """
    points, numbers = math.prod(situation.shape), 256 if situation.on_gpu else 64
    is_refined = situation.is_refinable and not (situation.has_network or situation.solver)
    if name == "images" and 16**2 < points <= 32**2 and situation.has_many and is_refined:
        return LatentRecipe(numbers=256)
    if points <= (16**2 if name == "images" else 64**2):
        return LatentRecipe(numbers=numbers)
    sites = tuple(min(64, max(1, round(size / 8))) for size in situation.shape)
    return LatentRecipe(numbers=16, sites=sites, interpolation="window")


def _corrected(name: str, points: int, latent: LatentRecipe) -> Recipe:
    """The closed form with a nonlinear correction of its latent map, which costs so much per site and not per point: a
    network behind windows would be evaluated 2^d times for each point. Of a global latent, with a refinement: no
    network of coordinates learns as much in minutes.
    """
    return Recipe(
        name=name,
        network=FourierOptions(),
        latent=latent,
        solver=GaussNewtonOptions(steps=3, chord=True),
        training=TrainingRecipe(
            minutes=10,
            # a refinement learns more from more updates of fewer items
            batch_size=max(4, min(16, (1 << 14) // points) if latent.is_refined else min(32, (1 << 15) // points)),
            optimizer="muon",
            matrix_rate=2e-3,
            one_step=0.0,
            ema=0.99,
        ),
    )


def voxels(situation: Situation) -> Recipe:
    """Occupancy is clipped: a closed form that may go beyond 0 and 1 beats networks that learned for twenty minutes."""
    latent = situation.latent or LatentRecipe(numbers=256)
    recipe = sized("voxels", replace(situation, latent=latent)).changed({"data": {"clipped": True}})
    is_as_asked = situation.has_network or situation.solver
    return recipe if is_as_asked else recipe.changed({"training": {"minutes": 0}})


def grids(situation: Situation) -> Recipe:
    """Hours that follow each other say little that is new: a base learns them by heart, the more so through several
    steps.

    Measured on 528 hours of a region with 16 numbers, on days that were not seen, after two minutes: 34.5 dB through
    one step, 35.5 dB through one step and with mixed items.
    """
    recipe = sized("grids", situation)
    if recipe.latent.map_width:
        # learned by heart as well, which held-out hours do not show: 33.6 dB where the closed form has 33.8, measured
        # on 58 fields; --minutes corrects it nevertheless
        return recipe.changed({"training": {"minutes": 0, "mixup": 0.5}})
    return recipe.changed({"training": {"one_step": 1.0, "mixup": 0.5}})


def by_gauss_newton(
    points: int, channels: int, latent: LatentRecipe, gpu: bool
) -> tuple[NetworkOptions, SolverOptions, TrainingRecipe]:
    """Many cheap updates: few items, and few points of each.

    The points an item is fitted on outnumber several times what is fitted. Muon learns in a third of Adam's updates.
    """
    inner: int | None
    outer: int | None
    if latent.sites:
        width = 256 if gpu else 192
        # some cells of many items say more than all cells of a few; overlapping cells go together
        coupled = latent.interpolation != "nearest" or latent.kernel > 1
        together, batch = 1 << 18 if gpu else 1 << 13, 32 if points <= 64**2 else 16
        inner = None if coupled else min(points, together // batch)
        batch = max(1, together // points) if coupled else batch
        outer = None
    else:
        width = 256 if gpu else max(96, min(192, latent.numbers // 2))
        batch = 64 if gpu else 16
        inner = min(points, max(LEAST_POINTS, EQUATIONS * latent.numbers // channels))
        outer = min(points, max(LEAST_POINTS, 3 * LEAST_POINTS // channels))
    return (
        SirenOptions(width=width, depth=6 if gpu else 5, w0_first=10.0 if latent.sites else 20.0, w0_hidden=10.0),
        GaussNewtonOptions(steps=2 if latent.sites else 3),
        TrainingRecipe(
            minutes=10,
            batch_size=batch,
            inner_points=inner,
            outer_points=outer,
            optimizer="muon",
            # 256 global numbers diverge at the rates that suit cells
            rate=1e-3 if latent.sites else 5e-4,
            matrix_rate=2e-3 if latent.sites else 1e-3,
        ),
    )


def by_gradient(
    points: int, channels: int, latent: LatentRecipe, gpu: bool
) -> tuple[NetworkOptions, SolverOptions, TrainingRecipe]:
    """The functa recipe with rates as high as runs of minutes bear: with w0 30 throughout, or twice the rate, training
    collapses.
    """
    inner: int | None
    outer: int | None
    if latent.sites:
        batch = max(1, (1 << 18 if gpu else 1 << 14) // min(points, MOST_POINTS))
        inner = None if points <= MOST_POINTS else MOST_POINTS
        outer = None
    else:
        batch = 64 if gpu else 16
        inner = min(points, max(LEAST_POINTS, EQUATIONS * latent.numbers // channels))
        outer = min(points, 2 * inner)
    return (
        SirenOptions(
            width=256 if gpu else 96,
            depth=6 if gpu else 5,
            w0_first=10.0 if latent.sites else 20.0,
            w0_hidden=10.0,
        ),
        GradientOptions(),
        TrainingRecipe(minutes=10, batch_size=batch, inner_points=inner, outer_points=outer),
    )
