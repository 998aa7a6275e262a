"""A codec is a class and a line in the table: one of a few lines goes through all commands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from functaconv.functaset.codecs import CODECS, Codec
from functaconv.functaset.opening import open_functaset

from .conftest import Invoke, World


class Steps(Codec):
    """Whole steps of a common size for each latent, from a constant of its own."""

    name = "steps"
    dtype = np.dtype(np.int32)
    fill = 0
    vectors = ("latent_step",)

    def __init__(self, vectors: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(vectors)
        self.step = self.constants["latent_step"]

    @classmethod
    def for_latents(cls, mean: np.ndarray, std: np.ndarray, *, is_canonical: bool) -> Self:  # noqa: ARG003
        return cls({"latent_step": (np.maximum(std, 1e-6) / 256).astype(np.float32)})

    def decode(self, stored: np.ndarray) -> np.ndarray:
        return stored.astype(np.float32) * self.step

    def _stored(self, latents: np.ndarray) -> np.ndarray:
        return np.rint(latents / self.step).astype(np.int32)


def test_a_codec_is_one_class_and_one_line(
    world: World, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CODECS, Steps.name, Steps)
    store = tmp_path / "steps.zarr"
    encoded = invoke("encode", world.base, world.shards, store, "--bits", "steps", "--device", "cpu", "--json")
    assert encoded.code == 0, encoded.errors
    functaset, plain = open_functaset(store), open_functaset(world.store)
    assert functaset.stored("latent").dtype == "int32"  # type: ignore[union-attr]
    assert functaset.stored("latent_step").shape == (functaset.layout.latent,)  # type: ignore[union-attr]
    spread = plain.latents().std(axis=0)
    assert (np.abs(functaset.latents() - plain.latents()) <= 0.05 * spread + 1e-3).all()
    assert invoke("render", store, tmp_path / "images", "--device", "cpu").code == 0
    assert len(list((tmp_path / "images").glob("*.png"))) == len(functaset)
    verified = invoke("inspect", store, "--verify", "--json")
    assert (verified.code, verified.json["bits"], verified.json["problems"]) == (0, "steps", [])
    # a lost constant is found, and reading is an error
    (store / "latent_step/c/0").unlink()
    assert invoke("inspect", store, "--verify").code == 4
    assert invoke("render", store, tmp_path / "again", "--device", "cpu").code == 65


def test_a_codec_that_is_not_known_is_named_with_those_that_are(world: World, invoke: Invoke, tmp_path: Path) -> None:
    ran = invoke("encode", world.base, world.shards, tmp_path / "out.zarr", "--bits", "7")
    assert ran.code == 2
    assert "known: 8, float16, float32" in ran.errors
