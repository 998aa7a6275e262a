"""A fit linearised at some latents: the matrices, what they are solved with, and what items share."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from functaconv.networks import ModulatedNetwork, SiteGrid
from functaconv.solvers import SOLVERS, Problem, best_fit, fit, fitting_problem
from functaconv.solvers.normal_matrix import CONJUGATE_STEPS, ConjugateGradients, Metric, NormalMatrix
from functaconv.solvers.problem import NormalEquations
from tests.conftest import in_grid_order

from . import test_contract
from .test_contract import COORDS, LATENT, field_of, grid, problem_of, solver_of, start, targets

LAYOUTS = {
    **test_contract.LAYOUTS,
    "linear-kernel3": (SiteGrid((2, 3), "linear", "global"), 3),
    "sites-without-points": (SiteGrid((6, 4)), 1),
}
COUPLED = ["linear", "kernel3", "linear-kernel3"]
ITEMS = 3

# layout, scales, masks, points in a piece, one latent for all items: every pair of values is there
CASES = [
    ("global", False, 1, 4, False),
    ("global", True, ITEMS, 9, True),
    ("global", True, 0, None, False),
    ("nearest", False, 1, 9, True),
    ("nearest", True, ITEMS, None, True),
    ("nearest", True, 0, 4, False),
    ("linear", False, 0, 9, True),
    ("linear", True, ITEMS, 4, True),
    ("linear", True, 1, None, False),
    ("kernel3", False, ITEMS, 4, True),
    ("kernel3", True, 0, 9, False),
    ("kernel3", True, 1, None, True),
    ("linear-kernel3", False, 0, None, True),
    ("linear-kernel3", True, ITEMS, 9, False),
    ("linear-kernel3", True, 1, 4, True),
    ("sites-without-points", False, ITEMS, None, True),
    ("sites-without-points", False, 0, 4, True),
    ("sites-without-points", True, 1, 9, False),
]


def mask_of(masks: int, features: Tensor) -> Tensor | None:
    if not masks:
        return None
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(masks, *features.shape[1:], generator=generator) > 0.3).to(features.dtype)


def latents_of(field: ModulatedNetwork, items: int, seed: int = 2, size: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(items, field.sites.count, LATENT, dtype=torch.float64, generator=generator)


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Relative to the whole: a number near zero has no relative accuracy of its own."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    assert (found - expected).norm() <= tolerance * expected.norm() + 1e-14


@cache
def derivatives(name: str, film: bool, shared: bool) -> tuple[Tensor, Tensor]:
    """Features and their derivatives, `[item, value]` and `[item, value, number]`, by autograd in the grid's order."""
    field = field_of(*LAYOUTS[name], film=film)
    placement = field.sites.place(COORDS)

    def values(numbers: Tensor) -> Tensor:
        features = field(numbers.reshape(1, -1, LATENT), placement)
        return in_grid_order(placement, features, len(COORDS)).flatten()

    latents = latents_of(field, 1 if shared else ITEMS).flatten(1)
    features = torch.stack([values(one) for one in latents]).detach()
    return features.expand(ITEMS, -1), torch.stack([jacobian(values, one) for one in latents]).expand(ITEMS, -1, -1)


@dataclass(frozen=True)
class Case:
    """A problem, latents, the normal equations there, and the same from a dense Jacobian."""

    problem: Problem
    latents: Tensor
    found: NormalEquations
    matrix: Tensor
    jt_residual: Tensor
    error: Tensor

    def each(self, values: Tensor) -> Tensor:
        """One matrix may stand for all items."""
        return values.expand(ITEMS, *values.shape[1:])

    def damped(self, damping: Tensor, metric: Tensor | None = None) -> Tensor:
        """Explicitly, for one damping per item."""
        sites = self.matrix.shape[-1] // LATENT
        metric = torch.eye(LATENT, dtype=torch.float64) if metric is None else metric
        whole = torch.block_diag(*[metric] * sites)
        # the mean of the diagonal, in coordinates in which the metric is the identity
        lower = torch.linalg.inv(torch.linalg.cholesky(whole))
        level = (lower @ self.matrix @ lower.T).diagonal(dim1=-2, dim2=-1).mean(-1)
        return self.matrix + (damping * level)[:, None, None] * whole


