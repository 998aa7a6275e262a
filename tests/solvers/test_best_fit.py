"""Fits that never get worse, and stop where there is nothing left to gain."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from functaconv.networks import ModulatedNetwork
from functaconv.solvers import Fit, Problem, Solver, best_fit, fit
from functaconv.solvers.fit import DAMP_LESS, DAMP_MORE
from functaconv.solvers.problem import Gradient

from .test_contract import CHANNELS, COORDS, LAYOUTS, field_of, problem_of, solver_of, start, targets

# rates so high that gradient steps run uphill now and then
SOLVERS = {
    "gradient": ("gradient", {"initial": (0.5, 1.0)}),
    "gauss-newton": ("gauss-newton", {}),
    "chord": ("gauss-newton", {"chord": True}),
}


# each layout, each solver
PAIRS = [("global", "gradient"), ("nearest", "gauss-newton"), ("linear", "chord"), ("kernel3", "gradient")]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[ModulatedNetwork, nn.Module]:
    layout, name = request.param
    kind, options = SOLVERS[name]
    return field_of(*LAYOUTS[layout]), solver_of(kind, **options)


@pytest.fixture(params=["nearest", "linear"])
def field(request: pytest.FixtureRequest) -> ModulatedNetwork:
    return field_of(*LAYOUTS[request.param])


def mild(name: str) -> nn.Module:
    """The solver with rates that lead steepest_descent, if it has any."""
    kind, options = SOLVERS[name]
    return solver_of(kind, **{key: value for key, value in options.items() if key != "initial"})


def noise(items: int, size: float = 10.0) -> Tensor:
    generator = torch.Generator().manual_seed(21)
    return size * torch.randn(items, len(COORDS), CHANNELS, dtype=torch.float64, generator=generator)


def prepared(field: ModulatedNetwork, features: Tensor, valid: Tensor | None = None) -> Problem:
    """With a shared start, where the items allow it."""
    return problem_of(field, features, COORDS, valid).at(start(field, 1))


class Watched(Solver):
    """A solver that notes how many items took each step, and with which damping."""

    is_adaptive = True

    def __init__(self, solver: Solver) -> None:
        super().__init__(solver.steps)
        self.solver = solver
        self.items: list[int] = []
        self.damping_scale: list[list[float] | None] = []

    def linearize(self, problem: Problem, latents: Tensor) -> Gradient:
        return self.solver.linearize(problem, latents)

    def step(self, problem: Problem, view: Gradient, number: int, damping_scale: Tensor | None = None) -> Tensor:
        self.items.append(problem.items)
        self.damping_scale.append(None if damping_scale is None else damping_scale.tolist())
        return self.solver.step(problem, view, number, damping_scale)


def errors_by_steps(run: Callable[[int], Fit], most: int) -> Tensor:
    return torch.stack([run(steps).error.detach() for steps in range(most + 1)])


def test_more_steps_never_make_an_item_worse(pair: tuple[ModulatedNetwork, nn.Module]) -> None:
    field, solver = pair
    features, masked = noise(4), field.sites.count > 1
    valid = (torch.rand(features.shape, generator=torch.Generator().manual_seed(1)) > 0.3).double() if masked else None
    problem, begin = prepared(field, features, valid), start(field, 1)
    plain = errors_by_steps(lambda n: fit(problem, begin, solver, steps=n), 12)
    assert (plain.diff(dim=0) > 0).any(), "the test is too easy"
    found = errors_by_steps(lambda n: best_fit(problem, begin, solver, steps=n), 12)
    # one start for all and one for each differ in the last digit
    assert (found.diff(dim=0) <= 1e-13 * found[:1]).all()
    assert (found[12] < found[0]).all()


def test_an_item_keeps_the_best_of_learned_steps(field: ModulatedNetwork) -> None:
    problem, begin, solver = prepared(field, noise(4)), start(field, 1), solver_of("gradient", initial=(0.5, 1.0))
    plain = errors_by_steps(lambda n: fit(problem, begin, solver, steps=n), 8)
    assert (plain.argmin(0) < 8).any(), "the test is too easy"
    best = best_fit(problem, begin, solver, steps=8)
    torch.testing.assert_close(best.error, plain.min(0).values, rtol=1e-12, atol=0)
    for item, steps in enumerate(plain.argmin(0).tolist()):
        expected = fit(problem, begin, solver, steps=steps).latents[item]
        torch.testing.assert_close(best.latents[item], expected, rtol=1e-10, atol=1e-12)


def test_one_step_is_that_of_a_plain_fit_or_none(pair: tuple[ModulatedNetwork, nn.Module]) -> None:
    field, solver = pair
    problem, begin = prepared(field, noise(6)), start(field, 1)
    plain, best = fit(problem, begin, solver, steps=1), best_fit(problem, begin, solver, steps=1)
    better = plain.error < problem.error(begin)
    expected = torch.where(better[:, None, None], plain.latents, begin)
    torch.testing.assert_close(best.latents, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("chord", [False, True])
def test_a_step_uphill_is_tried_again_from_where_it_began_but_smaller(field: ModulatedNetwork, chord: bool) -> None:
    solver = solver_of("gauss-newton", damping=0.1, chord=chord)
    problem, begin = prepared(field, noise(16, 2.0)), start(field, 1)
    with torch.no_grad():
        view, damping = problem.normal_equations(begin), solver.log_damping.exp()
        first = view.normal_matrix.damped(damping).solve(view.jt_residual)
        uphill = problem.error(begin + first) > view.error
        # a chord has one factor for all items and steps
        again = first / DAMP_MORE if chord else view.normal_matrix.damped(damping * DAMP_MORE).solve(view.jt_residual)
        accepted = problem.error(begin + again) < view.error
        assert (uphill & accepted).any(), "the test is too hard"
        expected = torch.where(accepted[:, None, None], begin + again, begin)
    found = best_fit(problem, begin, solver, steps=2).latents
    torch.testing.assert_close(found[uphill], expected[uphill], rtol=1e-9, atol=1e-11)


def test_damping_falls_with_success_and_grows_with_failure_item_by_item(field: ModulatedNetwork) -> None:
    problem, begin = prepared(field, noise(8)), start(field, 1)
    solver = Watched(solver_of("gauss-newton"))
    best_fit(problem, begin, solver, steps=6)
    errors = errors_by_steps(lambda n: best_fit(problem, begin, solver.solver, steps=n), 5)
    better = errors.diff(dim=0) < 0
    factors = torch.where(better, DAMP_LESS, DAMP_MORE).cumprod(0)
    assert better.any(dim=0).any()
    assert (~better).any()
    assert solver.damping_scale[0] is None
    torch.testing.assert_close(torch.tensor(solver.damping_scale[1:6]), factors.float(), rtol=1e-5, atol=0)


def test_an_item_does_not_depend_on_its_batch(pair: tuple[ModulatedNetwork, nn.Module]) -> None:
    field, solver = pair
    features, begin = noise(6), start(field, 1)
    for min_gain in (None, 0.5):

        def fitted(part: Tensor, min_gain: float | None = min_gain) -> Tensor:
            return best_fit(prepared(field, part), begin, solver, steps=5, min_gain=min_gain).latents

        together = fitted(features)
        for size in (1, 4):
            alone = torch.cat([fitted(part) for part in features.split(size)])
            # rounding grows with every step on noise
            assert (alone - together).norm() <= 1e-7 * together.norm()


@pytest.mark.parametrize(("layout", "name"), PAIRS)
def test_items_are_done_when_a_step_brings_too_little(layout: str, name: str) -> None:
    field = field_of(*LAYOUTS[layout])
    features, begin = targets(4, COORDS), start(field, 1)
    solver = Watched(mild(name))
    found = best_fit(prepared(field, features), begin, solver, steps=60, min_gain=0.05)
    assert solver.items[0] == 4
    assert (torch.tensor(solver.items).diff() <= 0).all()
    assert len(set(solver.items)) > 1, "not all at once"
    assert len(solver.items) < 60, "none is left"
    # the work of each item alone, and its latents
    seen = [0] * len(solver.items)
    for item in range(4):
        alone = Watched(solver.solver)
        expected = best_fit(prepared(field, features[item : item + 1]), begin, alone, steps=60, min_gain=0.05)
        torch.testing.assert_close(found.latents[item], expected.latents[0], rtol=1e-6, atol=1e-8)
        seen = [n + (step < len(alone.items)) for step, n in enumerate(seen)]
    assert seen == solver.items


def test_a_stopped_item_gained_enough_until_its_last_step(field: ModulatedNetwork) -> None:
    features, begin = targets(1, COORDS), start(field, 1)
    problem, solver = prepared(field, features), Watched(solver_of("gradient"))
    best_fit(problem, begin, solver, steps=100, min_gain=0.05)
    taken = len(solver.items)
    errors = errors_by_steps(lambda n: fit(problem, begin, solver.solver, steps=n), taken)[:, 0]
    gains = 10 * torch.log10(errors[:-1] / errors[1:])
    assert 1 < taken < 100
    assert (gains[:-1] >= 0.05).all()
    assert gains[-1] < 0.05


@pytest.mark.parametrize(("layout", "name"), PAIRS)
def test_the_error_is_that_of_all_items(layout: str, name: str) -> None:
    field = field_of(*LAYOUTS[layout])
    problem, solver = prepared(field, targets(4, COORDS)), Watched(mild(name))
    found = best_fit(problem, start(field, 1), solver, steps=60, min_gain=0.05)
    assert solver.items[-1] < 4, "the test is too easy"
    assert found.problem.items == 4
    torch.testing.assert_close(found.error, problem.error(found.latents))


def test_a_perfect_start_stays(pair: tuple[ModulatedNetwork, nn.Module]) -> None:
    field, solver = pair
    placement, begin = field.sites.place(COORDS), start(field, 1) + 0.1
    shown = placement.scatter(field(begin, placement), torch.zeros(1, len(COORDS), CHANNELS, dtype=torch.float64))
    features = torch.cat([shown.detach(), targets(1, COORDS)])
    problem = problem_of(field, features, COORDS)
    for min_gain in (None, 0.1):
        found = best_fit(problem.at(begin), begin, solver, steps=4, min_gain=min_gain)
        assert torch.equal(found.latents[0], begin[0])
        assert found.error[1] < problem.error(begin)[1]


def test_an_item_that_is_not_finite_stays_at_the_start(pair: tuple[ModulatedNetwork, nn.Module]) -> None:
    for spoilt, min_gain in ((torch.nan, None), (torch.inf, 0.1), (1e300, 0.1)):
        assert_stays_at_the_start(*pair, spoilt, min_gain)


def assert_stays_at_the_start(
    field: ModulatedNetwork, solver: nn.Module, spoilt: float, min_gain: float | None
) -> None:
    features, begin = targets(3, COORDS), start(field, 1) + 0.1
    features[1, 3] = spoilt
    found = best_fit(problem_of(field, features, COORDS).at(begin), begin, solver, steps=4, min_gain=min_gain)
    assert torch.equal(found.latents[1], begin[0])
    others = best_fit(problem_of(field, features[::2], COORDS).at(begin), begin, solver, steps=4, min_gain=min_gain)
    torch.testing.assert_close(found.latents[::2], others.latents, rtol=1e-7, atol=1e-9)


def test_a_chord_that_keeps_its_best_costs_one_jacobian(
    field: ModulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    jacobian = field.jacobian
    monkeypatch.setattr(field, "jacobian", lambda *given: asked.append(len(given[0])) or jacobian(*given))
    solver = Watched(solver_of("gauss-newton", chord=True))
    best_fit(prepared(field, targets(4, COORDS)), start(field, 1), solver, steps=30, min_gain=0.5)
    assert len(set(solver.items)) > 1, "items were done on the way"
    assert asked == [1]


def test_a_step_into_infinity_is_taken_back(field: ModulatedNetwork) -> None:
    class Leaps(Watched):
        def step(self, problem: Problem, view: Gradient, number: int, damping_scale: Tensor | None = None) -> Tensor:
            step = super().step(problem, view, number, damping_scale)
            return step * torch.inf if number == 1 else step

    problem, begin = prepared(field, targets(4, COORDS)), start(field, 1)
    errors = [best_fit(problem, begin, Leaps(solver_of("gauss-newton")), steps=steps).error for steps in (1, 4)]
    assert (errors[1] <= errors[0]).all()
    assert (errors[1] < errors[0]).any(), "the steps after it still count"
