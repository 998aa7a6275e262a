"""Latents as they are stored: float32, float16, or 8-bit codes with a scale per latent."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from functaconv.functaset.schema import STORED, Bits

_CODES = 255


@dataclass(frozen=True, eq=False)
class Quantiser:
    """`value = code * scale + offset` per latent; floats are stored as they are and have neither."""

    bits: Bits
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.bits != "8":
            if self.scale is not None or self.offset is not None:
                raise ValueError(f"{self.bits} latents have no scale and no offset")
            return
        if self.scale is None or self.offset is None:
            raise ValueError("8-bit latents need a scale and an offset")
        for name, vector in (("scale", self.scale), ("offset", self.offset)):
            if vector.ndim != 1 or vector.dtype != np.float32 or not np.isfinite(vector).all():
                raise ValueError(f"{name}: expected finite float32 [latent], found {vector!r}")
        if self.scale.shape != self.offset.shape or not (self.scale > 0).all():
            raise ValueError(f"expected a positive scale for each of the {len(self.offset)} latents")

    @classmethod
    def for_range(cls, low: np.ndarray, high: np.ndarray) -> Self:
        """8 bits, with codes 0 and 255 at `low` and `high` (each one number per latent)."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        scale = ((high - low) / _CODES).astype(np.float32)
        # a latent that never varies has one code, whatever its scale
        scale = np.where(scale > 0, scale, np.float32(1))
        return cls("8", scale=scale, offset=low.astype(np.float32))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(STORED[self.bits])

    def fits(self, latents: np.ndarray) -> np.ndarray:
        """Per item: every number is finite, and stays so when stored."""
        limit = np.finfo(np.float16).max if self.bits == "float16" else np.finfo(np.float32).max
        # halfway to the next exponent rounds to infinity; at or below the largest value never does
        possible = np.abs(latents) <= limit
        return np.asarray(possible.all(axis=tuple(range(1, latents.ndim))))

    def quantise(self, latents: np.ndarray) -> np.ndarray:
        """`[item, *sites, latent]` as stored; 8 bits clip. ValueError if an item does not fit."""
        bad = np.flatnonzero(~self.fits(latents))
        if len(bad):
            raise ValueError(f"items {bad[:8].tolist()}: not finite, or too large for {self.bits}")
        if self.scale is None or self.offset is None:
            return np.asarray(latents, self.dtype)
        codes = (latents.astype(np.float64) - self.offset) / self.scale
        return np.asarray(np.clip(np.rint(codes), 0, _CODES), np.uint8)

    def dequantise(self, stored: np.ndarray) -> np.ndarray:
        """What the stored numbers mean, float32."""
        values = np.asarray(stored, np.float32)
        if self.scale is None or self.offset is None:
            return values
        return np.asarray(values * self.scale + self.offset)
