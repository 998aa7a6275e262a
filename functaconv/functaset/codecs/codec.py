"""What a way of storing latents has to say."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np


class Codec:
    """Latents, float32 `[item, *sites, latent]`, as numbers of `dtype` in the same shape.

    A codec may need constants, one number per latent: those that `vectors` names are float32 arrays of the functaset.
    """

    name: ClassVar[str]
    """for `--bits`, and on disk"""
    dtype: ClassVar[np.dtype[Any]]
    """of the stored numbers"""
    fill: ClassVar[float | int] = float("nan")
    """what zarr takes a stored number for that is not there"""
    vectors: ClassVar[tuple[str, ...]] = ()
    largest: ClassVar[float] = float(np.finfo(np.float32).max)
    """absolute value of a number that can be stored"""

    def __init__(self, vectors: Mapping[str, np.ndarray] | None = None) -> None:
        """ValueError unless the `vectors` are those of the codec: finite float32 `[latent]`, of one length."""
        self.constants = dict(vectors or {})
        if self.constants.keys() != set(self.vectors):
            raise ValueError(f"{self.name} latents have the arrays {self.vectors}, found {tuple(self.constants)}")
        for name, vector in self.constants.items():
            if vector.ndim != 1 or vector.dtype != np.float32 or not np.isfinite(vector).all():
                raise ValueError(f"{name}: expected finite float32 [latent], found {vector!r}")
        if len({len(vector) for vector in self.constants.values()}) > 1:
            raise ValueError(f"{self.vectors} differ in length")

    @classmethod
    def for_latents(cls, mean: np.ndarray, std: np.ndarray, *, is_canonical: bool) -> Self:  # noqa: ARG003 - floats need neither
        """For latents of this mean and standard deviation `[latent]` over the training items."""
        return cls()

    def fits(self, latents: np.ndarray) -> np.ndarray:
        """Bool `[item]`: every number is finite, and stays so when stored."""
        return np.asarray((np.abs(latents) <= self.largest).all(axis=tuple(range(1, latents.ndim))))

    def encode(self, latents: np.ndarray) -> np.ndarray:
        """The numbers to store. ValueError if an item does not fit."""
        bad = np.flatnonzero(~self.fits(latents))
        if len(bad):
            raise ValueError(f"items {bad[:8].tolist()}: not finite, or too large for {self.name}")
        return self._stored(latents)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """What the stored numbers mean, float32."""
        return np.asarray(stored, np.float32)

    def _stored(self, latents: np.ndarray) -> np.ndarray:
        return np.asarray(latents, self.dtype)
