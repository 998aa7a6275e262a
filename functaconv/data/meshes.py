"""Meshes to solid voxels, and voxels to a closed surface.

Meshes are read from their bytes alone: what else a file names (materials, textures) is never opened.
"""

import io
import re
import warnings
from collections import Counter

import numpy as np

from functaconv.data.contents import BYTE_ORDER_MARK, format_in_words, format_of
from functaconv.data.ignored import CUT_STL, ignore
from functaconv.errors import ItemError, imported

MESH_SUFFIXES = ("off", "obj", "stl")
MOST_FACES = 2_000_000
# voxels per side
MOST_RESOLUTION = 512
# bytes of a face in a binary STL
_STL_FACE = 50
_OFF = re.compile(rb"^[ \t]*\w*?off", re.IGNORECASE | re.MULTILINE)
# of occupancy, where a surface lies
LEVEL = 0.5
# points less than a voxel apart on a surface, estimated from its area: some 24 bytes each
SAMPLES = 1e9


def voxelise(content: bytes, suffix: str, resolution: int, *, ignored: Counter[str] | None = None) -> np.ndarray:
    """Solid occupancy `[x, y, z]`, uint8 0 or 1, of a cube with `resolution` voxels per side.

    The mesh is centred and its longest side fills the cube; its axes stay as they are. Occupied is what the surface
    passes through, and what it hides from all six directions: so the inside is full also where a mesh is not
    watertight, as most of ModelNet's are not, and so is an open bowl. `ignored` counts files with less than they say.
    """
    trimesh = imported("trimesh", "mesh", "a mesh")
    # trimesh asks for it only when it fills
    imported("scipy", "mesh", "a mesh")
    vertices, faces = _mesh(content, suffix, Counter() if ignored is None else ignored)
    low, high = vertices.min(0), vertices.max(0)
    longest = float((high - low).max())
    if not 0 < longest < np.inf:
        raise ItemError("a mesh without extent")
    # the outermost points fall into the outermost voxels
    centred = (vertices - (low + high) / 2) / longest * (resolution - 1e-6)
    if np.abs(np.cross(*np.diff(centred[faces], axis=1).swapaxes(0, 1))).sum() > SAMPLES:
        raise ItemError(f"a surface of so many layers that {resolution} voxels per side are too many")
    remesh, voxel = trimesh.remesh, trimesh.voxel
    points, _ = remesh.subdivide_to_size(centred + resolution / 2, faces, max_edge=0.5, max_iter=64)
    solid = np.zeros((resolution,) * 3, bool)
    solid[tuple(np.floor(points).astype(np.int64).clip(0, resolution - 1).T)] = True
    filled = voxel.morphology.fill_orthographic(voxel.encoding.DenseEncoding(solid))
    return np.asarray(filled.dense, np.uint8)


