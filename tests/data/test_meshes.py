"""Meshes to solid voxels and back to surfaces: right where the mesh is closed, sensible where it is not."""

import math
import re
import struct
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from functaconv.data.decoders.binvox import read_binvox
from functaconv.data.meshes import surface, voxelise
from functaconv.errors import ItemError, MissingExtraError

CUBE = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
QUADS = {
    "x-": (0, 1, 3, 2),
    "x+": (4, 6, 7, 5),
    "y-": (0, 4, 5, 1),
    "y+": (2, 3, 7, 6),
    "z-": (0, 2, 6, 4),
    "z+": (1, 5, 7, 3),
}

Mesh = tuple[np.ndarray, list[tuple[int, ...]]]


def box(
    size: tuple[float, float, float] = (1, 1, 1), at: tuple[float, float, float] = (0, 0, 0), without: str = ""
) -> Mesh:
    return CUBE * size + at, [quad for name, quad in QUADS.items() if name != without]


def joined(*parts: Mesh) -> Mesh:
    offsets = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    faces = [
        tuple(corner + int(offset) for corner in face)
        for offset, (_, corners) in zip(offsets, parts, strict=False)
        for face in corners
    ]
    return np.concatenate([vertices for vertices, _ in parts]), faces


def sphere(steps: int = 24) -> Mesh:
    """Of radius one: quads between circles of latitude, which shrink to the poles."""
    theta, phi = np.meshgrid(
        np.linspace(0, np.pi, steps + 1), np.linspace(0, 2 * np.pi, 2 * steps, endpoint=False), indexing="ij"
    )
    vertices = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    # exactly closed: a pole is one point
    vertices[[0, -1], :, :2] = 0
    around = 2 * steps
    faces = [
        (
            row * around + i,
            (row + 1) * around + i,
            (row + 1) * around + (i + 1) % around,
            row * around + (i + 1) % around,
        )
        for row in range(steps)
        for i in range(around)
    ]
    return vertices.reshape(-1, 3), faces


def off(mesh: Mesh, header: str = "OFF\n") -> bytes:
    vertices, faces = mesh
    lines = [f"{header}{len(vertices)} {len(faces)} 0"]
    lines += [" ".join(map(repr, row)) for row in vertices.tolist()]
    lines += [" ".join(map(str, (len(face), *face))) for face in faces]
    return ("\n".join(lines) + "\n").encode()


def obj(mesh: Mesh) -> bytes:
    vertices, faces = mesh
    lines = ["mtllib ../../x.mtl", "o thing", *("v " + " ".join(map(repr, row)) for row in vertices.tolist())]
    lines += ["usemtl wood", *("f " + " ".join(f"{corner + 1}//7" for corner in face) for face in faces)]
    return ("\n".join(lines) + "\n").encode()


def triangles(mesh: Mesh) -> np.ndarray:
    vertices, faces = mesh
    return np.array([vertices[[face[0], *pair]] for face in faces for pair in pairwise(face[1:])])


def text_stl(mesh: Mesh) -> bytes:
    lines = ["solid thing"]
    for triangle in triangles(mesh).tolist():
        lines += ["facet normal 0 0 0", " outer loop"]
        lines += ["  vertex " + " ".join(map(repr, corner)) for corner in triangle]
        lines += [" endloop", "endfacet"]
    return ("\n".join([*lines, "endsolid thing"]) + "\n").encode()


def binary_stl(mesh: Mesh) -> bytes:
    facets = [struct.pack("<12fH", 0, 0, 0, *triangle.ravel(), 0) for triangle in triangles(mesh)]
    return b"solid, and yet binary".ljust(80) + struct.pack("<I", len(facets)) + b"".join(facets)


FORMATS = {"off": off, "obj": obj, "stl": text_stl, "binary stl": binary_stl}


