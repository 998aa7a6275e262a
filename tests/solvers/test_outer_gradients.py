"""The outer derivative through the inner fit: what meta-learning descends."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from functaconv.networks import ModulatedNetwork
from functaconv.solvers import GaussNewton, Problem, fit

from .test_contract import COORDS, LATENT, LAYOUTS, field_of, problem_of, solver_of, targets

# each layout, with shifts only or with scales, each solver
CASES = [
    (("global", False), "gauss-newton"), (("nearest", True), "gradient"), (("linear", False), "gauss-newton"),
    (("kernel3", True), "gradient"),
]  # fmt: skip
cases = pytest.mark.parametrize(("kind", "solver"), CASES, indirect=True)
LEARNED = {"gradient": {"initial": (0.2, 0.5)}, "gauss-newton": {"damping": 0.03, "learned_damping": True}}
"""solvers with a parameter of their own"""


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> tuple[str, bool]:
    found: tuple[str, bool] = request.param
    return found


@pytest.fixture
def field(kind: tuple[str, bool]) -> ModulatedNetwork:
    name, film = kind
    return field_of(*LAYOUTS[name], film=film)


@pytest.fixture
def begin(field: ModulatedNetwork) -> Tensor:
    return begin_of(field)


@pytest.fixture
def solver(request: pytest.FixtureRequest) -> nn.Module:
    return learned(request.param)


def learned(name: str, **options: object) -> nn.Module:
    return solver_of(name, steps=2, **LEARNED[name], **options)


def begin_of(field: ModulatedNetwork) -> Tensor:
    """A learned start."""
    generator = torch.Generator().manual_seed(9)
    start = 0.1 * torch.randn(1, field.sites.count, LATENT, dtype=torch.float64, generator=generator)
    return start.requires_grad_()


def naive_latents(field: ModulatedNetwork, problem: Problem, begin: Tensor, rates: Tensor, items: int) -> Tensor:
    """The gradient steps again, the slow way: autograd's gradient of the plain error, with a graph."""
    latents = begin.expand(items, -1, -1)
    for rate in rates:
        error = field.sites.count * problem.error(latents).sum()
        (gradient,) = torch.autograd.grad(error, latents, create_graph=True)
        latents = latents - rate * gradient
    return latents


def naive_gauss_newton(field: ModulatedNetwork, problem: Problem, begin: Tensor, solver: GaussNewton) -> Tensor:
    """The Gauss-Newton steps again, the slow way: autograd's Jacobian of every item and a dense solve."""
    (piece,) = problem.pieces
    weights = piece.weights.expand_as(piece.targets[:1]).flatten()

    def values(numbers: Tensor) -> Tensor:
        return field(numbers.reshape(begin.shape), piece.placement).flatten()

    fitted = []
    first = jacobian(values, begin.flatten(), create_graph=True)
    for target in piece.targets:
        numbers = begin.flatten()
        for number in range(solver.steps):
            here = jacobian(values, numbers, create_graph=True) if number else first
            jt_residual = here.T @ (weights * (target.flatten() - values(numbers)))
            bent = first if solver.chord else here
            matrix = bent.T @ (weights[:, None] * bent)
            damping = solver.log_damping.exp() * matrix.diagonal().mean()
            numbers = numbers + torch.linalg.solve(
                matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype), jt_residual
            )
        fitted.append(numbers.reshape(begin.shape[1:]))
    return torch.stack(fitted)


@cache
def gauss_newton_reference(kind: tuple[str, bool], chord: bool) -> list[Tensor]:
    """Latents, then the derivatives of their mean error."""
    field, solver = field_of(*LAYOUTS[kind[0]], film=kind[1]), learned("gauss-newton", chord=chord)
    begin, problem = begin_of(field), problem_of(field, targets(2, COORDS), COORDS)
    latents = naive_gauss_newton(field, problem, begin, solver)
    return [latents.detach(), *gradients(problem.error(latents).mean(), wanted_of(field, solver, begin))]


