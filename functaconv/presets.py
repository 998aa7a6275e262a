"""Recipes by name: those of published systems, as published, and those sized for the data and the device."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from pydantic.dataclasses import dataclass

from functaconv.errors import lookup
from functaconv.networks import FourierOptions, MultiscaleOptions, NetworkOptions, PolynomialOptions, SirenOptions
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


def preset(name: str, situation: Situation) -> Recipe:
    """A preset by name, sized for the data and the device where it is not a published one."""
    return lookup(PRESETS, name, what="preset").made(situation)


def _functa(name: str, depth: int) -> Recipe:
    # Dupont et al. 2022, google-deepmind/functa: 5e5 updates of 16 items per device
    network, latent = SirenOptions(width=512, depth=depth), LatentRecipe(numbers=256)
    return _published(name, network, latent, steps=500_000, batch_size=16, rate=3e-6)


def _spatial(name: str, depth: int, sites: tuple[int, int], numbers: int, kernel: Literal[1, 3]) -> Recipe:
    # Bauer et al. 2023: 2e5 updates of 128 items
    network = SirenOptions(width=256, depth=depth, w0_first=10, w0_hidden=10)
    latent = LatentRecipe(numbers=numbers, sites=sites, kernel=kernel)
    return _published(name, network, latent, steps=200_000, batch_size=128, rate=3e-5)


def _published(
    name: str, network: NetworkOptions, latent: LatentRecipe, *, steps: int, batch_size: int, rate: float
) -> Recipe:
    """Meta-SGD with one rate per dimension and plain Adam, the same rate for both: what these papers share."""
    return Recipe(
        name=name,
        network=network,
        latent=latent,
        solver=GradientOptions(per_step=False, initial=(0.005, 0.1), limits=(0.0, 1.0)),
        training=TrainingRecipe(
            steps=steps,
            batch_size=batch_size,
            rate=rate,
            solver_rate=rate,
            schedule="constant",
            warmup=0,
            clip=0,
            ema=0,
        ),
    )


# networks of generators, whose latents are sampled there and fitted here: of the papers are the sizes
GENERATORS: dict[str, tuple[NetworkOptions, int]] = {
    # Skorokhodov et al. 2021 (universome/inr-gan): 256 waves, layers of 512 and rank 10, latents of 512
    "inr-gan-fmm": (FourierOptions(
        features=256, learned=True, layers=4, width=512, activation="leaky-relu", modulation="fmm", rank=10,
    ), 512),
    # the same with layers of 512 at half the resolution or less, and of 256 at the points
    "inr-gan-multiscale": (MultiscaleOptions(
        features=256, depth=5, width=512, fine_depth=5, activation="leaky-relu", modulation="fmm", rank=10,
    ), 512),
    # Singh et al. 2023 (Rajhans0/Poly_INR): ten levels of 1024, latents of 512
    "poly-inr": (PolynomialOptions(width=1024, depth=11), 512),
    # Chan et al. 2021 (pi-GAN): eight sine layers of 256 with scales and shifts, latents of 256
    "film": (SirenOptions(width=256, depth=9, w0_first=20.0, w0_hidden=10.0, modulation="film"), 256),
}  # fmt: skip


def _generator(name: str, situation: Situation) -> Recipe:
    """Learned through the step that all items share, which costs least; the mapping network is narrower."""
    network, numbers = GENERATORS[name]
    latent = LatentRecipe(numbers=numbers, mapping=2, mapping_width=128)
    asked, points = replace(situation.latent or latent, sites=()), math.prod(situation.shape)
    _, _, training = _by_gauss_newton(points, situation.channels, asked, situation.on_gpu)
    # behind a mapping network sines bear higher rates, too, and matrices still higher ones
    haste = 8.0 if network.wants_chords else 4.0
    training = replace(training, rate=haste * training.rate, matrix_rate=haste * training.matrix_rate, one_step=1.0)
    return Recipe(name, network=network, latent=latent, solver=GaussNewtonOptions(chord=True), training=training)


def _sized(name: str, situation: Situation) -> Recipe:
    """Global latents for small items, spatial ones behind windows for large: sized so that minutes are enough on the
    device. Photographs have little in common beyond a few pixels: theirs are spatial sooner.
    """
    points, gpu = math.prod(situation.shape), situation.on_gpu
    is_large = points > (16**2 if name == "images" else 64**2)
    sites = tuple(min(64, max(1, round(size / 8))) for size in situation.shape) if is_large else ()
    latent = situation.latent or LatentRecipe(
        numbers=16 if sites else (256 if gpu else 64), sites=sites, interpolation="window" if sites else "nearest"
    )
    is_as_asked = (
        situation.has_network or situation.solver or latent.kernel > 1 or latent.learned_start or latent.mapping
    )
    if latent.sites and latent.interpolation == "window" and not is_as_asked:
        return _corrected(name, points, replace(latent, map_width=128))
    if not latent.sites and name in REFINED and situation.is_refinable and not is_as_asked:
        return _corrected(name, points, replace(latent, map_width=48))
    sized = _by_gradient if situation.solver == "gradient" else _by_gauss_newton
    network, solver, training = sized(points, situation.channels, latent, gpu)
    return Recipe(name=name, network=network, latent=latent, solver=solver, training=training)


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


def _voxels(situation: Situation) -> Recipe:
    """Occupancy is clipped: a closed form that may go beyond 0 and 1 beats networks that learned for twenty minutes."""
    latent = situation.latent or LatentRecipe(numbers=256)
    recipe = _sized("voxels", replace(situation, latent=latent)).changed({"data": {"clipped": True}})
    is_as_asked = situation.has_network or situation.solver
    return recipe if is_as_asked else recipe.changed({"training": {"minutes": 0}})


def _grids(situation: Situation) -> Recipe:
    """Hours that follow each other say little that is new: a base learns them by heart, the more so through several
    steps.

    Measured on 528 hours of a region with 16 numbers, on days that were not seen, after two minutes: 34.5 dB through
    one step, 35.5 dB through one step and with mixed items.
    """
    recipe = _sized("grids", situation)
    if recipe.latent.map_width:
        # learned by heart as well, which held-out hours do not show: 33.6 dB where the closed form has 33.8, measured
        # on 58 fields; --minutes corrects it nevertheless
        return recipe.changed({"training": {"minutes": 0, "mixup": 0.5}})
    return recipe.changed({"training": {"one_step": 1.0, "mixup": 0.5}})


def _by_gauss_newton(
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


def _by_gradient(
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


@dataclass(frozen=True)
class Preset:
    """A recipe by name."""

    purpose: str
    """what it is for, in a line"""
    made: Callable[[Situation], Recipe]
    shape: tuple[int, ...]
    """of an item that it is for, where the data say none"""
    channels: int = 3
    is_sized: bool = False
    """sizes itself by the data; the others are as published"""

    @property
    def example(self) -> Situation:
        """The situation it is shown for."""
        return Situation(self.shape, self.channels, on_gpu=False)


PRESETS = {
    "images": Preset("photographs and other images", partial(_sized, "images"), (32, 32), is_sized=True),
    "arrays": Preset("plain arrays of one to three axes", partial(_sized, "arrays"), (32, 32), 1, is_sized=True),
    "voxels": Preset("shapes as occupied and empty voxels", _voxels, (32, 32, 32), 1, is_sized=True),
    "grids": Preset("fields on latitude and longitude", _grids, (64, 64), 1, is_sized=True),
    "functa-cifar10": Preset(
        "CIFAR-10 as in functa (Dupont et al. 2022)", lambda _: _functa("functa-cifar10", 10), (32, 32)
    ),
    "functa-celeba64": Preset(
        "CelebA-HQ at 64 x 64 as in functa", lambda _: _functa("functa-celeba64", 15), (64, 64)
    ),
    "functa-shapenet64": Preset(
        "ShapeNet voxels at 64 x 64 x 64 as in functa", lambda _: _functa("functa-shapenet64", 15), (64, 64, 64), 1
    ),
    "functa-era5": Preset(
        "ERA5 temperature as in functa", lambda _: _functa("functa-era5", 15), (46, 90), 1
    ),
    "spatial-cifar10": Preset(
        "CIFAR-10 as in Spatial Functa (Bauer et al. 2023)",
        lambda _: _spatial("spatial-cifar10", 6, (8, 8), 16, 1), (32, 32),
    ),
    "spatial-imagenet256": Preset(
        "ImageNet at 256 x 256 as in Spatial Functa",
        lambda _: _spatial("spatial-imagenet256", 8, (32, 32), 64, 3), (256, 256),
    ),
    "inr-gan-fmm": Preset(
        "INR-GAN's layers, factorized modulation, at its sizes (Skorokhodov et al. 2021); solver, mapping, rates ours",
        partial(_generator, "inr-gan-fmm"), (256, 256),
    ),
    "inr-gan-multiscale": Preset(
        "INR-GAN coarse to fine at its sizes; two scales, read through windows, solver, mapping and rates are ours",
        partial(_generator, "inr-gan-multiscale"), (256, 256),
    ),
    "poly-inr": Preset(
        "Poly-INR's ten levels of 1024 (Singh et al. 2023); initialisation, solver, mapping and rates are ours",
        partial(_generator, "poly-inr"), (256, 256),
    ),
    "film": Preset(
        "pi-GAN's sine layers with scales and shifts (Chan et al. 2021); frequencies, solver, mapping, rates ours",
        partial(_generator, "film"), (64, 64),
    ),
}  # fmt: skip
SIZED = tuple(name for name, entry in PRESETS.items() if entry.is_sized)
