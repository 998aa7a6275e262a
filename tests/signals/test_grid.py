"""Where points lie, what they are worth, and how large arrays are cut."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from functaconv.errors import InputError, UsageError
from functaconv.signals.batch import Batch
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from functaconv.signals.tiles import cuts, tiles_of


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 3, 4)])
def test_coordinates_are_cell_centres_last_axis_fastest(shape: tuple[int, ...]) -> None:
    coords = Grid(shape).coords()
    expected = [[(i + 0.5) / size for i, size in zip(place, shape, strict=True)] for place in np.ndindex(*shape)]
    assert coords.dtype == torch.float32
    torch.testing.assert_close(coords, torch.tensor(expected))
    assert Grid(shape).points == len(coords)


@pytest.mark.parametrize("shape", [(7,), (32, 32), (5, 18), (3, 4, 5)])
def test_every_third_point_of_three_times_the_resolution_is_a_native_one(shape: tuple[int, ...]) -> None:
    fine = Grid(tuple(3 * size for size in shape)).coords().reshape(*(3 * size for size in shape), len(shape))
    native = Grid(shape).coords().reshape(*shape, len(shape))
    subsampled = fine[(slice(1, None, 3),) * len(shape)]
    # one rounding of the division; the centres themselves are equal
    torch.testing.assert_close(subsampled, native, rtol=1e-7, atol=0)


def test_a_region_is_the_same_points_as_its_part_of_the_whole() -> None:
    whole = Grid((8, 8)).coords().reshape(8, 8, 2)
    part = Grid((4, 2), ((0.25, 0.75), (0.5, 0.75))).coords().reshape(4, 2, 2)
    torch.testing.assert_close(part, whole[2:6, 4:6])


@pytest.mark.parametrize("shape", [(), (2, 2, 2, 2)])
def test_a_grid_has_one_to_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="one to three axes"):
        Grid(shape)


def test_a_region_has_as_many_axes_as_the_grid() -> None:
    with pytest.raises(UsageError, match="row, column"):
        Grid((4, 4), ((0.0, 1.0),))


def batch_of(*signals: Signal) -> Batch:
    return Batch.of(signals, range(len(signals)))


def test_images_are_a_fraction_of_their_code_range() -> None:
    normalizer = Normalizer.of_code_range(1)
    deep = Signal("deep", np.array([[[0], [65535]]], np.uint16), peak=65535.0)
    assert normalizer.features(batch_of(deep)).flatten().tolist() == [0.0, 1.0]
    flat = Signal("flat", np.array([[[0], [255]]], np.uint8), peak=255.0)
    assert normalizer.features(batch_of(flat, flat)).shape == (2, 2, 1)


def test_arrays_are_scaled_by_the_range_of_each_channel() -> None:
    one = Signal("one", np.array([[-10.0, 5.0], [0.0, 5.0]], np.float32))
    two = Signal("two", np.array([[30.0, 5.0], [2.0, 5.0]], np.float32))
    normalizer = Normalizer.of_range([one, two])
    # a constant channel keeps its unit
    assert (normalizer.offset, normalizer.scale) == ((-10.0, 5.0), (40.0, 1.0))
    features = normalizer.features(batch_of(one, two))
    assert features.amin((0, 1)).tolist() == [0.0, 0.0]
    assert features.amax((0, 1)).tolist() == [1.0, 0.0]


def test_missing_values_are_left_out_of_the_range_and_become_zero() -> None:
    values = np.array([[1.0, 7.0], [99.0, 9.0], [3.0, 8.0]], np.float32)
    valid = np.array([[True, True], [False, True], [True, True]])
    absent = Signal("absent", np.zeros((3, 2), np.float32), valid=np.zeros((3, 2), bool))
    signal = Signal("some", values, valid=valid)
    normalizer = Normalizer.of_range([absent, signal])
    assert (normalizer.offset, normalizer.scale) == ((1.0, 7.0), (2.0, 2.0))
    assert normalizer.features(batch_of(signal))[0].tolist() == [[0.0, 0.0], [0.0, 1.0], [1.0, 0.5]]


def test_a_channel_without_any_value_is_refused() -> None:
    hollow = Signal("hollow", np.zeros((2, 2), np.float32), valid=np.array([[True, False]] * 2))
    with pytest.raises(InputError, match="every channel"):
        Normalizer.of_range([hollow])
    with pytest.raises(InputError, match="every channel"):
        Normalizer.of_range([])


@given(offset=st.floats(-1e3, 1e3), scale=st.floats(1e-2, 1e3))
def test_values_come_back_from_features(offset: float, scale: float) -> None:
    values = np.linspace(offset, offset + scale, 8, dtype=np.float32).reshape(4, 2)
    normalizer = Normalizer((offset, offset), (scale, scale))
    back = normalizer.values(normalizer.features(batch_of(Signal("a", values))))[0].numpy()
    # float32 at the size of the offset
    np.testing.assert_allclose(back, values, rtol=1e-5, atol=2e-7 * (abs(offset) + scale))


@given(size=st.integers(1, 5000), tile=st.integers(1, 600))
def test_cuts_are_the_fewest_near_equal_pieces(size: int, tile: int) -> None:
    pieces = cuts(size, tile)
    lengths = [stop - start for start, stop in pieces]
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
    assert pieces[-1][1] == size
    assert len(pieces) == -(-size // tile)
    assert 1 <= min(lengths) <= max(lengths) <= tile
    assert max(lengths) - min(lengths) <= 1


def test_tiles_partition_an_image_in_row_major_order() -> None:
    values = np.arange(20 * 33 * 2).reshape(20, 33, 2)
    signal = Signal("key", values, 255.0, values % 3 > 0, label=7, attributes={"a": 1})
    tiles = list(tiles_of(signal, 16))
    assert [tile.signal.key for tile in tiles] == [f"key#{row},{column}" for row in range(2) for column in range(3)]
    joined, mask = np.full_like(values, -1), np.zeros(values.shape, bool)
    for tile in tiles:
        (top, left), (height, width) = tile.origin, tile.signal.shape
        part = np.s_[top : top + height, left : left + width]
        assert (joined[part] == -1).all(), "tiles do not overlap"
        joined[part], mask[part] = tile.signal.values, tile.signal.valid
        assert tile.item.shape == (20, 33)
        assert (tile.signal.label, tile.signal.peak, tile.signal.attributes) == (7, 255.0, {"a": 1})
    assert np.array_equal(joined, values)
    assert np.array_equal(mask, signal.valid)


@pytest.mark.parametrize("tile", [None, 32, 40])
def test_what_is_no_larger_than_a_tile_stays_whole(tile: int | None) -> None:
    signal = Signal("key#1", np.zeros((32, 20, 3), np.uint8), 255.0)
    (only,) = tiles_of(signal, tile)
    assert only.signal is signal
    assert (only.origin, only.item.shape) == ((0, 0), (32, 20))