def test_a_box_in_any_format_is_filled_exactly() -> None:
    for name in FORMATS:
        content = FORMATS[name](box((4, 2, 1), at=(100, -7, 3)))
        occupancy = voxelise(content, name.split()[-1], 16)
        expected = np.zeros((16, 16, 16), np.uint8)
        expected[:, 4:12, 6:10] = 1
        np.testing.assert_array_equal(occupancy, expected)
        assert occupancy.dtype == np.uint8
        assert occupancy.flags.c_contiguous


def test_empty_space_beside_unused_vertices_is_not_part_of_the_mesh() -> None:
    vertices, faces = box()
    assert voxelise(off((np.vstack([vertices, [50, 50, 50]]), faces)), "off", 8).all()


@pytest.mark.parametrize("resolution", [16, 31])
def test_a_sphere_is_solid_and_no_larger_than_the_voxels_it_touches(resolution: int) -> None:
    occupancy = voxelise(off(sphere(64)), "off", resolution).astype(bool)
    centres = (np.indices(occupancy.shape) + 0.5) / resolution * 2 - 1
    radius = np.sqrt((centres**2).sum(axis=0))
    assert occupancy[radius < math.cos(math.pi / 64) ** 2].all()
    assert not occupancy[radius > 1 + math.sqrt(3) / resolution].any()


def test_what_can_be_looked_into_stays_open_and_what_cannot_is_filled() -> None:
    # a cup: a box with a smaller box let into its top
    inner = box((0.5, 0.5, 0.75), at=(0.25, 0.25, 0.25), without="z+")
    cup = voxelise(off(joined(box(without="z+"), inner)), "off", 20)
    assert not cup[8:12, 8:12, 8:].any()
    assert cup[8:12, 8:12, :4].all()
    # a closed room in a box is part of the solid: a mesh does not say which side is which
    assert voxelise(off(joined(box(), box((0.5, 0.5, 0.5), at=(0.25, 0.25, 0.25)))), "off", 16).all()


def test_parts_thinner_than_a_voxel_are_kept() -> None:
    needle = box((0.01, 0.01, 1), at=(0.31, 0.52, 0))
    found = voxelise(off(joined(box((1, 1, 0.05)), needle)), "off", 12)
    assert found[:, :, 6].sum() == 1


def test_files_that_are_not_meshes_are_refused() -> None:
    for suffix, content in [
        ("off", b""),
        ("off", b"ply\n"),
        ("off", b"OFF\n999999999 1 0\n"),
        ("off", b"OFF\n3 1 0\n0 0 0\n"),
        ("off", b"OFF\n3 1 0\n0 0 x\n1 0 0\n0 1 0\n3 0 1 2\n"),
        ("off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n"),
        ("off", b"OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n"),
        ("off", b"OFF\n1 1 0\n5 5 5\n3 0 0 0\n"),
        ("obj", b""),
        ("obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"),
        ("obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n"),
        ("stl", b""),
        ("stl", bytes(84)),
        ("stl", binary_stl(box())[:120]),
        ("stl", b"<html><body>404</body></html>"),
        ("obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf -1 -2 -4\n"),
        ("obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n"),
        ("obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n"),
    ]:
        with pytest.raises(ItemError, match=r"mesh|vert|extent"):
            voxelise(content, suffix, 4)


BEAM = box((4, 1, 1))
"""fills 4 x 16 voxels of 16 along its longest side"""


def with_normals(mesh: Mesh) -> bytes:
    vertices, faces = mesh
    lines = [f"v {x} {y} {z} 1.0" for x, y, z in vertices]
    lines += [
        "vt 0 0",
        "vn 0 0 1",
        *(f"f {' '.join(f'{corner + 1}/1/1' for corner in face)} # {face}" for face in faces),
    ]
    return "\n".join(lines).encode()