def gradients(loss: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def wanted_of(field: nn.Module, solver: nn.Module, begin: Tensor) -> list[Tensor]:
    return [begin, *solver.parameters(), *field.parameters()]


@pytest.mark.parametrize(
    ("kind", "chunk", "prepared"),
    [
        (("global", False), None, True),
        (("nearest", True), 10, False),
        (("linear", False), None, False),
        (("kernel3", True), 10, True),
    ],
    indirect=["kind"],
)
def test_second_order_is_autograd_through_naive_gradient_steps(
    field: ModulatedNetwork, begin: Tensor, chunk: int | None, prepared: bool
) -> None:
    features, solver = targets(3, COORDS), learned("gradient")
    wanted = wanted_of(field, solver, begin)
    problem = problem_of(field, features, COORDS, chunk=chunk)
    fitted = fit(problem.at(begin), begin, solver) if prepared else fit(problem, begin.expand(3, -1, -1), solver)
    expected = naive_latents(field, problem, begin, solver.rates, 3)
    torch.testing.assert_close(fitted.latents, expected, rtol=1e-10, atol=1e-12)
    found = gradients(fitted.error.mean(), wanted)
    for mine, theirs in zip(found, gradients(problem.error(expected).mean(), wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "chunk", "prepared", "chord"),
    [
        (("global", False), None, True, True),
        (("nearest", True), 10, True, False),
        (("linear", False), None, True, True),
        (("kernel3", True), 10, False, False),
    ],
    indirect=["kind"],
)
def test_second_order_is_autograd_through_naive_gauss_newton_steps(
    kind: tuple[str, bool], field: ModulatedNetwork, begin: Tensor, chunk: int | None, prepared: bool, chord: bool
) -> None:
    solver = learned("gauss-newton", chord=chord)
    problem = problem_of(field, targets(2, COORDS), COORDS, chunk=chunk)
    fitted = fit(problem.at(begin), begin, solver) if prepared else fit(problem, begin.expand(2, -1, -1), solver)
    found = [fitted.latents.detach(), *gradients(fitted.error.mean(), wanted_of(field, solver, begin))]
    for mine, theirs in zip(found, gauss_newton_reference(kind, chord), strict=True):
        # relative to each tensor as a whole: the solve spreads rounding over all numbers
        assert (mine - theirs).norm() <= 1e-9 * theirs.norm() + 1e-12


@cases
def test_second_order_agrees_with_finite_differences(field: ModulatedNetwork, solver: nn.Module, begin: Tensor) -> None:
    features = targets(2, COORDS)
    wanted = wanted_of(field, solver, begin)

    def loss() -> Tensor:
        return fit(problem_of(field, features, COORDS), begin.expand(2, -1, -1), solver).error.mean()

    generator = torch.Generator().manual_seed(11)
    directions = [torch.randn(w.shape, dtype=w.dtype, generator=generator) for w in wanted]
    jt_residual = sum((g * d).sum() for g, d in zip(gradients(loss(), wanted), directions, strict=True))
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for tensor, direction in zip(wanted, directions, strict=True):
                tensor += sign * step * direction
            values.append(loss())
    # central differences: an error of order step squared
    torch.testing.assert_close((values[0] - values[1]) / (2 * step), jt_residual, rtol=1e-5, atol=1e-8)


@cases
def test_first_order_is_another_gradient_from_which_start_and_rates_still_learn(
    field: ModulatedNetwork, solver: nn.Module, begin: Tensor
) -> None:
    plain = problem_of(field, targets(3, COORDS), COORDS)
    problem = plain.at(begin)
    wanted = wanted_of(field, solver, begin)
    first = fit(problem, begin, solver, second_order=False)
    second = fit(problem, begin, solver)
    assert torch.equal(first.latents, second.latents)
    found, exact = gradients(first.error.mean(), wanted), gradients(second.error.mean(), wanted)
    assert found[0].any(), "the start learns"
    assert found[1].any(), "the rates learn"
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(found, exact, strict=True))
    # the steps as constants: the derivative of the error at fixed latents, for the network
    fixed = gradients(plain.error(first.latents.detach()).mean(), wanted)
    for mine, theirs in zip(found[2:], fixed[2:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "name", "prepared", "second_order"),
    [
        (("global", False), "gradient", True, True),
        (("nearest", True), "gauss-newton", False, True),
        (("linear", False), "gauss-newton", True, False),
        (("kernel3", True), "gradient", False, True),
    ],
    indirect=["kind"],
)
def test_recomputing_gives_the_same_gradients(
    field: ModulatedNetwork, name: str, begin: Tensor, second_order: bool, prepared: bool
) -> None:
    solver = learned(name)
    problem = problem_of(field, targets(3, COORDS), COORDS)
    wanted = wanted_of(field, solver, begin)

    def found(recompute: bool) -> list[Tensor]:
        given = problem.at(begin) if prepared else problem
        fitted = fit(given, begin, solver, second_order=second_order, recompute=recompute)
        return [fitted.latents, *gradients(fitted.error.mean(), wanted)]

    for kept, again in zip(found(False), found(True), strict=True):
        assert torch.equal(kept, again)


@cases
def test_an_item_without_any_value_does_not_disturb_the_outer_gradients(
    field: ModulatedNetwork, solver: nn.Module, begin: Tensor
) -> None:
    features, wanted = targets(3, COORDS), wanted_of(field, solver, begin)
    valid = torch.ones_like(features)
    valid[1] = 0
    found = gradients(fit(problem_of(field, features, COORDS, valid), begin, solver).error.sum(), wanted)
    others = gradients(fit(problem_of(field, features[::2], COORDS), begin, solver).error.sum(), wanted)
    for mine, theirs in zip(found, others, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)
