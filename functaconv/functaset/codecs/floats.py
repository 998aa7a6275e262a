"""Latents as floating point numbers."""

import numpy as np

from functaconv.functaset.codecs.codec import Codec


class Float16(Codec):
    """Two bytes a number, off by at most 1/2048 of it."""

    name = "float16"
    dtype = np.dtype(np.float16)
    # halfway to the next exponent rounds to infinity; at or below the largest value never does
    largest = float(np.finfo(np.float16).max)


class Float32(Codec):
    """Four bytes a number: latents as they are."""

    name = "float32"
    dtype = np.dtype(np.float32)
