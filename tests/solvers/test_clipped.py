"""Features that are clipped to 0..1: what is beyond a target of 0 or 1 is no error."""

import pytest
import torch
from torch import Tensor, nn

from functaconv.networks import Fourier, FourierOptions, Inputs, LatentMap, ModulatedNetwork
from functaconv.solvers import Problem, fit, fitting_problem

from .test_contract import CHANNELS, COORDS, LATENT, LAYOUTS, field_of, solver_of, start, targets

LAYOUT = "global"


def occupancy(items: int) -> Tensor:
    return (targets(items, COORDS) > 0.5).double()


def clipped(field: ModulatedNetwork, features: Tensor) -> Problem:
    return fitting_problem(field, field.sites.place(COORDS), features, is_clipped=True)


def within_reach(field: ModulatedNetwork, items: int) -> Problem:
    """Occupancy that some latents decode to once they are clipped."""
    placement = field.sites.place(COORDS)
    shown = field(20 * torch.randn(items, 1, LATENT, dtype=torch.float64), placement)
    features = placement.scatter((shown > 0.5).double(), torch.zeros(items, len(COORDS), CHANNELS, dtype=torch.float64))
    return clipped(field, features).at(start(field, 1))


@pytest.fixture
def field() -> ModulatedNetwork:
    return field_of(*LAYOUTS[LAYOUT])


@pytest.fixture
def linear() -> ModulatedNetwork:
    """Cosines with weights that are random, not small."""
    generator, sites = torch.Generator().manual_seed(0), LAYOUTS[LAYOUT][0]
    network = Fourier(Inputs(2, CHANNELS, axes=2), FourierOptions(features=12), generator=generator)
    latent_map = LatentMap(sites, LATENT, network.modulations, generator=generator)
    with torch.no_grad():
        latent_map.weight.normal_(generator=generator)
    return ModulatedNetwork(network, latent_map, sites).double()


def test_the_error_is_that_of_what_is_on_the_wrong_side(field: ModulatedNetwork) -> None:
    features = occupancy(3)
    features[:, 0] = 0.5
    latents = 3 * torch.randn(3, 1, start(field, 1).shape[-1], dtype=torch.float64)
    problem = clipped(field, features)
    placement = problem.pieces[0].placement
    decoded = placement.scatter(field(latents, placement), torch.zeros_like(features))
    short = torch.where(features == 1, (1 - decoded).clamp(min=0), torch.where(features == 0, decoded.clamp(min=0), 0))
    short[:, 0] = 0.5 - decoded[:, 0]
    assert (short == 0).any(), "the test is too easy"
    torch.testing.assert_close(problem.error(latents), short.square().mean((1, 2)))
    assert (problem.error(latents) >= (decoded.clamp(0, 1) - features).square().mean((1, 2)) - 1e-12).all()


@pytest.mark.parametrize("kind", ["field", "linear"])
def test_the_gradient_is_that_of_the_error(kind: str, request: pytest.FixtureRequest) -> None:
    own: ModulatedNetwork = request.getfixturevalue(kind)
    problem = clipped(own, occupancy(3)).at(start(own, 1))
    latents = (start(own, 3) + 0.7 * torch.randn_like(start(own, 3))).requires_grad_()
    (expected,) = torch.autograd.grad(problem.error(latents).sum(), latents)
    with torch.no_grad():
        torch.testing.assert_close(problem.gradient(latents.detach()).jt_residual, -expected / 2)


def test_chords_lower_the_clipped_error_of_a_linear_network_step_by_step(linear: ModulatedNetwork) -> None:
    problem, begin = within_reach(linear, 4), start(linear, 1)
    solver = solver_of("gauss-newton", chord=True, damping=1e-6)
    errors = torch.stack([fit(problem, begin, solver, steps=steps).error for steps in range(12)])
    assert (errors.diff(dim=0) <= 1e-12).all()
    assert (errors[11] < 0.9 * errors[1]).all(), "further steps gain"


def test_with_momentum_fewer_chords_go_as_far(linear: ModulatedNetwork) -> None:
    problem, begin = within_reach(linear, 4), start(linear, 1)

    def error(momentum: float) -> Tensor:
        solver: nn.Module = solver_of("gauss-newton", chord=True, damping=1e-6, momentum=momentum)
        return fit(problem, begin, solver, steps=16).error

    assert (error(0.8) < error(0.0)).all()
