"""Arrays as numpy writes them: float32, not clipped, channels last."""

import io

import numpy as np

from functaconv.functaset.reader import Functaset
from functaconv.rendering.decoding import Picture
from functaconv.rendering.formats.format import Format


class Npy(Format):
    name = "npy"

    def to_bytes(self, picture: Picture, functaset: Functaset) -> bytes:  # noqa: ARG002 - the array is all
        content = io.BytesIO()
        np.save(content, picture.array.astype(np.float32, copy=False), allow_pickle=False)
        return content.getvalue()


class Npz(Format):
    """Compressed, under the name `array`."""

    name = "npz"

    def to_bytes(self, picture: Picture, functaset: Functaset) -> bytes:  # noqa: ARG002 - the array is all
        content = io.BytesIO()
        np.savez_compressed(content, array=picture.array.astype(np.float32, copy=False))
        return content.getvalue()