def _mesh(content: bytes, suffix: str, ignored: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices `[vertex, 3]` and triangles `[face, 3]` of a file."""
    import trimesh

    content_format = format_of(content)
    # a binary STL may begin with anything
    kind = suffix if content_format is None else content_format.lower()
    if kind not in MESH_SUFFIXES:
        raise ItemError(f"{suffix}: expected a mesh, found {format_in_words(content)}")
    try:
        with warnings.catch_warnings():
            # numpy goes on after a number it cannot read, with no more than this warning
            warnings.simplefilter("error")
            clean = io.BytesIO(_CLEAN[kind](content, ignored))
            loaded = trimesh.load_mesh(clean, file_type=kind, process=False, skip_materials=True)
        vertices, faces = np.asarray(loaded.vertices, np.float64), np.asarray(loaded.faces, np.int64)
    # the readers raise errors of many kinds on damaged files
    except Exception as error:
        raise ItemError(
            f"{suffix}: expected a mesh ({str(error).rstrip('.')[:200] or type(error).__name__})"
        ) from error
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not len(faces):
        raise ItemError(f"{suffix}: a mesh without faces, or not of three dimensions")
    if len(faces) > MOST_FACES:
        raise ItemError(f"{suffix}: {len(faces)} faces, expected at most {MOST_FACES}")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ItemError(f"{suffix}: a face with vertex {faces.max()}, found {len(vertices)} vertices")
    used, corners = np.unique(faces, return_inverse=True)
    vertices = vertices[used]
    if not np.isfinite(vertices).all():
        raise ItemError(f"{suffix}: vertices that are not finite")
    return vertices, corners.reshape(-1, 3)


def _clean_obj(content: bytes, _: Counter[str]) -> bytes:
    """Its vertices and faces, a line each: without colours, textures and normals, with vertices counted from 1."""
    lines, vertices = [], 0
    for line in content.removeprefix(BYTE_ORDER_MARK).replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").splitlines():
        kind, *words = line.partition(b"#")[0].split() or [b""]
        if kind == b"v":
            vertices += 1
            lines.append(b" ".join([kind, *words[:3]]))
        elif kind == b"f":
            corners = [int(word.partition(b"/")[0]) for word in words]
            # negative ones count back from the last vertex so far
            corners = [corner if corner > 0 else vertices + 1 + corner for corner in corners]
            if not all(corner > 0 for corner in corners):
                raise ValueError(f"a face with a vertex before the first: {line[:80].decode('ascii', 'replace')}")
            lines.append(b"f %s" % " ".join(map(str, corners)).encode())
    return b"\n".join(lines)


def _clean_off(content: bytes, _: Counter[str]) -> bytes:
    """With the first word in capital letters."""
    return _OFF.sub(lambda start: start[0].upper(), content.removeprefix(BYTE_ORDER_MARK), count=1)


def _clean_stl(content: bytes, ignored: Counter[str]) -> bytes:
    """A binary one with as many faces as it says, or as there are; without what follows them. A text has no zeros."""
    if b"\0" not in content:
        return content.removeprefix(BYTE_ORDER_MARK)
    claimed, available = int.from_bytes(content[80:84], "little"), max(0, len(content) - 84) // _STL_FACE
    faces = claimed if 0 < claimed <= available else available
    if claimed > available:
        ignore(ignored, CUT_STL)
    return content[:80] + faces.to_bytes(4, "little") + content[84 : 84 + faces * _STL_FACE]


# text or bytes as the library reads them, of what other programs write and take
_CLEAN = {"obj": _clean_obj, "off": _clean_off, "stl": _clean_stl}


def surface(occupancy: np.ndarray) -> bytes:
    """A Wavefront `.obj` of where `occupancy`, `[x, y, z]`, crosses 0.5: closed triangles, seen from outside.

    The centre of voxel i is at (i + 0.5) / n, n the length of the longest axis, so a cube of voxels is the unit cube.
    Beyond the border all is empty (0): what touches it is closed there.
    """
    measure = imported("skimage.measure", "mesh", "a mesh")
    if occupancy.ndim != 3 or not occupancy.size:
        raise ItemError(f"a surface needs x, y and z, found shape {occupancy.shape}")
    values = np.pad(occupancy.astype(np.float32), 1)
    if not np.isfinite(values).all():
        raise ItemError("a surface needs finite values, found NaN or infinity")
    if not values.max() > LEVEL:
        raise ItemError(f"no surface: the highest value is {values.max():.4g}, nowhere above {LEVEL}")
    # a surface exactly through a voxel's centre is not closed there
    values[values == LEVEL] = np.nextafter(np.float32(LEVEL), np.float32(0))
    corners, triangles, _, _ = measure.marching_cubes(values, LEVEL)
    longest = max(occupancy.shape)
    # values far above 1 push the surface a little beyond the border
    points = np.clip((corners.astype(np.float64) - 0.5) / longest, 0, np.divide(occupancy.shape, longest))
    lines = ("v %.6f %.6f %.6f\n" * len(points)) % tuple(points.ravel().tolist())
    # it lists the corners clockwise as seen from lower values, which are outside
    faces = ("f %d %d %d\n" * len(triangles)) % tuple((triangles[:, ::-1] + 1).ravel().tolist())
    return (lines + faces).encode("ascii")
