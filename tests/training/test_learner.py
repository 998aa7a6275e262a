"""The outer loop's arithmetic for Gauss-Newton bases: through one step, and at the minimum of several."""

from typing import Any

import numpy as np
import pytest
import torch

from functaconv.base import Base, is_of_correction
from functaconv.construction import build
from functaconv.documents import merged
from functaconv.modalities import Axes
from functaconv.recipe import Recipe, validated
from functaconv.signals.batch import Batch
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from functaconv.training.distributed import Group
from functaconv.training.gradients import MEMORY, RECHECK_AFTER, decrement
from functaconv.training.learner import Learner
from functaconv.training.optimizers import optimizers_of

AXES = Axes("image", 2, 3)


def recipe(**sections: Any) -> Recipe:
    settings: dict[str, Any] = {
        "network": {"width": 12, "depth": 3, "w0_first": 4.0, "w0_hidden": 2.0},
        "latent": {"numbers": 6},
        "solver": {"kind": "gauss-newton", "steps": 3, "damping": 1e-3},
        "training": {"steps": 10, "warmup": 0.0, "optimizer": "muon", "envelope": True},
    }
    return validated(merged(settings, sections))


def base_of(chosen: Recipe) -> Base:
    return build(chosen, AXES, Normalizer.of_code_range(3)).double()


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(3)
    smooth = random.normal(128, 6, (5, 3, 3, 3)).repeat(3, 1).repeat(3, 2) + random.normal(0, 4, (5, 9, 9, 3))
    return Batch.of([Signal(str(i), v.astype(np.float32), 255.0) for i, v in enumerate(smooth)], range(5))


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features in float64: derivatives are compared."""
    features = Normalizer.features
    monkeypatch.setattr(Normalizer, "features", lambda self, batch: features(self, batch).double())


def gradients(base: Base) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in base.named_parameters() if p.grad is not None}


def stepped(learner: Learner, batch: Batch, spent: float) -> dict[str, torch.Tensor]:
    learner.gradients.descend([batch], spent, 0)
    return gradients(learner.base)


@pytest.mark.usefixtures("doubled")
@pytest.mark.parametrize("latent", [{"numbers": 6}, {"numbers": 3, "sites": [1, 3]}], ids=["global", "spatial"])
def test_where_the_fit_has_converged_the_latents_may_be_held_fixed(batch: Batch, latent: dict[str, Any]) -> None:
    sections: dict[str, Any] = {"latent": latent, "solver": {"steps": 16, "damping": 1e-6}}
    strict = recipe(**sections, training={"one_step": 0.0, "converged": 1e-4})
    fixed = Learner(base_of(strict), strict.training)
    graph = recipe(**sections, training={"one_step": 0.0, "envelope": False, "unrolled_steps": 16})
    through = Learner(base_of(graph), graph.training)
    one, other = stepped(fixed, batch, 0.5), stepped(through, batch, 0.5)
    assert fixed.gradients.unconverged_until == 0
    assert difference(one, other) < 0.02
    # which is not so where it has not: after one step
    early = merged(sections, {"solver": {"steps": 2, "damping": 1.0}, "training": {"one_step": 0.0}})
    taken = recipe(**merged(early, {"training": {"converged": 1.0}}))
    graph = recipe(**merged(early, {"training": {"envelope": False}}))
    one, other = (stepped(Learner(base_of(chosen), chosen.training), batch, 0.5) for chosen in (taken, graph))
    assert difference(one, other) > 0.1


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Relative, of gradients as a whole."""
    assert one.keys() == other.keys()
    whole = [torch.cat([found[name].flatten() for name in one]) for found in (one, other)]
    return float((whole[0] - whole[1]).norm() / whole[1].norm())


@pytest.mark.usefixtures("doubled")
def test_where_it_has_not_converged_the_base_learns_through_one_step(batch: Batch) -> None:
    # so much damping that three steps lead nowhere near the minimum
    far: dict[str, Any] = {"solver": {"damping": 100.0, "steps": 2}}
    learner = Learner(base_of(recipe(**far)), recipe(**far, training={"one_step": 0.0}).training)
    single = Learner(base_of(recipe(**far)), recipe(**far, training={"one_step": 1.0}).training)
    one, other = stepped(learner, batch, 0.5), stepped(single, batch, 0.5)
    assert learner.gradients.unconverged_until == RECHECK_AFTER
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    # it looks again after some updates, not before
    learner.gradients.descend([batch], 0.5, RECHECK_AFTER - 1)
    assert learner.gradients.unconverged_until == RECHECK_AFTER
    learner.gradients.descend([batch], 0.5, RECHECK_AFTER)
    assert learner.gradients.unconverged_until == 2 * RECHECK_AFTER


@pytest.mark.usefixtures("doubled")
def test_one_step_comes_first(batch: Batch) -> None:
    chosen = recipe(training={"one_step": 0.6, "converged": 1.0})
    single = recipe(training={"one_step": 1.0})
    expected = stepped(Learner(base_of(single), single.training), batch, 0.5)
    for spent, is_one in ((0.0, True), (0.59, True), (0.61, False)):
        found = stepped(Learner(base_of(chosen), chosen.training), batch, spent)
        assert (difference(found, expected) == 0) == is_one


