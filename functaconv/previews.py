"""A picture of occupancy, for people: which object is it, and is it whole?

Painted are the sides of the voxels that can be seen, from the farthest voxel to the nearest, so that what is nearer
covers what is behind. The grid is turned such that the viewer looks towards lower indices: then the order of the array
is such an order, and what can be seen of a voxel are its three upper sides.
"""

import math

import numpy as np

__all__ = ["voxel_preview"]

_TURN, _TILT = math.radians(35), math.radians(28)
"""where it is seen from: off the axes and diagonals, so that the three sides of a box differ"""
_LIGHT = np.array((-0.4, -0.5, 0.77))
"""towards the light: right, away from the viewer, up; of length one"""
_COLOUR = np.array((150, 196, 242))
_OUTLINE = 0.45
"""brightness where something nearer, by more than `_JUMP` voxels, ends"""
_JUMP = 3.0
_MARGIN = 0.03
"""of the picture, on each side"""
_MOST_VOXELS = 128
"""along an axis: more would be smaller than a pixel"""
_FINER = 2
"""pixels along each axis that are averaged to one"""


def voxel_preview(occupancy: np.ndarray, size: int = 256) -> np.ndarray:
    """RGB, uint8 `[size, size, 3]`: where occupancy `[x, y, z]` is over 0.5, obliquely from above, on white; z is up.

    The scale depends on the shape of the grid alone, so that pictures of two items compare.
    """
    assert occupancy.ndim == 3
    assert occupancy.size
    assert size > 0
    view = _view()
    values = _coarser(np.nan_to_num(occupancy.astype(np.float32), posinf=1, neginf=0).clip(0, 1))
    values = np.flip(values, tuple(np.flatnonzero(view[1] > 0).tolist()))
    view = view * -np.sign(view[1])
    # the box around the grid fills the picture but for the margin
    pixels = size * _FINER
    width, _, height = np.abs(view) @ np.array(values.shape)
    scale = (1 - 2 * _MARGIN) * pixels / max(width, height)
    # an empty layer around: what is at the border has sides, too
    values = np.pad(values, 1)
    voxels, sides = _visible(values > 0.5)
    right, away, up = view @ (voxels - np.array(values.shape) / 2).T
    offsets = _points(math.ceil(scale) + 1) @ view.T
    column = (pixels / 2 + scale * (right[:, None] + offsets[sides, :, 0])).astype(np.int64)
    row = (pixels / 2 - scale * (up[:, None] + offsets[sides, :, 2])).astype(np.int64)
    # of several points of one pixel the last is kept: the nearest
    brightness, depth = np.zeros((pixels, pixels)), np.full((pixels, pixels), np.inf)
    brightness[row, column] = _brightness(values, voxels, sides, view)[:, None]
    depth[row, column] = away[:, None]
    return _coloured(brightness, depth)


def _view() -> np.ndarray:
    """The directions right, away and up of the viewer, one per row, in x, y and z."""
    right = (math.cos(_TURN), math.sin(_TURN), 0.0)
    away = (-math.sin(_TURN) * math.cos(_TILT), math.cos(_TURN) * math.cos(_TILT), -math.sin(_TILT))
    return np.array((right, away, np.cross(right, away)))


def _coarser(values: np.ndarray) -> np.ndarray:
    """The largest value of each block, so that thin walls stay."""
    step = -(-max(values.shape) // _MOST_VOXELS)
    values = np.pad(values, [(0, -length % step) for length in values.shape])
    x, y, z = (length // step for length in values.shape)
    coarse: np.ndarray = values.reshape(x, step, y, step, z, step).max(axis=(1, 3, 5))
    return coarse


def _visible(solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels with an upper side (0 to 2: of which axis) that is free, in the order of the array."""
    free = np.stack([solid & ~np.roll(solid, -1, axis) for axis in range(3)], axis=-1)
    found = np.argwhere(free)
    return found[:, :3], found[:, 3]


def _points(steps: int) -> np.ndarray:
    """`[side, point, coordinate]`: steps x steps points on each upper side of a voxel, from its lower corner."""
    inner = (np.arange(steps) + 0.5) / steps
    plane = np.stack(np.meshgrid(inner, inner, [1.0], indexing="ij"), axis=-1).reshape(-1, 3)
    return np.stack([np.roll(plane, axis + 1, axis=-1) for axis in range(3)])


def _brightness(values: np.ndarray, voxels: np.ndarray, sides: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Of each side: how far it is turned to the light, and how little of that its surroundings keep off."""
    units = np.eye(3, dtype=np.int64)
    near = _blurred(values, 1)
    # steps of the grid are smoothed out; the side itself counts where a thin wall has no slope
    slopes = [near[tuple((voxels + unit).T)] - near[tuple((voxels - unit).T)] for unit in units]
    normals = 0.3 * units[sides] - np.stack(slopes, axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-6)
    lit = (normals @ view.T @ _LIGHT).clip(0)
    # of the surroundings of a flat side nearly half are solid
    wide = _blurred(_blurred(near, 2), 4)
    crowded = (wide[tuple((voxels + units[sides]).T)] - 0.4).clip(0)
    shades: np.ndarray = (0.5 + 0.5 * lit) * (1 - 1.3 * crowded)
    return shades


def _blurred(values: np.ndarray, reach: int) -> np.ndarray:
    """Half of the value and a quarter of each neighbour at `reach`, along one axis after the other."""
    for axis in range(3):
        inner = np.moveaxis(values, axis, 0)
        padded = np.pad(inner, ((reach, reach), (0, 0), (0, 0)))
        values = np.moveaxis((padded[: -2 * reach] + 2 * inner + padded[2 * reach :]) / 4, 0, axis)
    return values


def _coloured(brightness: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The colour in its shades, white where there is nothing, with outlines; at the final size."""
    colour = np.where(np.isfinite(depth)[..., None], brightness[..., None] * _COLOUR, 255)
    nearest = np.pad(depth, 1, constant_values=np.inf)
    neighbours = (nearest[:-2, 1:-1], nearest[2:, 1:-1], nearest[1:-1, :-2], nearest[1:-1, 2:])
    behind = np.minimum.reduce(neighbours) < depth - _JUMP
    colour[behind] *= _OUTLINE
    size = len(colour) // _FINER
    picture: np.ndarray = np.rint(colour.reshape(size, _FINER, size, _FINER, 3).mean(axis=(1, 3))).astype(np.uint8)
    return picture
