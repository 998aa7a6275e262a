"""The nonlinear part of a latent map."""

import pytest
import torch
from torch import Tensor

from functaconv.networks import Correction, SiteGrid
from functaconv.networks.correction import DEPTH

EXACT = {"rtol": 1e-10, "atol": 1e-10}
LATENT, MODULATIONS, WIDTH = 3, 5, 4


def correction(shape: tuple[int, ...], *, is_closed: bool = False) -> Correction:
    """One that has learned something."""
    generator = torch.Generator().manual_seed(0)
    sites = SiteGrid(shape, "window", is_closed=is_closed)
    made = Correction(sites, LATENT, WIDTH, torch.linspace(1, 2, MODULATIONS), generator=generator).double()
    with torch.no_grad():
        made.network.out.normal_(generator=generator)
        made.spread.copy_(torch.tensor([0.5, 1.0, 2.0]))
    return made


def latents(sites: int, items: int = 2) -> Tensor:
    return torch.randn(items, sites, LATENT, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("shape", [(1,), (1, 1), (5,), (3, 4), (2, 3, 2)])
def test_nothing_becomes_nothing_and_something_something(shape: tuple[int, ...]) -> None:
    made, given = correction(shape), latents(SiteGrid(shape).count)
    added = made(given)
    assert added.shape == (*given.shape[:2], MODULATIONS)
    assert added.abs().min() > 0
    assert not made(torch.zeros_like(given)).any()


def test_it_changes_nothing_before_it_learns() -> None:
    made = Correction(SiteGrid((3, 4)), LATENT, WIDTH, torch.ones(MODULATIONS), generator=torch.Generator())
    assert not made(latents(12).float()).any()


def test_a_site_is_changed_by_those_at_most_so_far_away() -> None:
    sites, middle = 2 * DEPTH + 5, DEPTH + 2
    made, given = correction((sites,)), latents(sites, items=1).requires_grad_()
    (gradient,) = torch.autograd.grad(made(given)[0, middle].sum(), given)
    changing = (gradient[0].abs().sum(1) > 0).nonzero()[:, 0].tolist()
    assert changing == list(range(middle - DEPTH, middle + DEPTH + 1))


def test_beyond_the_border_its_site_goes_on() -> None:
    made = correction((2, 2))
    alike = latents(1).expand(-1, 4, -1)
    torch.testing.assert_close(made(alike), made(alike)[:, :1].expand(-1, 4, -1), **EXACT)


def test_a_closed_axis_turns() -> None:
    shape, is_turned = (2, 5), 3
    given = latents(10)
    turned = given.reshape(2, *shape, LATENT).roll(is_turned, 2).flatten(1, 2)
    around, open_ended = correction(shape, is_closed=True), correction(shape)
    expected = around(given).reshape(2, *shape, -1).roll(is_turned, 2).flatten(1, 2)
    torch.testing.assert_close(around(turned), expected, **EXACT)
    assert not torch.allclose(open_ended(turned), expected)


@pytest.mark.parametrize("shape", [(1,), (3, 4)])
def test_another_basis_changes_no_modulation(shape: tuple[int, ...]) -> None:
    made, given = correction(shape), latents(SiteGrid(shape).count)
    matrix = torch.randn(LATENT, LATENT, generator=torch.Generator().manual_seed(2)).double()
    expected = made(given @ matrix.mT)
    made.substitute(matrix)
    torch.testing.assert_close(made(given), expected, **EXACT)


@pytest.mark.parametrize("shape", [(1,), (3, 4)])
def test_fewer_numbers_are_the_same_as_zeros(shape: tuple[int, ...]) -> None:
    made, keep = correction(shape), 2
    given = latents(SiteGrid(shape).count)
    given[..., keep:] = 0
    fewer = Correction(SiteGrid(shape), keep, WIDTH, made.scale, generator=None).double()
    fewer.load_state_dict(dict(made.state_dict()) | made.tensors_of_first(keep))
    torch.testing.assert_close(fewer(given[..., :keep]), made(given), **EXACT)