def test_what_other_programs_write_and_take_is_read() -> None:
    for suffix, content in [
        ("obj", obj(BEAM).replace(b" ", b"\t")),
        ("obj", b"\xef\xbb\xbf" + obj(BEAM)),
        ("obj", obj(BEAM).replace(b"\n", b"\r\n").replace(b" ", b"  ")),
        ("obj", b"\n".join(b" " + line for line in obj(BEAM).splitlines())),
        ("obj", re.sub(rb"(f \S+)", rb"\1 \\\n", obj(BEAM))),
        ("obj", with_normals(BEAM)),
        ("off", off(BEAM, header="off\n")),
        ("off", off(BEAM, header="# takeoff\n\n off ")),
        ("off", b"\xef\xbb\xbf" + off(BEAM).replace(b" ", b"\t")),
        ("off", b"coff" + off(BEAM, header="\n").replace(b".0\n", b".0 255 0 0 255\n")),
        ("stl", binary_stl(BEAM) + b"trailing"),
        ("stl", binary_stl(BEAM) + bytes(60)),
        ("stl", binary_stl(BEAM)[:80] + bytes(4) + binary_stl(BEAM)[84:]),
        ("stl", binary_stl(BEAM)[:80] + b"\xff" * 4 + binary_stl(BEAM)[84:]),
        # the format is told by the content where there is a text to tell it
        ("stl", obj(BEAM)),
        ("obj", off(BEAM)),
    ]:
        occupancy = voxelise(content, suffix, 16)
        expected = np.zeros((16, 16, 16), np.uint8)
        expected[:, 6:10, 6:10] = 1
        np.testing.assert_array_equal(occupancy, expected)


def test_the_whole_faces_of_a_cut_stl_are_read() -> None:
    beam = binary_stl(BEAM)
    ignored: Counter[str] = Counter()
    for cut in (1, 20, 49):
        found = voxelise(beam[:-cut], "stl", 16, ignored=ignored)
        np.testing.assert_array_equal(found, voxelise(beam[:-50], "stl", 16))
    assert ignored == {"STL files with fewer faces than they say": 3}
    without = beam[:80] + (11).to_bytes(4, "little") + beam[84:]
    np.testing.assert_array_equal(voxelise(beam[:-1], "stl", 16), voxelise(without, "stl", 16))


def test_negative_indices_count_back_from_the_line_they_stand_on() -> None:
    parts = [box((0.9, 1, 1)), box((0.9, 1, 1), at=(3.1, 0, 0))]
    blocks = []
    for vertices, faces in parts:
        blocks += ["v " + " ".join(map(repr, row)) for row in vertices.tolist()]
        blocks += ["f " + " ".join(f"{corner - 8}//{corner - 8}" for corner in face) for face in faces]
    occupancy = voxelise("\n".join(blocks).encode(), "obj", 16)
    expected = np.zeros((16, 16, 16), np.uint8)
    expected[:4, 6:10, 6:10] = expected[12:, 6:10, 6:10] = 1
    np.testing.assert_array_equal(occupancy, expected)
    np.testing.assert_array_equal(occupancy, voxelise(obj(joined(*parts)), "obj", 16))


def test_a_surface_of_endless_layers_is_refused_before_memory_is_taken() -> None:
    vertices, faces = box()
    with pytest.raises(ItemError, match="layers"):
        voxelise(off((vertices, faces * 500)), "off", 512)


