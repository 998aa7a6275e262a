"""The outer loop's arithmetic for Gauss-Newton bases: through one step, and at the minimum of several."""

from typing import Any

import numpy as np
import pytest
import torch

from functaconv.base import Base
from functaconv.construction import build
from functaconv.modalities import Axes
from functaconv.recipe import Recipe, merged, validated
from functaconv.signals.batch import Batch
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from functaconv.training.distributed import Group
from functaconv.training.gradients import RECHECK_AFTER, OuterGradients
from functaconv.training.learner import Learner

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
    early = recipe(**merged(sections, {"solver": {"steps": 1}}))
    fixed, through = Learner(base_of(early), early.training), Learner(base_of(early), early.training)
    fixed.gradients._backward_at_minimum([batch], 0)
    through.gradients._backward([batch], 0, steps=1)
    assert difference(gradients(fixed.base), gradients(through.base)) > 0.1


def passes(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Filled with the passes over a batch, as they are made: through so many steps, or at the minimum."""
    made: list[object] = []
    backward, at_minimum = OuterGradients._backward, OuterGradients._backward_at_minimum
    monkeypatch.setattr(
        OuterGradients, "_backward", lambda *given, steps: made.append(steps) or backward(*given, steps)
    )
    monkeypatch.setattr(
        OuterGradients, "_backward_at_minimum", lambda *given: made.append("minimum") or at_minimum(*given)
    )
    return made


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Relative, of gradients as a whole."""
    assert one.keys() == other.keys()
    whole = [torch.cat([found[name].flatten() for name in one]) for found in (one, other)]
    return float((whole[0] - whole[1]).norm() / whole[1].norm())


@pytest.mark.usefixtures("doubled")
def test_where_it_has_not_converged_the_base_learns_through_one_step(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so much damping that three steps lead nowhere near the minimum
    far: dict[str, Any] = {"solver": {"damping": 100.0, "steps": 2}}
    learner = Learner(base_of(recipe(**far)), recipe(**far, training={"one_step": 0.0}).training)
    single = Learner(base_of(recipe(**far)), recipe(**far, training={"one_step": 1.0}).training)
    one, other = stepped(learner, batch, 0.5), stepped(single, batch, 0.5)
    assert learner.gradients.unconverged_until == RECHECK_AFTER
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    # until it looks again, it does not fit twice
    asked = passes(learner, monkeypatch)
    learner.gradients.descend([batch], 0.5, RECHECK_AFTER - 1)
    learner.gradients.descend([batch], 0.5, RECHECK_AFTER)
    assert asked == [1, "minimum", 1]


def test_one_step_comes_first(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(base_of(recipe()).float(), recipe(training={"one_step": 0.6}).training)
    asked = passes(learner, monkeypatch)
    for spent in (0.0, 0.59, 0.61):
        learner.update([batch], spent)
    assert asked[:3] == [1, 1, "minimum"]


@pytest.mark.usefixtures("doubled")
def test_the_decrement_foretells_what_another_step_takes_away(batch: Batch) -> None:
    base = base_of(recipe(solver={"steps": 1})).requires_grad_(False)
    problem = base.problem(batch)
    # a small way from the minimum the error is a parabola
    best = base.encode(batch, steps=100)
    latents = (best.latents + 1e-3 * torch.randn(best.latents.shape, dtype=torch.float64)).requires_grad_()
    error = problem.error(latents)
    (gradient,) = torch.autograd.grad(error.sum(), latents)
    curvature = problem.normal_equations(latents.detach()).normal_matrix
    exact = (gradient / 2 * curvature.damped(1e-9).solve(gradient / 2)).sum((1, 2))
    torch.testing.assert_close(exact, (error - best.error).detach(), rtol=0.2, atol=1e-9)
    found = base.decrement(problem, gradient / 2)
    assert (found > 0).all()
    assert torch.isfinite(found).all()


def test_muon_takes_the_matrices_and_adam_the_rest(batch: Batch) -> None:
    chosen = recipe()
    learner = Learner(base_of(chosen).float(), chosen.training)
    taken = {kind: {id(p) for g in o.param_groups for p in g["params"]} for kind, o in learner._optimizers.items()}
    names = {id(p): name for name, p in learner.base.named_parameters()}
    assert {names[i] for i in taken["muon"]} == {"field.network.weights.1", "field.latent_map.weight"}
    assert not taken["muon"] & taken["adam"]
    assert taken["muon"] | taken["adam"] == set(names)
    adam = recipe(training={"optimizer": "adam"})
    assert set(Learner(base_of(adam).float(), adam.training)._optimizers) == {"adam"}


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
    batch: Batch, latent: dict[str, Any]
) -> None:
    chosen = recipe(latent=latent, training={"one_step": 0.0, "envelope": False})
    whole = stepped(Learner(base_of(chosen), chosen.training), batch, 0.5)
    # one item at a time, inner steps recomputed
    parts = stepped(Learner(base_of(chosen), chosen.training, memory=0), batch, 0.5)
    groups = Learner(base_of(chosen), chosen.training)
    groups.gradients.descend(shares(batch, 3), 0.5, 0)
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


def test_points_and_mixup_are_drawn_from_seeds_of_their_own(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    class Recorded(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            seeds.append(seed)
            return super().manual_seed(seed)

    chosen = recipe(training={"mixup": 0.5, "inner_points": 20, "outer_points": 20, "seed": 3})
    learner = Learner(base_of(chosen).float(), chosen.training)
    monkeypatch.setattr(torch, "Generator", Recorded)
    for _ in range(3):
        learner.update([batch], 0.1)
    assert len(seeds) == len(set(seeds)) == 6


def test_a_batch_of_which_nothing_can_be_used_is_no_update(batch: Batch) -> None:
    learner = Learner(base_of(recipe()).float(), recipe().training)
    before = {name: tensor.clone() for name, tensor in learner.base.state_dict().items()}
    update = learner.update([], 0.5)
    assert (learner.updates, learner.skipped) == (0, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.base.state_dict().items())
    assert update.notes == ()
