"""The closed form with a nonlinear correction of its latent map: what is learned on top of it."""

from dataclasses import replace

from functaconv.base import CORRECTION, Base
from functaconv.checkpoint import base_from_bytes
from functaconv.construction import build
from functaconv.recipe import Recipe
from functaconv.solvers import GaussNewtonOptions
from functaconv.training.closed_form.floor import Floor

# spreads below this share of the largest count as it: numbers that hardly vary say little
LEAST_SPREAD = 1e-3
# where items do not differ at all
TINY = 1e-12


def corrected(floor: Floor, recipe: Recipe) -> tuple[Base, Recipe]:
    """The closed form with a correction as the recipe has it, which changes nothing yet, and the recipe of both.

    The correction alone learns: all updates, and all fits, begin with the same step, the exact one of the closed form.
    """
    stored = base_from_bytes(floor.content, "the closed form")
    assert isinstance(recipe.solver, GaussNewtonOptions)
    assert isinstance(stored.recipe.solver, GaussNewtonOptions)
    # chords with hardly any damping go far in directions that the linear base does not see
    solver = replace(recipe.solver, damping=max(recipe.solver.damping, stored.recipe.solver.damping))
    latent = replace(stored.recipe.latent, map_width=recipe.latent.map_width)
    whole = replace(recipe, data=stored.recipe.data, network=stored.recipe.network, latent=latent, solver=solver)
    known = stored.base
    base = build(whole, known.axes, known.normalizer, known.geometry)
    correction = base.field.latent_map.correction
    assert correction is not None
    own = {name: tensor for name, tensor in base.state_dict().items() if name.startswith(CORRECTION)}
    damping = {"solver.log_damping": base.solver.state_dict()["log_damping"]}
    base.load_state_dict(dict(known.state_dict()) | own | damping)
    # the mean of the items, where the correction is zero: the first step is then the same whatever has been learned
    base.start.zero_()
    correction.spread.copy_(known.latent_std.clamp(min=max(TINY, LEAST_SPREAD * float(known.latent_std.max()))))
    base.requires_grad_(False)
    correction.requires_grad_(True)
    return base, whole