@pytest.mark.usefixtures("doubled")
def test_the_decrement_foretells_what_another_step_takes_away(batch: Batch) -> None:
    base = base_of(recipe(solver={"steps": 1})).requires_grad_(False)
    problem = base.problem(batch)
    # a small way from the minimum the error is a parabola
    best = base.encode(batch, steps=100)
    change = torch.randn(best.latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latents = (best.latents + 1e-3 * change).requires_grad_()
    error = problem.error(latents)
    (gradient,) = torch.autograd.grad(error.sum(), latents)
    curvature = problem.normal_equations(latents.detach()).normal_matrix
    exact = (gradient / 2 * curvature.damped(1e-9).solve(gradient / 2)).sum((1, 2))
    torch.testing.assert_close(exact, (error - best.error).detach(), rtol=0.2, atol=1e-9)
    found = decrement(problem, base.start, gradient / 2)
    assert (found > 0).all()
    assert torch.isfinite(found).all()


def test_muon_takes_the_matrices_and_adam_the_rest() -> None:
    chosen = recipe()
    base = base_of(chosen).float()
    taken = {kind: {id(p) for g in o.param_groups for p in g["params"]}
             for kind, o in optimizers_of(base, list(base.parameters()), [], chosen.training).items()}  # fmt: skip
    names = {id(p): name for name, p in base.named_parameters()}
    assert {names[i] for i in taken["muon"]} == {"field.network.weights.1", "field.latent_map.weight"}
    assert not taken["muon"] & taken["adam"]
    assert taken["muon"] | taken["adam"] == set(names)
    adam = recipe(training={"optimizer": "adam"})
    assert set(optimizers_of(base, list(base.parameters()), [], adam.training)) == {"adam"}


@pytest.mark.parametrize("latent", [{"sites": [2, 2], "interpolation": "window"}, {"knots": [4, 6]}])
def test_muon_takes_all_that_is_learned_on_top_of_the_closed_form(latent: dict[str, Any]) -> None:
    settings = {
        "network": {"kind": "fourier"}, "solver": {"kind": "gauss-newton", "chord": True},
        "latent": {"numbers": 3, "map_width": 4, **latent}, "training": {"optimizer": "muon"},
    }  # fmt: skip
    chosen = validated(settings)
    base = build(chosen, AXES, Normalizer.of_code_range(3))
    learned = [parameter for name, parameter in base.named_parameters() if is_of_correction(name)]
    assert len(learned) > 2
    taken = optimizers_of(base, learned, [], chosen.training)["muon"].param_groups[0]["params"]
    assert {id(parameter) for parameter in learned} <= {id(parameter) for parameter in taken}


@pytest.mark.parametrize("learned", [False, True])
def test_a_learned_damping_moves_within_its_limits(batch: Batch, learned: bool) -> None:
    chosen = recipe(solver={"learned_damping": learned, "damping": 1e-2})
    learner = Learner(base_of(chosen).float(), chosen.training)
    before = learner.base.solver.log_damping.item()
    for _ in range(5):
        learner.update([batch], 0.1)
    assert (learner.base.solver.log_damping.item() != before) == learned


def shares(batch: Batch, ranks: int) -> list[Batch]:
    return [batch.items(slice(rank * len(batch) // ranks, (rank + 1) * len(batch) // ranks)) for rank in range(ranks)]


class Summed(Group):
    """One of several ranks in one process, which are given the sums of what all of them bring."""

    def __init__(self, rank: int, sums: list[torch.Tensor]) -> None:
        self.rank, self.count, self.sums = rank, 4, sums

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self.sums.append(tensor.clone())
        return sum(self.sums[-self.count :], torch.zeros_like(tensor))


@pytest.mark.usefixtures("doubled")
@pytest.mark.parametrize("latent", [{"numbers": 6}, {"numbers": 3, "sites": [1, 3]}], ids=["global", "spatial"])
def test_a_batch_in_parts_of_shapes_or_memory_gives_the_gradient_of_the_whole(
    batch: Batch, latent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(latent=latent, training={"one_step": 0.0, "envelope": False})
    whole = stepped(Learner(base_of(chosen), chosen.training), batch, 0.5)
    groups = Learner(base_of(chosen), chosen.training)
    groups.gradients.descend(shares(batch, 3), 0.5, 0)
    # one item at a time, inner steps recomputed
    monkeypatch.setitem(MEMORY, "cpu", 0)
    parts = stepped(Learner(base_of(chosen), chosen.training), batch, 0.5)
    assert difference(parts, whole) < 1e-12
    assert difference(gradients(groups.base), whole) < 1e-12


@pytest.mark.usefixtures("doubled")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_last_rank_to_add_its_share_has_the_update_of_all(batch: Batch, order: tuple[int, ...]) -> None:
    chosen = recipe(training={"one_step": 1.0, "clip": 0.0})
    alone = Learner(base_of(chosen), chosen.training)
    expected = alone.update([batch], 0.5)
    # of four ranks one has no item at all
    own: list[list[Batch]] = [[share] for share in shares(batch, 3)]
    sums: list[torch.Tensor] = []
    for rank in (3, *order):
        learner = Learner(base_of(chosen), chosen.training, Summed(rank, sums))
        update = learner.update([] if rank == 3 else own[rank], 0.5, [1.0, float(rank == 1)])
    assert update.notes == (4.0, 1.0)
    assert update.error == pytest.approx(expected.error, rel=1e-12)
    assert update.norm == pytest.approx(expected.norm, rel=1e-9)
    for name, tensor in learner.base.state_dict().items():
        torch.testing.assert_close(tensor, alone.base.state_dict()[name], rtol=1e-9, atol=1e-12)


def test_a_batch_of_which_nothing_can_be_used_is_no_update(batch: Batch) -> None:
    learner = Learner(base_of(recipe()).float(), recipe().training)
    before = {name: tensor.clone() for name, tensor in learner.base.state_dict().items()}
    update = learner.update([], 0.5)
    assert (learner.updates, learner.skipped) == (0, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.base.state_dict().items())
    assert update.notes == ()
