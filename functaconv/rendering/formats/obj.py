"""The surface of voxels as Wavefront OBJ."""

from functaconv.data.meshes import surface
from functaconv.functaset.reader import Functaset
from functaconv.modalities.voxels import OCCUPIED
from functaconv.rendering.decoding import Picture
from functaconv.rendering.formats.format import Format


class Obj(Format):
    name = "obj"

    def to_bytes(self, picture: Picture, functaset: Functaset) -> bytes:  # noqa: ARG002 - the array is all
        if not (picture.array > OCCUPIED).any():
            return b"# nothing is occupied\n"
        return surface(picture.array[..., 0])