def test_materials_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"opened {arguments}")

    voxelise(obj(box()), "obj", 2)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("os.open", refuse)
    assert voxelise(b"mtllib /etc/passwd\nmtllib http://example.org/x.mtl\n" + obj(box()), "obj", 4).all()


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_mutated_bytes_are_an_item_error_or_occupancy(name: str, data: st.DataObject) -> None:
    content = bytearray(FORMATS[name](box((1, 2, 3))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 1] = data.draw(
            st.sampled_from([b"", b" ", b"\n", b"9", b"-", b"e", b"nan"]) | st.binary(max_size=2)
        )
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    try:
        occupancy = voxelise(bytes(content), name.split()[-1], 5)
    except ItemError:
        return
    assert occupancy.shape == (5, 5, 5)
    assert occupancy.any()


def read_back(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    lines = [line.split() for line in content.decode("ascii").splitlines()]
    points = np.array([line[1:] for line in lines if line[0] == "v"], dtype=float)
    return points, np.array([line[1:] for line in lines if line[0] == "f"], dtype=int) - 1


def volume(points: np.ndarray, faces: np.ndarray) -> float:
    """Positive where corners go counter-clockwise, seen from outside."""
    return float(np.linalg.det(points[faces]).sum() / 6)


def assert_closed(faces: np.ndarray) -> None:
    edges = Counter(map(tuple, faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).tolist()))
    assert all(edges[end, start] == count for (start, end), count in edges.items())


def test_a_surface_lies_where_the_level_is_crossed() -> None:
    occupancy = np.zeros((8, 8, 8))
    occupancy[2:6, 2:6, 1:7] = 1
    points, faces = read_back(surface(occupancy))
    np.testing.assert_allclose(points.min(axis=0), [0.25, 0.25, 0.125], atol=1e-6)
    np.testing.assert_allclose(points.max(axis=0), [0.75, 0.75, 0.875], atol=1e-6)
    assert_closed(faces)
    # the corners and edges are cut off
    assert volume(points, faces) == pytest.approx(0.5 * 0.5 * 0.75, rel=0.1)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=6),
        # the level itself, too
        elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1]) | st.floats(-0.5, 1.5, width=32),
    )
)
def test_every_surface_is_closed_and_turned_outward(occupancy: np.ndarray) -> None:
    before = occupancy.copy()
    if occupancy.max() <= 0.5:
        with pytest.raises(ItemError, match=r"no surface: the highest value is .*, nowhere above 0.5"):
            surface(occupancy)
        return
    points, faces = read_back(surface(occupancy))
    assert_closed(faces)
    assert volume(points, faces) >= -1e-6
    assert points.min() >= 0
    assert points.max() <= 1
    np.testing.assert_array_equal(occupancy, before)
    assert surface(occupancy) == surface(occupancy)


def test_no_surface_is_an_item_error() -> None:
    for occupancy, reason in [
        (np.zeros((4, 4, 4)), "no surface: the highest value is 0, nowhere above 0.5"),
        (np.full((4, 4, 4), -3), "no surface"),
        (np.full((4, 4, 4), np.nan), "finite"),
        (np.ones((4, 4)), r"shape \(4, 4\)"),
        (np.ones((4, 0, 4)), r"shape \(4, 0, 4\)"),
    ]:
        with pytest.raises(ItemError, match=reason):
            surface(occupancy)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("scipy", "scipy.ndimage", "skimage", "skimage.measure"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    for call in (lambda: voxelise(off(box()), "off", 8), lambda: surface(np.ones((2, 2, 2)))):
        with pytest.raises(MissingExtraError) as caught:
            call()
        assert caught.value.hint == "pip install 'functaconv[mesh]'"


@pytest.fixture(scope="module")
def toilets(test_data: Path) -> Path:
    return test_data / "raw" / "voxels"


@pytest.mark.realdata
def test_a_real_mesh_is_the_same_in_both_formats(toilets: Path) -> None:
    content = (toilets / "toilet_0345.off").read_bytes()
    found = voxelise(content, "off", 64)
    np.testing.assert_array_equal(voxelise((toilets / "toilet_0345.obj").read_bytes(), "obj", 64), found)
    # as ModelNet has some files
    np.testing.assert_array_equal(
        voxelise(content.replace(b"OFF\r\n", b"OFF", 1).replace(b"OFF\n", b"OFF", 1), "off", 64), found
    )


@pytest.mark.realdata
def test_a_real_open_mesh_has_the_extent_that_binvox_finds(toilets: Path) -> None:
    theirs = read_binvox((toilets / "toilet_obj_30.binvox").read_bytes()).astype(bool)
    ours = voxelise((toilets / "toilet_0345.obj").read_bytes(), "obj", len(theirs)).astype(bool)
    extents = [np.ptp(np.argwhere(solid), axis=0) for solid in (ours, theirs)]
    np.testing.assert_allclose(*extents, atol=2)
    # the surface itself is wider here by up to half a voxel on each side
    assert theirs.mean() < ours.mean() < 1.5 * theirs.mean()
