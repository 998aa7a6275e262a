"""Latents as codes of eight bits."""

from collections.abc import Mapping
from typing import Self

import numpy as np

from functaconv.functaset.codecs.codec import Codec

_CODES = 255
# codes span so many standard deviations of the training items' latents to both sides of their mean
SIGMAS = 4.5
# canonical latents have a common step, so much finer than the widest number's codes allow; numbers more than a quarter
# as wide have steps of their own. Measured on CIFAR-10 with 256 numbers: 0.04 dB lost and 146 bytes, with one step for
# all 0.49 dB and 105 bytes, with a step for each 0.02 dB and 235 bytes
FINER = 4


class EightBit(Codec):
    """`value = code * scale + offset` per latent; what lies beyond the range is clipped."""

    name = "8"
    dtype = np.dtype(np.uint8)
    fill = 0
    vectors = ("latent_scale", "latent_offset")

    def __init__(self, vectors: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(vectors)
        self.scale, self.offset = (self.constants[name] for name in self.vectors)
        if not (self.scale > 0).all():
            raise ValueError(f"latent_scale: expected a positive scale for each of the {len(self.scale)} latents")

    @classmethod
    def for_latents(cls, mean: np.ndarray, std: np.ndarray, *, is_canonical: bool) -> Self:
        reach = SIGMAS * std
        if is_canonical:
            # an error of any number is as large in the output: one step for all that it leaves room for
            reach = np.maximum(reach, reach.max() / FINER)
        return cls.for_range(mean - reach, mean + reach)

    @classmethod
    def for_range(cls, low: np.ndarray, high: np.ndarray) -> Self:
        """With codes 0 and 255 at `low` and `high` `[latent]`."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        scale = ((high - low) / _CODES).astype(np.float32)
        # a latent that never varies has one code, whatever its scale
        scale = np.where(scale > 0, scale, np.float32(1))
        return cls({"latent_scale": scale, "latent_offset": low.astype(np.float32)})

    def decode(self, stored: np.ndarray) -> np.ndarray:
        return np.asarray(np.asarray(stored, np.float32) * self.scale + self.offset)

    def _stored(self, latents: np.ndarray) -> np.ndarray:
        codes = (latents.astype(np.float64) - self.offset) / self.scale
        return np.asarray(np.clip(np.rint(codes), 0, _CODES), np.uint8)
