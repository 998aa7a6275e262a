"""From a recipe to a fresh base."""

import math

import torch

from functaconv.base import Base
from functaconv.errors import UsageError, lookup
from functaconv.modalities import Axes
from functaconv.networks import (
    NETWORKS,
    Closure,
    Correction,
    Inputs,
    LatentMap,
    Mapping,
    ModulatedNetwork,
    Network,
    Observed,
    Refinement,
    SiteGrid,
)
from functaconv.networks.cosines import OPEN
from functaconv.networks.refinement import knots_of
from functaconv.networks.sites import Frame
from functaconv.recipe import Recipe
from functaconv.signals.geometry import Flat, Geometry
from functaconv.signals.normalizer import Normalizer
from functaconv.solvers import SOLVERS

# numbers of the derivatives of a linear decode at the knots of a refinement, which are kept
MOST_SEEN = 1 << 27


def build(
    recipe: Recipe,
    axes: Axes,
    normalizer: Normalizer,
    geometry: Geometry | None = None,
    *,
    to_be_loaded: bool = False,
) -> Base:
    """A fresh base, initialised from the recipe's seed. Weights `to_be_loaded` are left uninitialised. Without a
    geometry the base is for plain arrays.
    """
    latent, geometry = recipe.latent, geometry or Flat(axes.dims)
    sites = latent.sites or (1,) * axes.dims
    if len(sites) != axes.dims:
        raise UsageError(
            f"the latent has {len(sites)} site axes, the items have {axes.dims}",
            hint=f"write {'x'.join(['8'] * axes.dims)}x16 for spatial latents, or one number for a global one",
        )
    if recipe.data.clipped and not axes.modality.has_code_range:
        raise UsageError(f"data.clipped is for values between 0 and 1, not for {axes.modality.plural}")
    # a neighbourhood of sites does not know what lies beyond a pole
    poles = geometry.reaches_poles if latent.kernel == 1 else (False, False)
    grid = SiteGrid(tuple(sites), latent.interpolation, frame_of(recipe, axes), geometry.is_closed, poles)
    generator = None if to_be_loaded else torch.Generator().manual_seed(recipe.training.seed)
    inputs = Inputs(
        coords=coords_of(grid, geometry),
        channels=axes.channels,
        axes=axes.dims,
        is_planar=geometry.coords == axes.dims,
        closure=closure_of(geometry),
    )
    network: Network = lookup(NETWORKS, recipe.network.kind, what="network")(
        inputs, recipe.network, generator=generator
    )
    operator = axes.modality.operator
    if operator is not None and not recipe.network.has_closed_form:
        network = Observed(network, operator)
    correction = (
        Correction(grid, latent.numbers, latent.map_width, network.correction_scales, generator=generator)
        if latent.map_width and latent.sites
        else None
    )
    refinement = refinement_of(recipe, axes, geometry, generator) if latent.is_refined else None
    mapping = (
        Mapping(latent.numbers, latent.mapping_width, latent.mapping, generator=generator) if latent.mapping else None
    )
    latent_map = LatentMap(
        grid, latent.numbers, network.modulations, kernel=latent.kernel, correction=correction, mapping=mapping,
        generator=generator,
    )  # fmt: skip
    solver = lookup(SOLVERS, recipe.solver.kind, what="solver")(latent.numbers, recipe.solver, generator=generator)
    base = Base(
        ModulatedNetwork(network, latent_map, grid, refinement), solver, normalizer, axes,
        latent=latent.numbers, learned_start=latent.learned_start, geometry=geometry,
        by_area=recipe.data.weights == "area",
    )  # fmt: skip
    base.is_clipped = recipe.data.clipped
    return base


def refinement_of(recipe: Recipe, axes: Axes, geometry: Geometry, generator: torch.Generator | None) -> Refinement:
    """A fresh refinement for a recipe that has one; a `UsageError` where its settings do not suit the items."""
    # without items to go by
    knots = recipe.latent.knots or knots_of((64,) * axes.dims)
    if len(knots) != axes.dims:
        raise UsageError(
            f"latent.knots={list(knots)} has {len(knots)} axes, the items have {axes.dims}",
            hint=f"--set 'latent.knots={[32] * axes.dims}', or leave it out",
        )
    if closure_of(geometry) != OPEN:
        raise UsageError(
            "a global latent with latent.map_width is not for fields around the globe", hint="--set latent.map_width=0"
        )
    if (seen := math.prod(knots) * axes.channels * recipe.latent.numbers) > MOST_SEEN:
        raise UsageError(
            f"{seen} derivatives at the knots, at most {MOST_SEEN} are possible", hint="fewer latent.knots, or numbers"
        )
    return Refinement(knots, axes.channels, recipe.latent.map_width, generator=generator)


def closure_of(geometry: Geometry) -> Closure:
    """How the domain meets itself."""
    return Closure(geometry.is_closed, geometry.reaches_poles)


def frame_of(recipe: Recipe, axes: Axes) -> Frame:
    """Where coordinates start, as asked for or as suits the data."""
    latent = recipe.latent
    if latent.frame != "auto":
        return latent.frame
    if latent.interpolation == "linear":
        return "global"
    return "both" if recipe.network.sees_cell_and_domain else axes.modality.frame


def coords_of(sites: SiteGrid, geometry: Geometry) -> int:
    """How many coordinates the network sees."""
    if sites.count == 1 or sites.frame == "global":
        return geometry.coords
    return geometry.axes + (geometry.coords if sites.frame == "both" else 0)
