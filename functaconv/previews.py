"""A picture of occupancy, for people: which object is it, and is it whole?"""

import math

import numpy as np

# seen from off the axes and diagonals, so that the three sides of a box differ; one row each: right, away and up
_TURN, _TILT = math.radians(35), math.radians(28)
_RIGHT = (math.cos(_TURN), math.sin(_TURN), 0.0)
_AWAY = (-math.sin(_TURN) * math.cos(_TILT), math.cos(_TURN) * math.cos(_TILT), -math.sin(_TILT))
_VIEW = np.array((_RIGHT, _AWAY, np.cross(_RIGHT, _AWAY)))
_COLOUR = np.array((150, 196, 242))
_MARGIN = 0.03
# along an axis: more voxels would be smaller than a pixel
_MOST_VOXELS = 128


def voxel_preview(occupancy: np.ndarray, size: int = 256) -> np.ndarray:
    """RGB, uint8 `[size, size, 3]`: where occupancy `[x, y, z]` is over 0.5, obliquely from above, on white; z is up.

    What is nearer is brighter. The scale depends on the shape of the grid alone, so that pictures of two items compare.
    """
    # the fullest voxel of each block, so that thin walls stay
    step = -(-max(occupancy.shape) // _MOST_VOXELS)
    padded = np.pad(occupancy > 0.5, [(0, -length % step) for length in occupancy.shape])
    x, y, z = (length // step for length in padded.shape)
    solid = np.asarray(padded.reshape(x, step, y, step, z, step).any(axis=(1, 3, 5)))
    half_width, half_depth, half_height = np.abs(_VIEW) @ solid.shape / 2
    reach = max(half_width, half_height) / (1 - 2 * _MARGIN)
    across = ((np.arange(size) + 0.5) / size * 2 - 1) * reach
    plane = across[None, :, None] * _VIEW[0] - across[:, None, None] * _VIEW[2] + np.array(solid.shape) / 2
    depth = np.full((size, size), np.inf)
    # from the farthest plane to the nearest, which covers what is behind it; no wall is thinner than the step
    for away in np.arange(half_depth, -half_depth - 0.5, -0.5):
        place = np.floor(plane + away * _VIEW[1]).astype(int)
        inside = ((place >= 0) & (place < solid.shape)).all(-1)
        inside[inside] = solid[tuple(place[inside].T)]
        depth[inside] = away
    is_seen = np.isfinite(depth)
    shade = 0.65 - 0.35 * np.where(is_seen, depth, 0) / half_depth
    return np.rint(np.where(is_seen[..., None], shade[..., None] * _COLOUR, 255)).astype(np.uint8)
