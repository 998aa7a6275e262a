"""Pictures of occupancy: the right side up, the near in front of the far, the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from functaconv.modalities.voxels import voxel_preview


def block(*box: slice) -> np.ndarray:
    """A solid block in a grid of 16 x 16 x 16."""
    occupancy = np.zeros((16, 16, 16), np.uint8)
    occupancy[box] = 1
    return occupancy


def centre(picture: np.ndarray) -> np.ndarray:
    """Row and column of the middle of what is not white."""
    return np.argwhere((picture < 255).any(axis=-1)).mean(axis=0)


ALL, LOW, HIGH = slice(None), slice(0, 4), slice(12, 16)


def test_z_is_up_x_leads_to_the_right_and_y_away() -> None:
    above, below = centre(voxel_preview(block(ALL, ALL, HIGH))), centre(voxel_preview(block(ALL, ALL, LOW)))
    assert above[0] < below[0] - 50
    assert above[1] == pytest.approx(below[1], abs=1)
    right, left = centre(voxel_preview(block(HIGH, ALL, ALL))), centre(voxel_preview(block(LOW, ALL, ALL)))
    assert right[1] > left[1] + 50
    # seen from above, what is farther away is higher in the picture
    back, front = centre(voxel_preview(block(ALL, HIGH, ALL))), centre(voxel_preview(block(ALL, LOW, ALL)))
    assert back[0] < front[0] - 20


def test_what_is_nearer_is_brighter() -> None:
    picture = voxel_preview(block(ALL, slice(0, 2), ALL) + block(ALL, slice(14, 16), ALL)).mean(axis=-1)
    seen = picture[picture < 255]
    assert seen.max() > seen.min() + 60
    front, back = (voxel_preview(block(ALL, part, ALL)).astype(float) for part in (slice(0, 2), slice(14, 16)))
    assert front[front < 255].mean() > back[back < 255].mean() + 40


def test_the_near_covers_the_far() -> None:
    front = block(ALL, slice(0, 2), ALL)
    both = front + block(slice(2, 7), slice(12, 14), slice(2, 6))
    # all of the far block lies behind the near wall
    np.testing.assert_array_equal(voxel_preview(both), voxel_preview(front))
    behind = block(slice(4, 12), slice(12, 14), slice(10, 16))
    assert (voxel_preview(front + behind) != voxel_preview(front)).any()


def test_walls_of_one_voxel_have_no_holes() -> None:
    side = 40
    occupancy = np.zeros((side, side, side), np.uint8)
    occupancy[:, :, side // 2] = 1
    seen = (voxel_preview(occupancy) < 255).any(axis=-1)
    for row in seen[seen.any(axis=1)]:
        first, last = np.flatnonzero(row)[[0, -1]]
        assert row[first : last + 1].all()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=12),
        elements=st.floats(allow_nan=True, allow_infinity=True, width=32),
    ),
    st.integers(1, 40),
)
def test_any_grid_has_a_picture_and_always_the_same(occupancy: np.ndarray, size: int) -> None:
    before = occupancy.copy()
    picture = voxel_preview(occupancy, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, voxel_preview(occupancy, size))
    np.testing.assert_array_equal(occupancy, before)
