"""Bases and training states on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from functaconv.base import Base
from functaconv.checkpoint import base_from_bytes, base_to_bytes, read_base
from functaconv.construction import build
from functaconv.errors import InputError
from functaconv.files import replace_bytes
from functaconv.modalities import Axes
from functaconv.recipe import Recipe
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.training.state import TrainingFolder, TrainingState, read_state

RECIPE = Recipe().changed(
    {"network": {"width": 8, "depth": 4}, "latent": {"numbers": 3, "sites": [2, 2], "learned_start": True}}
)


def made(recipe: Recipe = RECIPE) -> Base:
    base = build(recipe, Axes("array", 2, 2, "first", 4), Normalizer((1.5, -2.0), (3.0, 0.25)))
    base.describe_latents(torch.arange(24.0).reshape(2, 4, 3))
    return base


@pytest.fixture
def content() -> bytes:
    return base_to_bytes(made(), RECIPE, {"updates": 7, "shapes": [[8, 8]]})


def test_a_base_comes_back_as_it_was(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "base.safetensors"
    replace_bytes(path, content)
    stored, base = read_base(path), made()
    assert stored.recipe == RECIPE
    assert (stored.base.axes, stored.base.normalizer) == (base.axes, base.normalizer)
    assert stored.description.training == {"updates": 7, "shapes": [[8, 8]]}
    assert stored.content == content
    for name, tensor in base.state_dict().items():
        assert torch.equal(stored.base.state_dict()[name], tensor), name
    assert not any(parameter.requires_grad for parameter in stored.base.parameters())
    coords = base.points(Grid((3, 3)))
    latents = torch.rand(2, 4, 3)
    assert torch.equal(stored.base.decode(latents, coords), base.decode(latents, coords))


def test_a_training_state_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {"base.weight": torch.rand(3, 2), "adam.0.step": torch.tensor(5.0), "scalar": torch.tensor(3)}
    state = TrainingState(tensors, {"updates": 3, "position": {"waiting": [1, 2]}, "seconds": 0.1 + 0.2})
    folder = TrainingFolder(tmp_path / "base")
    folder.write(state)
    found = read_state(folder.path / "state.safetensors")
    assert found.values == state.values
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_no_base_is_an_input_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_base(tmp_path / "base.safetensors")
    assert "fit-base" in str(caught.value.hint)
    (tmp_path / "base.safetensors.training").mkdir()
    with pytest.raises(InputError) as caught:
        read_base(tmp_path / "base.safetensors")
    assert "unfinished" in str(caught.value.hint)
    with pytest.raises(InputError, match="directory"):
        read_base(tmp_path)


def test_a_foreign_file_is_an_input_error() -> None:
    for foreign in [
        b"PK\x03\x04 a zip",
        b"\xff" * 4096,
        save({"weight": torch.zeros(3)}),
        save({"weight": torch.zeros(3)}, {"functaconv": "{}"}),
        save({"weight": torch.zeros(3)}, {"functaconv": "[" * 5000}),
        save({"weight": torch.zeros(3)}, {"functaconv": json.dumps({"format": "functaconv-base", "version": 1})}),
        (10).to_bytes(8, "little") + b"[" * 10,
        (2**63).to_bytes(8, "little") + b"{}" * 50,
    ]:
        with pytest.raises(InputError, match="foreign"):
            base_from_bytes(foreign, "foreign")


def described(content: bytes) -> dict[str, Any]:
    """What a base says of itself, but for its digest: what is wrong is to be found without."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["functaconv"])
    del found["sha256"]
    return found


