"""The outer derivative through the inner fit: what meta-learning descends."""

import pytest
import torch
from torch import Tensor, nn

from functaconv.fitting import SOLVERS, Reconstruction, fit
from functaconv.networks import ModulatedNetwork

from .test_contract import COORDS, LATENT, LAYOUTS, field_of, problem_of, targets


@pytest.fixture(params=[(name, film) for name in LAYOUTS for film in (False, True)], ids=lambda p: f"{p[0]}-{p[1]}")
def field(request: pytest.FixtureRequest) -> ModulatedNetwork:
    name, film = request.param
    return field_of(*LAYOUTS[name], film=film)


@pytest.fixture(params=SOLVERS, ids=str)
def solver(request: pytest.FixtureRequest) -> nn.Module:
    return SOLVERS[request.param](
        LATENT, steps=2, initial=(0.2, 0.5), generator=torch.Generator().manual_seed(3)
    ).double()


@pytest.fixture
def begin(field: ModulatedNetwork) -> Tensor:
    """A learned start."""
    generator = torch.Generator().manual_seed(9)
    start = 0.1 * torch.randn(1, field.sites.count, LATENT, dtype=torch.float64, generator=generator)
    return start.requires_grad_()


def naive_latents(field: ModulatedNetwork, problem: Reconstruction, begin: Tensor, rates: Tensor, items: int) -> Tensor:
    """The gradient steps again, the slow way: autograd's gradient of the plain error, with a graph."""
    latents = begin.expand(items, -1, -1)
    for rate in rates:
        error = field.sites.count * problem.error(latents).sum()
        (gradient,) = torch.autograd.grad(error, latents, create_graph=True)
        latents = latents - rate * gradient
    return latents


def gradients(loss: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def wanted_of(field: nn.Module, solver: nn.Module, begin: Tensor) -> list[Tensor]:
    return [begin, *solver.parameters(), *field.parameters()]


@pytest.mark.parametrize("chunk", [None, 10])
def test_second_order_is_autograd_through_a_naive_fit(
    field: ModulatedNetwork, solver: nn.Module, begin: Tensor, chunk: int | None
) -> None:
    features = targets(3, COORDS)
    wanted = wanted_of(field, solver, begin)
    problem = problem_of(field, features, COORDS, chunk=chunk)
    fitted = fit(problem, begin.expand(3, -1, -1), solver)
    expected = naive_latents(field, problem, begin, solver.rates, 3)
    torch.testing.assert_close(fitted.latents, expected, rtol=1e-10, atol=1e-12)
    found = gradients(fitted.error.mean(), wanted)
    for mine, theirs in zip(found, gradients(problem.error(expected).mean(), wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


def test_second_order_agrees_with_finite_differences(field: ModulatedNetwork, solver: nn.Module, begin: Tensor) -> None:
    features = targets(2, COORDS)
    wanted = wanted_of(field, solver, begin)

    def loss() -> Tensor:
        return fit(problem_of(field, features, COORDS), begin.expand(2, -1, -1), solver).error.mean()

    generator = torch.Generator().manual_seed(11)
    directions = [torch.randn(w.shape, dtype=w.dtype, generator=generator) for w in wanted]
    slope = sum((g * d).sum() for g, d in zip(gradients(loss(), wanted), directions, strict=True))
    step, values = 1e-5, []
    with torch.no_grad():
        for sign in (1, -2):
            for tensor, direction in zip(wanted, directions, strict=True):
                tensor += sign * step * direction
            values.append(loss())
    # central differences: an error of order step squared
    torch.testing.assert_close((values[0] - values[1]) / (2 * step), slope, rtol=1e-5, atol=1e-8)


def test_first_order_is_another_gradient_from_which_start_and_rates_still_learn(
    field: ModulatedNetwork, solver: nn.Module, begin: Tensor
) -> None:
    problem = problem_of(field, targets(3, COORDS), COORDS)
    wanted = wanted_of(field, solver, begin)
    first = fit(problem, begin.expand(3, -1, -1), solver, second_order=False)
    second = fit(problem, begin.expand(3, -1, -1), solver)
    assert torch.equal(first.latents, second.latents)
    found, exact = gradients(first.error.mean(), wanted), gradients(second.error.mean(), wanted)
    assert found[0].any(), "the start learns"
    assert found[1].any(), "the rates learn"
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(found, exact, strict=True))
    # the steps as constants: the derivative of the error at fixed latents, for the network
    fixed = gradients(problem.error(first.latents.detach()).mean(), wanted)
    for mine, theirs in zip(found[2:], fixed[2:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("second_order", [True, False])
def test_recomputing_gives_the_same_gradients(
    field: ModulatedNetwork, solver: nn.Module, begin: Tensor, second_order: bool
) -> None:
    problem = problem_of(field, targets(3, COORDS), COORDS)
    wanted = wanted_of(field, solver, begin)

    def found(recompute: bool) -> list[Tensor]:
        fitted = fit(problem, begin.expand(3, -1, -1), solver, second_order=second_order, recompute=recompute)
        return [fitted.latents, *gradients(fitted.error.mean(), wanted)]

    for kept, again in zip(found(False), found(True), strict=True):
        assert torch.equal(kept, again)


def test_fitting_without_gradients_builds_no_graph(field: ModulatedNetwork, solver: nn.Module, begin: Tensor) -> None:
    with torch.no_grad():
        fitted = fit(problem_of(field, targets(2, COORDS), COORDS), begin.expand(2, -1, -1), solver, recompute=True)
    assert not fitted.latents.requires_grad
