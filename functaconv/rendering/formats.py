"""A decoded item as the content of a file."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from functaconv.data.decoders.binvox import write_binvox
from functaconv.data.meshes import surface
from functaconv.errors import UsageError
from functaconv.functaset.reader import Functaset
from functaconv.modalities.voxels import OCCUPIED
from functaconv.previews import voxel_preview
from functaconv.rendering.decoding import Picture
from functaconv.rendering.netcdf import to_netcdf

ToBytes = Callable[[Picture, Functaset], bytes]


def _png(picture: Picture, functaset: Functaset) -> bytes:
    if functaset.layout.modality == "voxels":
        codes = voxel_preview(picture.array[..., 0])
    else:
        codes = np.empty(picture.array.shape, np.uint8)
        for row, values in enumerate(picture.array):
            codes[row] = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255)
    content = io.BytesIO()
    Image.fromarray(codes[..., 0] if codes.shape[-1] == 1 else codes).save(content, "PNG")
    return content.getvalue()


def _npy(picture: Picture, _: Functaset) -> bytes:
    content = io.BytesIO()
    np.save(content, picture.array.astype(np.float32, copy=False), allow_pickle=False)
    return content.getvalue()


def _npz(picture: Picture, _: Functaset) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, array=picture.array.astype(np.float32, copy=False))
    return content.getvalue()


def _binvox(picture: Picture, _: Functaset) -> bytes:
    return write_binvox(picture.array[..., 0] > OCCUPIED)


def _obj(picture: Picture, _: Functaset) -> bytes:
    if not (picture.array > OCCUPIED).any():
        return b"# nothing is occupied\n"
    return surface(picture.array[..., 0], level=OCCUPIED)


def _nc(picture: Picture, functaset: Functaset) -> bytes:
    return to_netcdf([picture], functaset)


FORMATS: dict[str, ToBytes] = {
    "png": _png,
    "npy": _npy,
    "npz": _npz,
    "nc": _nc,
    "binvox": _binvox,
    "obj": _obj,
}
ONLY = {"nc": "grid", "zarr": "grid", "binvox": "voxels", "obj": "voxels"}
"""formats for items of one kind"""


def usual_format(functaset: Functaset) -> str:
    """What items are written as unless something else is asked for."""
    return {"image": "png", "grid": "nc", "voxels": "npy"}.get(functaset.attributes.modality, "npy")


def check_format(name: str, functaset: Functaset) -> None:
    """UsageError unless items of this functaset can be written in this format."""
    modality, axes = functaset.attributes.modality, len(functaset.layout.axes)
    channels = len(list(functaset.attributes.normaliser["offset"]))  # type: ignore[arg-type]
    if name in ONLY and modality != ONLY[name]:
        what = {"grid": "latitude-longitude grids", "voxels": "voxels"}[ONLY[name]]
        raise UsageError(f"{name} is for {what}; these items are not", hint="--format npy")
    if name == "png" and modality != "voxels" and (axes != 2 or channels not in (1, 3)):
        raise UsageError(
            f"png holds images of 1 or 3 channels; these items have {axes} axes and {channels} channels",
            hint="--format npy",
        )
