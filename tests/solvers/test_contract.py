"""What every solver promises, and what a problem promises to every solver."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from functaconv.networks import Inputs, LatentMap, ModulatedNetwork, Siren, SirenOptions, SiteGrid
from functaconv.solvers import SOLVERS, Problem, best_fit, fit, fitting_problem
from functaconv.solvers.gauss_newton import LEAST_DAMPING, MOST_DAMPING
from functaconv.solvers.linearization import NormalEquations
from tests.conftest import in_grid_order
from tests.solvers.toy import Toy

LATENT, CHANNELS = 4, 2
LAYOUTS = {
    "global": (SiteGrid((1, 1)), 1),
    "nearest": (SiteGrid((2, 3)), 1),
    "linear": (SiteGrid((2, 2), "linear", "global"), 1),
    "kernel3": (SiteGrid((2, 3)), 3),
}


def field_of(sites: SiteGrid, kernel: int = 1, seed: int = 0, film: bool = False) -> ModulatedNetwork:
    generator = torch.Generator().manual_seed(seed)
    dims = len(sites.shape)
    options = SirenOptions(width=8, depth=3, w0_first=6.0, w0_hidden=4.0, modulation="film" if film else "shift")
    network = Siren(Inputs(coords=dims, channels=CHANNELS, axes=dims), options, generator=generator)
    latent_map = LatentMap(sites, LATENT, network.modulations, kernel=kernel, generator=generator)
    return ModulatedNetwork(network, latent_map, sites).double()


@pytest.fixture(params=LAYOUTS)
def field(request: pytest.FixtureRequest) -> ModulatedNetwork:
    return field_of(*LAYOUTS[request.param])


# a solver is added to these tests by adding options to OPTIONS
OPTIONS: dict[str, dict[str, object]] = {"gradient": {"initial": (0.05, 0.3)}, "gauss-newton": {}, "toy": {"rate": 0.2}}
KINDS = {**SOLVERS, "toy": Toy}


def solver_of(name: str, **options: object) -> nn.Module:
    kind, generator = KINDS[name], torch.Generator().manual_seed(3)
    return kind(LATENT, kind.Options(**{**OPTIONS[name], **options}), generator=generator).double()


@pytest.fixture(params=KINDS)
def make_solver(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    return partial(solver_of, request.param)


# every layout, every solver, and linear equations with and without coupled sites
pairs = pytest.mark.parametrize(
    ("field", "make_solver"),
    [("global", "toy"), ("nearest", "gauss-newton"), ("linear", "gauss-newton"), ("kernel3", "gradient")],
    indirect=True,
)


def grid(*shape: int) -> Tensor:
    axes = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def targets(items: int, coords: Tensor) -> Tensor:
    """Smooth features in 0..1, other ones for each item and channel."""
    generator = torch.Generator().manual_seed(5)
    slopes = 4 * torch.rand(items, coords.shape[1], CHANNELS, dtype=coords.dtype, generator=generator)
    return 0.5 + 0.4 * torch.sin(coords @ slopes + torch.arange(items, dtype=coords.dtype)[:, None, None])


def problem_of(
    field: ModulatedNetwork, features: Tensor, coords: Tensor, valid: Tensor | None = None, chunk: int | None = None
) -> Problem:
    return fitting_problem(field, field.sites.place(coords), features, valid, chunk=chunk)


def start(field: ModulatedNetwork, items: int, like: Tensor | None = None) -> Tensor:
    dtype = torch.float64 if like is None else like.dtype
    return torch.zeros(1, field.sites.count, LATENT, dtype=dtype).expand(items, -1, -1)


def gradient_of(problem: Problem, latents: Tensor) -> Tensor:
    """Derivative of `sites * error`, summed over items."""
    return -problem.steepest_descent(problem.gradient(latents))


COORDS = grid(5, 7)
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def test_every_solver_is_tested() -> None:
    assert set(OPTIONS) == set(KINDS)


@pytest.mark.parametrize(("name", "field"), [("gradient", "kernel3"), ("gauss-newton", "linear"), ("toy", "nearest")],
                         indirect=["field"])  # fmt: skip
def test_what_a_solver_says_of_itself_holds(name: str, field: ModulatedNetwork) -> None:
    solver, problem = solver_of(name), problem_of(field, targets(3, COORDS), COORDS)
    latents = start(field, 1)
    view = solver.linearize(problem, latents)
    assert isinstance(view, NormalEquations) == solver.needs_jacobian
    assert solver.is_canonical is False
    if solver.exports_canonical:
        matrix = torch.eye(LATENT, dtype=torch.float64) + 0.3 * torch.ones(LATENT, LATENT, dtype=torch.float64)
        before = fit(problem, latents, solver, steps=1).error
        field.substitute(matrix, torch.zeros(LATENT, dtype=torch.float64))
        solver.change_basis(matrix)
        assert solver.is_canonical
        after = fit(problem_of(field, targets(3, COORDS), COORDS), latents, solver, steps=1).error
        torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-12)
    else:
        with pytest.raises(NotImplementedError):
            solver.change_basis(torch.eye(LATENT))
    loaded = solver_of(name)
    loaded.load_state_dict(solver.state_dict())
    expected = fit(problem, latents, solver).latents
    assert torch.equal(fit(problem, latents, loaded).latents, expected)


def test_error_falls_with_every_gradient_step_on_a_smooth_target(field: ModulatedNetwork) -> None:
    problem = problem_of(field, targets(4, COORDS), COORDS)
    solver = solver_of("gradient", steps=3)
    errors = torch.stack([fit(problem, start(field, 4), solver, steps=n).error for n in (0, 1, 2, 3, 10)])
    assert (errors.diff(dim=0) < 0).all()


def test_the_best_of_gauss_newton_falls_on_a_smooth_target(field: ModulatedNetwork) -> None:
    problem = problem_of(field, targets(4, COORDS), COORDS)
    # with little damping a first step may lead uphill: this network has learned nothing
    solver = solver_of("gauss-newton", damping=1.0)
    errors = torch.stack([best_fit(problem, start(field, 1), solver, steps=n).error for n in (0, 1, 2, 3, 10)])
    assert (errors[1] < errors[0]).all()
    assert (errors.diff(dim=0) <= 0).all()
    by_gradient = fit(problem, start(field, 1), solver_of("gradient"), steps=10).error
    assert errors[4].mean() < by_gradient.mean()


def test_error_is_the_mean_over_points_and_channels(field: ModulatedNetwork) -> None:
    features = targets(3, COORDS)
    placement = field.sites.place(COORDS)
    latents = 0.1 * torch.randn(3, field.sites.count, LATENT, dtype=torch.float64)
    found = in_grid_order(placement, field(latents, placement), len(COORDS))
    expected = (found - features).square().mean((1, 2))
    torch.testing.assert_close(problem_of(field, features, COORDS).error(latents), expected, rtol=1e-12, atol=0)


def test_gradient_is_that_of_sites_times_error(field: ModulatedNetwork) -> None:
    problem = problem_of(field, targets(3, COORDS), COORDS)
    latents = (0.1 * torch.randn(3, field.sites.count, LATENT, dtype=torch.float64)).requires_grad_()
    (expected,) = torch.autograd.grad(field.sites.count * problem.error(latents).sum(), latents)
    torch.testing.assert_close(gradient_of(problem, latents), expected, rtol=1e-12, atol=1e-14)


@pairs
def test_a_latent_does_not_depend_on_the_batch(field: ModulatedNetwork, make_solver: Callable[..., nn.Module]) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        assert_independent(field.to(dtype), make_solver().to(dtype), dtype, tolerance)


def assert_independent(field: ModulatedNetwork, solver: nn.Module, dtype: torch.dtype, tolerance: float) -> None:
    coords = COORDS.to(dtype)
    features = targets(9, COORDS).to(dtype)

    def fitted(part: Tensor) -> Tensor:
        return fit(problem_of(field, part, coords), start(field, len(part), part), solver).latents

    with torch.no_grad():
        together = fitted(features.flip(0)).flip(0)
        for size in (1, 4):
            alone = torch.cat([fitted(part) for part in features.split(size)])
            # relative to the latents as a whole: a number near zero has no relative accuracy of its own
            assert (alone - together).norm() <= tolerance * together.norm()


@pairs
def test_chunks_of_points_do_not_change_the_fit(field: ModulatedNetwork, make_solver: Callable[..., nn.Module]) -> None:
    features = targets(3, COORDS)
    valid = (torch.rand(features.shape, generator=torch.Generator().manual_seed(1)) > 0.3).double()
    # one point, all but one, more than there are
    for chunk, mask in ((1, valid), (34, None), (1000, valid)):
        whole = fit(problem_of(field, features, COORDS, mask), start(field, 3), make_solver())
        pieces = fit(problem_of(field, features, COORDS, mask, chunk), start(field, 3), make_solver())
        torch.testing.assert_close(pieces.latents, whole.latents, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(pieces.error, whole.error, rtol=1e-10, atol=1e-12)


def test_steps_beyond_the_trained_ones_use_the_last_rate(field: ModulatedNetwork) -> None:
    problem = problem_of(field, targets(2, COORDS), COORDS)
    solver = solver_of("gradient", steps=2, per_step=True)
    latents = fit(problem, start(field, 2), solver).latents
    expected = latents - solver.rates[1] * gradient_of(problem, latents)
    assert torch.equal(fit(problem, start(field, 2), solver, steps=3).latents, expected)


def test_projection_brings_rates_back_within_their_limits() -> None:
    solver = solver_of("gradient", limits=(0.1, 0.2))
    with torch.no_grad():
        solver.rates.copy_(torch.linspace(-1, 1, solver.rates.numel()).reshape(solver.rates.shape))
    solver.project()
    assert solver.rates.detach().min() == pytest.approx(0.1)
    assert solver.rates.detach().max() == pytest.approx(0.2)
    assert solver.rates.requires_grad


@pytest.mark.parametrize(
    ("logarithm", "expected"), [(-99.0, LEAST_DAMPING), (99.0, MOST_DAMPING), (-1.0, math.exp(-1))]
)
def test_projection_keeps_a_learned_damping_within_reason(logarithm: float, expected: float) -> None:
    solver = solver_of("gauss-newton", learned_damping=True)
    with torch.no_grad():
        solver.log_damping.fill_(logarithm)
    solver.project()
    assert solver.log_damping.detach().exp().item() == pytest.approx(expected)
    assert solver.log_damping.requires_grad


def test_damping_is_learned_only_when_asked() -> None:
    assert not list(solver_of("gauss-newton").parameters())
    assert "log_damping" in solver_of("gauss-newton").state_dict(), "it belongs to the base all the same"
    assert [name for name, _ in solver_of("gauss-newton", learned_damping=True).named_parameters()] == ["log_damping"]


def test_more_damping_means_a_smaller_step(field: ModulatedNetwork) -> None:
    problem = problem_of(field, targets(3, COORDS), COORDS)
    dampings = (1e-9, 1e-3, 1.0, 1e3)
    steps = [fit(problem, start(field, 1), solver_of("gauss-newton", damping=d), steps=1).latents for d in dampings]
    sizes = torch.stack([step.norm(dim=(1, 2)) for step in steps])
    assert (sizes.diff(dim=0) < 0).all()


@pairs
def test_masked_values_have_no_influence(field: ModulatedNetwork, make_solver: Callable[..., nn.Module]) -> None:
    features = targets(3, COORDS)
    valid = (torch.rand(features.shape, generator=torch.Generator().manual_seed(1)) > 0.4).double()
    garbage = torch.where(valid > 0, features, 1e6)
    for chunk in (None, 6):
        found = fit(problem_of(field, garbage, COORDS, valid, chunk), start(field, 3), make_solver())
        clean = fit(problem_of(field, features, COORDS, valid, chunk), start(field, 3), make_solver())
        assert torch.equal(found.latents, clean.latents)
        assert torch.equal(found.error, clean.error)


def test_an_item_masked_alike_for_all_channels_fits_as_its_valid_points_alone(
    make_solver: Callable[..., nn.Module],
) -> None:
    field = field_of(SiteGrid((1, 1)))
    features = targets(2, COORDS)
    kept = torch.arange(len(COORDS)) % 3 > 0
    valid = kept[None, :, None].expand(features.shape).double()
    masked = fit(problem_of(field, features, COORDS, valid), start(field, 2), make_solver())
    alone = fit(problem_of(field, features[:, kept], COORDS[kept]), start(field, 2), make_solver())
    torch.testing.assert_close(masked.latents, alone.latents, **EXACT)


@pairs
def test_an_item_without_any_value_stays_at_the_start(
    field: ModulatedNetwork, make_solver: Callable[..., nn.Module]
) -> None:
    features = targets(3, COORDS)
    valid = torch.ones_like(features)
    valid[1] = 0
    problem = problem_of(field, features, COORDS, valid)
    fitted = fit(problem, start(field, 3), make_solver())
    assert not fitted.latents[1].any()
    assert fitted.error[1] == 0
    assert torch.isfinite(fitted.latents).all()
    assert torch.isfinite(fitted.error).all()
    assert not gradient_of(problem, start(field, 3))[1].any()


def test_padding_has_no_influence(make_solver: Callable[..., nn.Module]) -> None:
    field = field_of(SiteGrid((2, 3)))
    problem = problem_of(field, targets(2, COORDS), COORDS)
    (piece,) = problem.pieces
    assert piece.placement.valid is not None, "5 x 7 points cannot lie evenly on 2 x 3 sites"
    absent = piece.placement.valid == 0
    spoilt = replace(
        piece,
        targets=piece.targets.masked_fill(absent, 1e30),
        placement=replace(piece.placement, coords=piece.placement.coords.masked_fill(absent, 1e3)),
    )
    found = fit(replace(problem, pieces=(spoilt,)), start(field, 2), make_solver())
    clean = fit(problem, start(field, 2), make_solver())
    torch.testing.assert_close(found.latents, clean.latents, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.error, clean.error, rtol=1e-12, atol=1e-14)


def test_each_site_moves_as_a_global_latent_would_on_its_cell(make_solver: Callable[..., nn.Module]) -> None:
    """Rates mean the same for any number of sites: the gradient is that of the mean over the site's own points."""
    spatial = field_of(SiteGrid((8, 8)))
    alone = ModulatedNetwork(spatial.network, spatial.latent_map, SiteGrid((1, 1)))
    shape, cell = (8, 24), (1, 3)
    content = targets(2, grid(*cell))
    image = content.reshape(2, *cell, CHANNELS).repeat(1, 8, 8, 1).reshape(2, -1, CHANNELS)
    many = fit(problem_of(spatial, image, grid(*shape)), start(spatial, 2), make_solver())
    one = fit(problem_of(alone, content, grid(*cell)), start(alone, 2), make_solver())
    torch.testing.assert_close(many.latents, one.latents.expand(-1, 64, -1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(many.error, one.error, rtol=1e-9, atol=1e-12)