def case_of(name: str, film: bool, masks: int, chunk: int | None, shared: bool) -> Case:
    field, features = field_of(*LAYOUTS[name], film=film), targets(ITEMS, COORDS)
    valid = mask_of(masks, features)
    problem = problem_of(field, features, COORDS, valid, chunk)
    latents = latents_of(field, 1 if shared else ITEMS)
    with torch.no_grad():
        found = problem.normal_equations(latents)
    values, rows = derivatives(name, film, shared)
    weights = (torch.ones_like(features) if valid is None else valid.expand_as(features)).flatten(1)
    weights = weights / weights.sum(1, keepdim=True)
    residual = features.flatten(1) - values
    return Case(
        problem,
        latents,
        found,
        matrix=rows.mT @ (weights[..., None] * rows),
        jt_residual=(rows.mT @ (weights * residual)[..., None]).reshape(ITEMS, -1, LATENT),
        error=(weights * residual.square()).sum(1),
    )


class Counting:
    """A network that notes of how many items it was asked the Jacobian."""

    is_linear = False
    is_corrected = False
    keeps_derivatives = False

    def __init__(self, field: ModulatedNetwork) -> None:
        self.field, self.sites, self.jacobians = field, field.sites, []
        self.vjp, self.reads, self.refined = field.vjp, field.reads, field.refined

    def __call__(self, latents: Tensor, placement: object) -> Tensor:
        return self.field(latents, placement)

    def jacobian(self, latents: Tensor, placement: object) -> tuple[Tensor, Tensor]:
        self.jacobians.append(len(latents))
        return self.field.jacobian(latents, placement)


@pytest.fixture(params=["nearest", "linear"])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(*request.param)


def conjugate_gradients(matrix: NormalMatrix, damping: Tensor | float, steps: int) -> ConjugateGradients:
    """As for items of too many numbers to be factored, with any number of steps."""
    amount = damping * matrix.mean_diagonal()
    added = amount[:, None, None, None] * torch.eye(matrix.latent, dtype=matrix.matrix.dtype)
    # a matrix of cells that read one site each is factored site by site
    own = NormalMatrix(matrix.blocks + added, None, matrix.sites)
    return ConjugateGradients(matrix, added, own.damped(0.0), steps)


def test_the_equations_are_those_of_autograds_jacobian(case: Case) -> None:
    assert_near(case.found.jt_residual, case.jt_residual)
    assert_near(case.found.error, case.error)
    alone = case.problem.gradient(case.latents)
    assert_near(alone.jt_residual, case.jt_residual)
    assert_near(alone.error, case.error)
    normal_matrix, sites = case.found.normal_matrix, case.jt_residual.shape[1]
    whole = case.each(normal_matrix.assembled())
    assert_near(whole, case.matrix)
    torch.testing.assert_close(whole, whole.mT, rtol=1e-12, atol=1e-14)
    cut = case.matrix.unflatten(1, (sites, LATENT)).unflatten(3, (sites, LATENT))
    assert_near(case.each(normal_matrix.blocks), cut[:, range(sites), :, range(sites)].movedim(0, 1))
    vectors = latents_of(field_of(*LAYOUTS["global"]), ITEMS * sites, seed=7).reshape(ITEMS, sites, LATENT)
    assert_near(normal_matrix.times(vectors), (case.matrix @ vectors.flatten(1)[..., None]).reshape(vectors.shape))
    assert_near(case.each(normal_matrix.mean_diagonal()), case.matrix.diagonal(dim1=-2, dim2=-1).mean(-1))
    # and the damped solve
    metric = latents_of(field_of(*LAYOUTS["global"]), LATENT, seed=8, size=1.0)[:, 0]
    metric = metric @ metric.T + torch.eye(LATENT, dtype=torch.float64)
    each = torch.tensor([1e-3, 1e-2, 1.0], dtype=torch.float64)
    for damping in (1e-3, each):
        for measure in (None, metric):
            matrix = case.damped(torch.as_tensor(damping, dtype=torch.float64).expand(ITEMS), measure)
            expected = torch.linalg.solve(matrix, case.jt_residual.flatten(1)).reshape(case.jt_residual.shape)
            # a condition of up to about 1000 * numbers
            given = None if measure is None else Metric.of(measure)
            assert_near(normal_matrix.damped(damping, given).solve(case.jt_residual), expected, 1e-9)


@pytest.mark.parametrize("masks", [0, 1, ITEMS])
def test_one_latent_and_one_mask_make_one_curvature_for_all(masks: int) -> None:
    name = "linear"
    assert case_of(name, False, masks, None, shared=True).found.normal_matrix.items == (ITEMS if masks > 1 else 1)
    assert case_of(name, False, masks, None, shared=False).found.normal_matrix.items == ITEMS


