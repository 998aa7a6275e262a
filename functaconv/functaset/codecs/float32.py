"""Latents as they are."""

import numpy as np

from functaconv.functaset.codecs.codec import Codec


class Float32(Codec):
    """Four bytes a number."""

    name = "float32"
    dtype = np.dtype(np.float32)
