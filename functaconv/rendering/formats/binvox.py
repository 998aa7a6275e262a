"""Voxels as binvox files."""

from functaconv.data.decoders.binvox import write_binvox
from functaconv.functaset.reader import Functaset
from functaconv.modalities.voxels import OCCUPIED
from functaconv.rendering.decoding import Picture
from functaconv.rendering.formats.format import Format


class Binvox(Format):
    name = "binvox"

    def to_bytes(self, picture: Picture, functaset: Functaset) -> bytes:  # noqa: ARG002 - the array is all
        return write_binvox(picture.array[..., 0] > OCCUPIED)
