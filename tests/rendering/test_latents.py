"""Latents as models take and make them: forms, scales, values with gradients, and what lies between two items."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import functaconv
from functaconv.conversion import encode
from functaconv.errors import UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.rendering import View, arrays
from functaconv.signals.normalizer import _on
from functaconv.training import fit_base

SUMS = 2e-5
"""float32 sums that come in another order"""


@pytest.fixture(scope="module", params=["global", "spatial", "windows"])
def store(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Functaset:
    """70 RGB images of 12 x 12: of a network with a global latent, with 2 x 3 sites, and of a closed form."""
    folder = tmp_path_factory.mktemp("store")
    if request.param == "windows":
        latent = {"numbers": 5, "sites": [2, 3], "interpolation": "window"}
        settings = {"network": {"kind": "fourier"}, "latent": latent, "training": {"minutes": 0.0}}
        base = fit_base(str(images), folder / "base", settings=settings, device="cpu").path
    else:
        base = request.getfixturevalue("base_file" if request.param == "global" else "spatial_base_file")
    return open_functaset(encode(base, str(images), folder / "a.zarr").path)


def tensor(store: Functaset, count: int = 4) -> Tensor:
    return torch.from_numpy(store.latents(slice(0, count)))


@pytest.mark.parametrize(
    "view", [{}, {"size": (7, 9)}, {"scale": 2.0}, {"scale": 2.0, "region": ((0.25, 0.75), (-0.5, 1.5))}]
)
def test_latents_are_decoded_as_they_are_rendered(store: Functaset, view: dict) -> None:
    decoded = store.decode(tensor(store), **view)
    rendered = np.stack([array for _, array in arrays(store, range(4), view=View(**view))])
    assert decoded.shape == rendered.shape
    assert np.allclose(decoded.numpy(), rendered, atol=SUMS)


def test_latents_of_any_form_are_decoded(store: Functaset) -> None:
    expected = store.decode(tensor(store))
    for form in ("grid", "tokens", "map"):
        given = store.latents(slice(0, 4), form=form)
        assert torch.allclose(store.decode(torch.from_numpy(given), form=form), expected, atol=SUMS)
        assert torch.allclose(functaconv.decode(store, given, form=form), expected, atol=SUMS)


def test_forms_have_the_axes_that_they_promise(store: Functaset) -> None:
    sites, latent = store.layout.sites, store.layout.latent
    count = int(np.prod(sites))
    assert store.latents(form="tokens").shape == (70, count, latent)
    assert store.latents(form="map").shape == (70, latent, *sites)
    whole = store.latents()
    assert np.array_equal(store.latents(form="tokens")[:, -1], whole.reshape(70, count, latent)[:, -1])
    assert np.array_equal(store.latents(form="map")[:, 1], whole[..., 1])
    assert store.torch_dataset(form="map")[3][0].shape == (latent, *sites)
    assert np.array_equal(store.torch_dataset(form="map", normalize=True)[3][0].numpy(),
                          store.latents(slice(3, 4), normalize=True, form="map")[0])  # fmt: skip


@pytest.mark.parametrize("form", ["grid", "tokens", "map"])
def test_normalized_latents_have_mean_0_and_deviation_1_and_come_back(store: Functaset, form: str) -> None:
    given = torch.from_numpy(store.latents(form=form))
    normal = store.normalise(given, form=form)
    assert np.allclose(normal.numpy(), store.latents(normalize=True, form=form), atol=1e-6)
    axis = 1 if form == "map" else given.dim() - 1
    others = [other for other in range(given.dim()) if other != axis]
    assert torch.allclose(normal.mean(others), torch.zeros(store.layout.latent), atol=1e-4)
    assert torch.allclose(normal.std(others, correction=0), torch.ones(store.layout.latent), atol=1e-3)
    assert torch.allclose(store.denormalise(normal, form=form), given, atol=1e-4)
    assert np.allclose(store.denormalize(normal.numpy(), form=form), given.numpy(), atol=1e-4)


def test_gradients_reach_the_latents(store: Functaset) -> None:
    latents = tensor(store, 2).double().requires_grad_()
    wanted = store.decode(tensor(store, 2)).detach() + 0.1
    loss = (store.decode(latents, scale=1.0) - wanted).square().sum()
    (gradient,) = torch.autograd.grad(loss, latents)
    direction = gradient / gradient.norm()
    step = 1e-2

    def at(share: float) -> float:
        return float((store.decode(latents.detach() + share * direction) - wanted).square().sum())

    slope = (at(step) - at(-step)) / (2 * step)
    assert slope == pytest.approx(float(gradient.norm()), rel=2e-2)


def test_gradients_reach_latents_after_a_call_in_inference_mode(store: Functaset) -> None:
    # what is made at the first call is made in inference mode, and serves the second, too
    _on.cache_clear()
    store = open_functaset(store.path)
    with torch.inference_mode():
        store.decode(tensor(store, 2))
    latents = tensor(store, 2).requires_grad_()
    store.decode(latents).sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0


def test_latents_of_another_shape_are_refused_with_both_shapes(store: Functaset) -> None:
    with pytest.raises(UsageError, match="latents of shape"):
        store.decode(torch.zeros(2, 99))
    with pytest.raises(UsageError, match="form of latents"):
        store.latents(form="pyramid")
    with pytest.raises(UsageError):
        store.decode(tensor(store), size=(3, 3, 3))


def test_the_way_between_two_items_is_straight(store: Functaset) -> None:
    way = functaconv.interpolate(store, 2, str(store.keys[5]), 5)
    ends = store.latents(np.array([2, 5]))
    assert way.shape == (5, *ends.shape[1:])
    assert np.allclose(way[0].numpy(), ends[0])
    assert np.allclose(way[-1].numpy(), ends[1])
    assert np.allclose(way[1].numpy(), 0.75 * ends[0] + 0.25 * ends[1], atol=1e-5)
    with pytest.raises(UsageError, match="2 steps"):
        functaconv.interpolate(store, 0, 1, 1)