@pytest.mark.parametrize(
    ("name", "masks", "shared"), [("linear", 0, True), ("kernel3", 1, False), ("linear-kernel3", ITEMS, True)]
)
def test_conjugate_gradients_converge_to_the_direct_solution(name: str, masks: int, shared: bool) -> None:
    case = case_of(name, True, masks, None, shared)
    each = torch.tensor([1e-3, 1e-2, 1.0], dtype=torch.float64)
    for damping in (1e-3, each):
        matrix = case.damped(torch.as_tensor(damping, dtype=torch.float64).expand(ITEMS))
        expected = torch.linalg.solve(matrix, case.jt_residual.flatten(1)).reshape(case.jt_residual.shape)

        def solution(steps: int, damping: Tensor | float = damping) -> Tensor:
            return conjugate_gradients(case.found.normal_matrix, damping, steps).solve(case.jt_residual)

        def energy(steps: int, matrix: Tensor = matrix, expected: Tensor = expected, found: Any = solution) -> Tensor:
            wrong = (found(steps) - expected).flatten(1)
            return (wrong[:, None] @ matrix @ wrong[..., None])[:, 0, 0]

        assert_near(solution(200), expected, 1e-8)
        energies = torch.stack([energy(steps) for steps in (0, 1, 2, 4, 8, CONJUGATE_STEPS)])
        assert (energies.diff(dim=0) < 0).all()
        assert (energies[-1] < 0.05 * energies[0]).all()


def test_conjugate_gradients_leave_alone_what_has_converged() -> None:
    for name in COUPLED:
        case = case_of(name, False, 0, None, shared=False)
        jt_residual = case.jt_residual.clone()
        jt_residual[1] = 0
        many, fewer = (conjugate_gradients(case.found.normal_matrix, 10.0, n).solve(jt_residual) for n in (200, 50))
        assert not many[1].any()
        assert torch.isfinite(many).all()
        assert_near(many[::2], fewer[::2], 1e-9)


@pytest.mark.parametrize("name", ["nearest", *COUPLED])
def test_an_item_is_solved_alike_alone_and_among_others(name: str) -> None:
    case = case_of(name, False, ITEMS, None, shared=False)
    together = case.found.normal_matrix.damped(1e-3).solve(case.jt_residual)
    for item in range(ITEMS):
        chosen = torch.tensor([item])
        alone = case.found.normal_matrix.select(chosen).damped(1e-3).solve(case.jt_residual[chosen])
        assert_near(alone, together[chosen], 1e-10)


def test_items_of_more_numbers_than_are_assembled_are_fitted_all_the_same() -> None:
    """With their derivatives overflowing, without an effect of some numbers, and alone as among others."""
    field, coords = field_of(SiteGrid((12, 12), "linear", "global")).float(), grid(13, 14).float()
    with torch.no_grad():
        weight = field.latent_map.weight.unflatten(1, (-1, LATENT))
        weight[..., 1] = weight[..., 0]
    features = targets(ITEMS, coords)
    features[1] *= 1e10
    begin, solver = start(field, 1, coords), solver_of("gauss-newton", steps=2, damping=1.0).float()
    with torch.no_grad():
        problem = problem_of(field, features, coords, mask_of(ITEMS, features))
        assert isinstance(problem.normal_equations(begin).normal_matrix.damped(1e-3), ConjugateGradients)
        fitted = fit(problem, begin, solver)
        assert torch.isfinite(fitted.latents).all()
        assert (fitted.error < problem.error(begin))[::2].all()
        alone = fit(problem.select(torch.tensor([2])), begin, solver)
        assert_near(alone.latents, fitted.latents[2:], 1e-3)


def test_with_a_metric_the_step_does_not_depend_on_the_latents_basis() -> None:
    for name in ["global", "nearest", *COUPLED]:
        field, features = field_of(*LAYOUTS[name]), targets(ITEMS, COORDS)
        basis = latents_of(field_of(*LAYOUTS["global"]), LATENT, seed=8, size=1.0)[:, 0] + torch.eye(LATENT)
        back = torch.linalg.inv(basis)
        count = field.latent_map.weight.shape[1] // LATENT
        turned = field_of(*LAYOUTS[name])
        with torch.no_grad():
            # new latents are basis @ old ones
            turned.latent_map.weight.copy_(field.latent_map.weight @ torch.block_diag(*[back] * count))
        plain, measured = solver_of("gauss-newton", damping=0.1), solver_of("gauss-newton", damping=0.1)
        measured.metric = back.T @ back
        old = fit(problem_of(field, features, COORDS), start(field, 1), plain).latents
        new = fit(problem_of(turned, features, COORDS), start(turned, 1), measured).latents
        assert_near(new.detach(), (old @ basis.T).detach(), 1e-8)


