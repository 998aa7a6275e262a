"""The closed form with a nonlinear correction of its latent map, or with a refinement: what is learned on top of it."""

from dataclasses import replace

from functaconv.base import Base, is_of_correction
from functaconv.checkpoint import base_from_bytes
from functaconv.construction import build
from functaconv.recipe import Recipe
from functaconv.solvers import GaussNewtonOptions
from functaconv.training.closed_form.floor import Floor


def corrected(floor: Floor, recipe: Recipe) -> tuple[Base, Recipe]:
    """The closed form with a correction as the recipe has it, which changes nothing yet, and the recipe of both.

    The correction or refinement alone learns: all updates, and all fits, begin with the same step, the exact one of the
    closed form.
    """
    stored = base_from_bytes(floor.content, "the closed form")
    assert isinstance(recipe.solver, GaussNewtonOptions)
    assert isinstance(stored.recipe.solver, GaussNewtonOptions)
    # chords with hardly any damping go far in directions that the linear base does not see
    solver = replace(recipe.solver, damping=max(recipe.solver.damping, stored.recipe.solver.damping))
    latent = replace(stored.recipe.latent, map_width=recipe.latent.map_width, knots=recipe.latent.knots)
    whole = replace(recipe, data=stored.recipe.data, network=stored.recipe.network, latent=latent, solver=solver)
    known = stored.base
    base = build(whole, known.axes, known.normalizer, known.geometry)
    own = {name: tensor for name, tensor in base.state_dict().items() if is_of_correction(name)}
    damping = {"solver.log_damping": base.solver.state_dict()["log_damping"]}
    base.load_state_dict(dict(known.state_dict()) | own | damping)
    # the mean of the items, where the correction is zero: the first step is then the same whatever has been learned
    base.start.zero_()
    base.field.expect(known.latent_std)
    assert base.field.nonlinear is not None
    base.requires_grad_(False)
    base.field.nonlinear.requires_grad_(True)
    return base, whole
