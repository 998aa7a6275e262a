"""Recipes by name: those of published systems, as published, and those that size themselves (`defaults.py`)."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from functaconv.defaults import Situation, by_gauss_newton, grids, sized, voxels
from functaconv.errors import lookup
from functaconv.networks import FourierOptions, MultiscaleOptions, NetworkOptions, PolynomialOptions, SirenOptions
from functaconv.recipe import LatentRecipe, Recipe, TrainingRecipe, invalid
from functaconv.solvers import GaussNewtonOptions, GradientOptions


def preset(name: str, situation: Situation) -> Recipe:
    """A preset by name, sized for the data and the device where it is not a published one; a UsageError where what was
    asked for is not possible with it.
    """
    try:
        return lookup(PRESETS, name, what="preset").made(situation)
    except ValidationError as error:
        raise invalid(error) from None


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
    _, _, training = by_gauss_newton(points, situation.channels, asked, situation.on_gpu)
    # behind a mapping network sines bear twice their rates (four times: they collapse after 400 updates), matrices more
    haste = 8.0 if network.wants_chords else max(2.0, network.haste)
    training = replace(training, rate=haste * training.rate, matrix_rate=haste * training.matrix_rate, one_step=1.0)
    return Recipe(name, network=network, latent=latent, solver=GaussNewtonOptions(chord=True), training=training)


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
    "images": Preset("photographs and other images", partial(sized, "images"), (32, 32), is_sized=True),
    "arrays": Preset("plain arrays of one to three axes", partial(sized, "arrays"), (32, 32), 1, is_sized=True),
    "voxels": Preset("shapes as occupied and empty voxels", voxels, (32, 32, 32), 1, is_sized=True),
    "grids": Preset("fields on latitude and longitude", grids, (64, 64), 1, is_sized=True),
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