def test_a_gauss_newton_step_is_the_damped_solve(name: str) -> None:
    field = field_of(*LAYOUTS[name])
    problem, latents = problem_of(field, targets(ITEMS, COORDS), COORDS), latents_of(field, ITEMS)
    solver = solver_of("gauss-newton", damping=0.02)
    view, damping = problem.normal_equations(latents), solver.log_damping.exp()
    damping_scale = torch.tensor([1.0, 10.0, 0.3], dtype=torch.float64)
    for metric in (None, torch.arange(1.0, LATENT + 1).double().diag()):
        solver.metric = metric
        measure = None if metric is None else Metric.of(metric)
        assert_near(solver.step(problem, view, 0), view.normal_matrix.damped(damping, measure).solve(view.jt_residual))
        scaled = view.normal_matrix.damped(damping * damping_scale, measure).solve(view.jt_residual)
        assert_near(solver.step(problem, view, 1, damping_scale), scaled)


def test_a_shared_start_changes_nothing() -> None:
    for name, film, masks, chunk in [
        ("global", False, 0, None),
        ("nearest", True, 1, 9),
        ("linear", False, 1, None),
        ("kernel3", True, 0, 9),
        ("linear-kernel3", True, 1, None),
        ("sites-without-points", False, 0, 9),
    ]:
        field, features = field_of(*LAYOUTS[name], film=film), targets(ITEMS, COORDS)
        problem = problem_of(field, features, COORDS, mask_of(masks, features), chunk)
        begin = latents_of(field, 1)
        with torch.no_grad():
            prepared = problem.at(begin)
            each = begin.expand(ITEMS, -1, -1).clone()
            for jt_residual, equations in (
                (prepared.gradient(begin), prepared.normal_equations(begin)),
                (problem.gradient(begin), problem.normal_equations(begin)),
            ):
                assert_near(jt_residual.jt_residual, problem.gradient(each).jt_residual)
                assert_near(jt_residual.error, problem.gradient(each).error)
                expected = problem.normal_equations(each)
                assert_near(equations.jt_residual, expected.jt_residual)
                assert_near(equations.error, expected.error)
                whole = equations.normal_matrix.assembled()
                assert_near(whole.expand(ITEMS, -1, -1), expected.normal_matrix.assembled())
            # away from the start it is the same problem
            assert_near(prepared.gradient(each + 0.1).jt_residual, problem.gradient(each + 0.1).jt_residual)
            for solver in map(solver_of, SOLVERS):
                expected = fit(problem, each, solver, steps=1).latents
                for given, where in ((prepared, begin), (prepared, each), (problem, begin)):
                    assert_near(fit(given, where, solver, steps=1).latents, expected, 1e-10)


def test_a_shared_start_changes_no_more_than_rounding_in_float32(name: str) -> None:
    field, coords = field_of(*LAYOUTS[name]).float(), COORDS.float()
    problem = problem_of(field, targets(ITEMS, coords), coords)
    begin = latents_of(field, 1).float()
    with torch.no_grad():
        prepared, each = problem.at(begin), begin.expand(ITEMS, -1, -1).clone()
        assert_near(prepared.gradient(begin).jt_residual, problem.gradient(each).jt_residual, 1e-5)
        for solver in (solver_of(kind).float() for kind in SOLVERS):
            expected = fit(problem, each, solver, steps=1).latents - each
            assert_near(fit(prepared, begin, solver, steps=1).latents - each, expected, 1e-3)


def test_a_shared_start_is_linearized_once_for_all_items_and_steps(name: str) -> None:
    field = Counting(field_of(*LAYOUTS[name]))
    problem = fitting_problem(field, field.sites.place(COORDS), targets(ITEMS, COORDS))
    begin = latents_of(field, 1)
    prepared = problem.at(begin)
    assert field.jacobians == [1], "one item's worth"
    fit(prepared, begin, solver_of("gauss-newton"), steps=1)
    assert field.jacobians == [1]
    fit(prepared, begin, solver_of("gauss-newton"), steps=3)
    assert field.jacobians == [1, ITEMS, ITEMS]