def with_description(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    found = described(content)
    change(found)
    return save(load(content), {"functaconv": json.dumps(found)})


def test_a_newer_version_is_refused_with_both_numbers(content: bytes) -> None:
    with pytest.raises(InputError, match=r"version 2.*reads 1"):
        base_from_bytes(with_description(content, lambda d: d.update(version=2)), "newer")


@pytest.mark.parametrize(
    ("name", "value"),
    [("field.network.weights.1", float("nan")), ("solver.rates", float("inf")), ("latent_std", float("nan"))],
)
def test_values_that_are_not_finite_are_an_input_error(content: bytes, name: str, value: float) -> None:
    tensors = load(content)
    tensors[name].view(-1)[-1] = value
    with pytest.raises(InputError, match="not finite"):
        base_from_bytes(save(tensors, {"functaconv": json.dumps(described(content))}), "spoilt")


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "width": lambda d: d["recipe"]["network"].update(width=16),
    "depth": lambda d: d["recipe"]["network"].update(depth=5),
    "network kind": lambda d: d["recipe"]["network"].update(kind="other"),
    "unknown network setting": lambda d: d["recipe"]["network"].update(unknown=1),
    "numbers": lambda d: d["recipe"]["latent"].update(numbers=4),
    "site axes": lambda d: d["recipe"]["latent"].update(sites=[4]),
    "three site axes": lambda d: d["recipe"]["latent"].update(sites=[1, 4, 1]),
    "steps": lambda d: d["recipe"]["solver"].update(steps=9),
    "dims": lambda d: d["axes"].update(dims=3),
    "no dims": lambda d: d["axes"].update(dims=0),
    "dims as text": lambda d: d["axes"].update(dims="2"),
    "channels": lambda d: d["axes"].update(channels=3),
    "negative channels": lambda d: d["axes"].update(channels=-1),
    "fractional channels": lambda d: d["axes"].update(channels=2.5),
    "unknown axes setting": lambda d: d["axes"].update(unknown=1),
    "data kind": lambda d: d["axes"].update(kind="sound"),
    "channel axis": lambda d: d["axes"].update(channel_axis="middle"),
    "no axes": lambda d: d.update(axes={}),
    "short offset": lambda d: d.update(offset=[0.0]),
    "short scale": lambda d: d.update(scale=[1.0]),
    "long scale": lambda d: d.update(scale=[1.0, 1.0, 1.0]),
    "zero scale": lambda d: d.update(scale=[1.0, 0.0]),
    "negative scale": lambda d: d.update(scale=[1.0, -1.0]),
    "no scale": lambda d: d.update(scale=[]),
    "long offset": lambda d: d.update(offset=[0.0] * 5000),
    "unknown setting": lambda d: d.update(unknown=1),
    "no recipe": lambda d: d.pop("recipe"),
}


def test_a_description_that_does_not_fit_is_an_input_error(content: bytes) -> None:
    for name, change in WRONG.items():
        with pytest.raises(InputError, match=name):
            base_from_bytes(with_description(content, change), name)


def test_fewer_numbers_of_an_older_base_are_the_bytes_that_they_were(canonical_content: bytes) -> None:
    older = base_from_bytes(with_description(canonical_content, lambda _: None), "older").truncated(2)
    assert older.description.sha256 is None
    assert b"sha256" not in older.content
    newer = base_from_bytes(canonical_content, "newer").truncated(2)
    assert newer.description.sha256 is not None


@pytest.mark.parametrize("name", ["content", "canonical_content"])
def test_no_flipped_bit_goes_unnoticed(name: str, request: pytest.FixtureRequest) -> None:
    content: bytes = request.getfixturevalue(name)
    for place in np.random.default_rng(0).permutation(8 * len(content))[:300].tolist():
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(InputError):
            base_from_bytes(bytes(damaged), "damaged")


CANONICAL = RECIPE.changed({"solver": {"kind": "gauss-newton"}})


def canonical() -> Base:
    base = made(CANONICAL)
    base.solver.metric = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 3.0]])
    return base


@pytest.fixture
def canonical_content() -> bytes:
    return base_to_bytes(canonical(), CANONICAL, {"updates": 7})


def test_a_canonical_base_comes_back_as_it_was(canonical_content: bytes) -> None:
    found, expected = base_from_bytes(canonical_content, "canonical").base, canonical()
    assert found.is_canonical
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    plain = base_from_bytes(base_to_bytes(made(CANONICAL), CANONICAL, {}), "plain").base
    assert not plain.is_canonical


def test_a_metric_that_makes_no_sense_is_an_input_error(canonical_content: bytes) -> None:
    for metric, message in [
        (torch.eye(4), r"solver.metric of \(4, 4\) is no positive definite matrix of 3 rows"),
        (torch.ones(3), r"solver.metric of \(3,\) is no positive definite matrix of 3 rows"),
        (torch.zeros(3, 3), "no positive definite"),
        (torch.diag(torch.tensor([1.0, -1.0, 1.0])), "no positive definite"),
        (torch.full((3, 3), float("nan")), "not finite"),
    ]:
        tensors = {**load(canonical_content), "solver.metric": metric}
        with pytest.raises(InputError, match=message):
            base_from_bytes(save(tensors, {"functaconv": json.dumps(described(canonical_content))}), "wrong")


def test_a_metric_belongs_to_gauss_newton(content: bytes) -> None:
    tensors = {**load(content), "solver.metric": torch.eye(3)}
    with pytest.raises(InputError, match=r"solver\.metric"):
        base_from_bytes(save(tensors, {"functaconv": json.dumps(described(content))}), "wrong")