@pytest.mark.parametrize(("most", "film"), [(None, True), (8, False), (5, True)])
def test_where_all_cells_are_alike_one_stands_for_all(most: int | None, film: bool) -> None:
    field, coords = field_of(SiteGrid((2, 3)), film=film), grid(4, 9)
    problem, begin = problem_of(field, targets(ITEMS, coords), coords, chunk=most), start(field, 1) + 0.1
    assert all(piece.placement.is_uniform for piece in problem.pieces)
    with torch.no_grad():
        each, alike = problem.at(begin), replace(problem, cells_alike=True).at(begin)
        found, expected = alike.normal_equations(begin), each.normal_equations(begin)
        assert_near(found.jt_residual, expected.jt_residual)
        assert_near(found.error, expected.error)
        assert_near(found.normal_matrix.assembled(), expected.normal_matrix.assembled())
        for solver in map(solver_of, SOLVERS):
            assert_near(fit(alike, begin, solver).latents, fit(each, begin, solver).latents, 1e-9)
    for solver in map(solver_of, SOLVERS):
        found, expected = (
            torch.autograd.grad(fit(given.at(begin), begin, solver, steps=2).error.mean(), list(field.parameters()))
            for given in (replace(problem, cells_alike=True), problem)
        )
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other, 1e-8)


def test_a_selection_is_the_problem_of_the_selected_items() -> None:
    for name, masks, chunk in [
        ("global", 0, None),
        ("global", 1, 4),
        ("nearest", ITEMS, None),
        ("nearest", 0, 9),
        ("linear", 1, None),
        ("linear", ITEMS, 4),
        ("kernel3", 0, 4),
        ("linear-kernel3", ITEMS, 9),
        ("sites-without-points", 1, 9),
    ]:
        field, features, chosen = field_of(*LAYOUTS[name]), targets(ITEMS, COORDS), torch.tensor([2, 0])
        valid = mask_of(masks, features)
        part = valid if valid is None or len(valid) == 1 else valid[chosen]
        latents = latents_of(field, ITEMS)
        problem = problem_of(field, features, COORDS, valid, chunk)
        expected = problem_of(field, features[chosen], COORDS, part, chunk).normal_equations(latents[chosen])
        for found in (
            problem.select(chosen).normal_equations(latents[chosen]),
            problem.normal_equations(latents).select(chosen),
        ):
            assert_near(found.jt_residual, expected.jt_residual)
            assert_near(found.error, expected.error)
            assert_near(found.normal_matrix.assembled(), expected.normal_matrix.assembled())


def test_a_chord_keeps_the_curvature_of_the_start(name: str) -> None:
    field = Counting(field_of(*LAYOUTS[name]))
    problem = fitting_problem(field, field.sites.place(COORDS), targets(ITEMS, COORDS))
    begin, solver = start(field, 1), solver_of("gauss-newton", steps=4, chord=True, damping=1.0)
    with torch.no_grad():
        factor = problem.normal_equations(begin).normal_matrix.damped(solver.log_damping.exp())
        expected = begin.expand(ITEMS, -1, -1)
        for _ in range(4):
            expected = expected + factor.solve(problem.gradient(expected).jt_residual)
        field.jacobians.clear()
        assert_near(fit(problem.at(begin), begin, solver).latents, expected, 1e-9)
    assert field.jacobians == [1], "no step costs a further Jacobian"


def step_of(matrix: Tensor, jt_residual: Tensor, damping: float = 1e-3) -> Tensor:
    """One site of one item."""
    return NormalMatrix(matrix[None, None], None, 1).damped(damping).solve(jt_residual[None, None])[0, 0]


def test_a_matrix_that_cannot_be_factored_still_gives_a_step_downhill() -> None:
    for matrix in [
        [[1.0, 2.0], [2.0, 1.0]],
        [[1.0, 1.0], [1.0, 0.9]],
        [[-1.0, 0.0], [0.0, 1.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 1e20], [1e20, 1.0]],
        [[1e30, 1e30], [1e30, 1e30]],
        [[torch.inf, 0.0], [0.0, 1.0]],
        [[torch.nan, 0.0], [0.0, 1.0]],
        [[1.0, torch.nan], [torch.nan, 1.0]],
    ]:
        for jt_residual, dtype in product(([1.0, -2.0], [0.0, 0.0], [-1e-3, 5.0]), (torch.float32, torch.float64)):
            given = torch.tensor(jt_residual, dtype=dtype)
            step = step_of(torch.tensor(matrix, dtype=dtype), given)
            assert torch.isfinite(step).all()
            assert (step * given).sum() >= 0
            assert torch.equal(step == 0, given == 0)


def test_a_matrix_that_cannot_be_factored_spoils_no_other() -> None:
    good, bad = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    jt_residual = torch.tensor([1.0, -2.0], dtype=torch.float64)
    # sites of two items, one of them bad
    matrices = torch.stack([torch.stack([good, bad]), torch.stack([good, good])])
    steps = NormalMatrix(matrices, None, 2).damped(1e-3).solve(jt_residual.expand(2, 2, 2))
    for item, site in ((0, 0), (1, 0), (1, 1)):
        assert_near(steps[item, site], jt_residual / 1.001)


@pytest.mark.parametrize(
    ("name", "columns", "damping"),
    [
        ("global", "twice the same", 1e-9),
        ("nearest", "nothing", 1e-9),
        ("linear", "nothing", 1e-3),
        ("kernel3", "nothing at all", 1e-9),
        ("linear-kernel3", "twice the same", 1e-3),
        ("sites-without-points", "nothing", 1e-9),
    ],
)
def test_numbers_without_an_own_effect_do_no_harm(name: str, columns: str, damping: float) -> None:
    field, coords = field_of(*LAYOUTS[name]).float(), COORDS.float()
    with torch.no_grad():
        weight = field.latent_map.weight.unflatten(1, (-1, LATENT))
        weight[..., 1] = weight[..., 0] if columns == "twice the same" else 0
        if columns == "nothing at all":
            weight.zero_()
    problem, begin = problem_of(field, targets(ITEMS, coords), coords), start(field, 1, coords)
    solver = solver_of("gauss-newton", damping=damping).float()
    with torch.no_grad():
        for given in (problem, problem.at(begin)):
            for steps in (1, 3):
                assert torch.isfinite(fit(given, begin, solver, steps=steps).latents).all()
            best = best_fit(given, begin, solver, steps=4)
            assert torch.isfinite(best.latents).all()
            assert (best.error <= problem.error(begin)).all()
            if columns == "nothing":
                assert not best.latents[..., 1].any()
            if columns == "nothing at all":
                assert not best.latents.any()


@pytest.mark.parametrize(
    ("name", "prepared", "size"),
    [("global", False, 1e10), ("nearest", True, 1e20), ("linear", False, 1e20), ("linear-kernel3", True, 1e10)],
)
def test_overflowing_features_leave_finite_latents(name: str, prepared: bool, size: float) -> None:
    field, coords = field_of(*LAYOUTS[name]).float(), COORDS.float()
    begin, solver = start(field, 1, coords), solver_of("gauss-newton").float()
    features = targets(ITEMS, coords)
    features[1] *= size
    with torch.no_grad():
        problem = problem_of(field, features, coords)
        given = problem.at(begin) if prepared else problem
        assert torch.isfinite(best_fit(given, begin, solver, steps=4).latents).all()
        fitted = fit(given, begin, solver).latents
        assert torch.isfinite(fitted).all()
        # nor do they reach the other items
        others = fit(problem_of(field, features[::2], coords), begin, solver).latents
        assert_near(fitted[::2], others, 1e-3)


@pytest.mark.parametrize("name", ["global", "linear"])
def test_sweeps_in_half_precision_round_the_step_and_not_the_residual(name: str) -> None:
    field, coords = field_of(*LAYOUTS[name], film=name == "global").float(), COORDS.float()
    begin, solver = start(field, 1, coords), solver_of("gauss-newton", damping=0.1).float()
    problem = problem_of(field, targets(ITEMS, coords), coords)
    with torch.no_grad():
        exact, full = problem.normal_equations(begin), fit(problem, begin, solver, steps=1)
        field.network.sweep_dtype = torch.bfloat16
        rounded, half = problem.normal_equations(begin), fit(problem, begin, solver, steps=1)
    assert rounded.jt_residual.dtype == rounded.normal_matrix.matrix.dtype == torch.float32
    assert torch.equal(rounded.error, exact.error), "residuals are not rounded"
    for found, wanted in (
        (rounded.jt_residual, exact.jt_residual),
        (rounded.normal_matrix.matrix, exact.normal_matrix.matrix),
    ):
        assert 1e-5 < (found - wanted).norm() / wanted.norm() < 0.02
    assert ((half.error - full.error).abs() < 0.02 * exact.error).all()
