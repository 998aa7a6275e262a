"""Items as signals, signals as batches, records as signals."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functaconv.data.items import Item, Record
from functaconv.errors import ItemError, UsageError
from functaconv.modalities import Axes
from functaconv.modalities.reading import Reading
from functaconv.signals.batch import Batch, batched
from functaconv.signals.signal import Signal

from ..conftest import npy, png


def image(*shape: int, dtype: type = np.uint8) -> Item:
    return Item("key", np.zeros(shape, dtype), "image", 255.0)


def array(*shape: int) -> Item:
    return Item("key", np.zeros(shape, np.float32), "array")


def test_axes_are_read_off_the_first_items() -> None:
    for items, channel_axis, expected in [
        ([image(8, 8, 1), image(8, 8, 1)], "auto", Axes("image", 2, 1)),
        ([image(8, 8, 1), image(9, 7, 3)], "auto", Axes("image", 2, 3)),
        ([image(8, 8, 1, dtype=np.uint16)], "auto", Axes("image", 2, 1, itemsize=2)),
        ([array(100)], "auto", Axes("array", 1, 1, "none", 4)),
        ([array(8, 100)], "auto", Axes("array", 2, 1, "none", 4)),
        ([array(8, 100, 2)], "auto", Axes("array", 2, 2, "last", 4)),
        ([array(8, 10, 12)], "auto", Axes("array", 3, 1, "none", 4)),
        ([array(8, 8, 8, 5)], "auto", Axes("array", 3, 5, "last", 4)),
        ([array(2, 8, 10)], "first", Axes("array", 2, 2, "first", 4)),
        ([array(100, 7)], "last", Axes("array", 1, 7, "last", 4)),
        ([array(4, 4, 4)], "none", Axes("array", 3, 1, "none", 4)),
    ]:
        assert Axes.of(items, channel_axis) == expected


@pytest.mark.parametrize(("item", "channel_axis"), [(array(5), "last"), (array(1, 2, 3, 4), "none")])
def test_axes_that_leave_no_grid_or_too_large_a_one_are_refused(item: Item, channel_axis: str) -> None:
    with pytest.raises(UsageError, match="grid axes"):
        Axes.of([item], channel_axis)


def test_a_signal_has_its_channels_last_and_keeps_what_travels_along() -> None:
    first = Item("key", np.arange(24.0).reshape(2, 3, 4), "array", label=5, attributes={"a": 1})
    signal = Axes("array", 2, 2, "first").signal(first)
    assert signal.shape == (3, 4)
    assert np.array_equal(signal.values[..., 1], first.array[1])
    assert (signal.key, signal.label, signal.attributes, signal.valid) == ("key", 5, {"a": 1}, None)
    assert Axes("array", 1, 1, "none").signal(array(6)).values.shape == (6, 1)


def test_values_that_are_not_finite_are_missing() -> None:
    item = Item("key", np.array([1.0, np.nan, np.inf], np.float32), "array")
    signal = Axes("array", 1, 1, "none").signal(item)
    assert signal.valid is not None
    assert signal.valid[:, 0].tolist() == [True, False, False]
    assert np.isfinite(signal.values).all()


def test_an_item_that_does_not_fit_says_why() -> None:
    for item, axes, reason in [
        (image(8, 8, 3), Axes("array", 2, 3), "is an image"),
        (image(8, 8, 3), Axes("image", 2, 1), "1 channels"),
        (array(8, 8), Axes("array", 2, 3), "2 grid axes"),
        (array(8), Axes("array", 2, 1, "none"), "2 grid axes"),
        (Item("k", np.full(3, np.nan, np.float32), "array"), Axes("array", 1, 1, "none"), "missing"),
    ]:
        with pytest.raises(ItemError, match=reason):
            axes.signal(item)


def signals(shapes: list[int]) -> Iterator[tuple[int, Signal]]:
    for position, size in enumerate(shapes):
        yield position, Signal(str(position), np.full((size, 1), position, np.float32))


@given(shapes=st.lists(st.integers(1, 4), max_size=40), size=st.integers(1, 9))
def test_batching_drops_nothing_and_keeps_the_order_within_a_shape(shapes: list[int], size: int) -> None:
    batches = list(batched(signals(shapes), size))
    assert sorted(p for batch in batches for p in batch.positions) == list(range(len(shapes)))
    for length in set(shapes):
        of_one = [batch for batch in batches if batch.shape == (length,)]
        positions = [p for batch in of_one for p in batch.positions]
        assert positions == [p for p, s in enumerate(shapes) if s == length]
        assert all(len(batch) == size for batch in of_one[:-1])
        assert all(batch.values.shape == (len(batch), length, 1) for batch in of_one)
        assert all(batch.values[:, 0, 0].tolist() == list(batch.positions) for batch in of_one)


@given(shapes=st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_the_buffer_of_waiting_signals_is_bounded(shapes: list[int]) -> None:
    most, taken = 200, 0

    def counted() -> Iterator[tuple[int, Signal]]:
        nonlocal taken
        for position, signal in signals(shapes):
            taken += signal.values.nbytes
            yield position, signal

    given_out = 0
    for batch in batched(counted(), 1000, most_bytes=most):
        # what is held before this batch goes: the bound and the one signal that broke it
        assert taken - given_out <= most + 4 * max(shapes)
        given_out += batch.values.nbytes
    assert given_out == sum(4 * shape for shape in shapes)


def test_types_are_not_mixed_in_a_batch() -> None:
    mixed = [Signal("a", np.zeros((2, 1), np.uint8), 255.0), Signal("b", np.zeros((2, 1), np.uint16), 65535.0)]
    assert [batch.positions for batch in batched(enumerate(mixed), 8)] == [(0,), (1,)]


def test_a_batch_with_one_masked_signal_has_masks_for_all() -> None:
    masked = Signal("a", np.zeros((2, 1)), valid=np.array([[True], [False]]))
    batch = Batch.of([masked, Signal("b", np.ones((2, 1)))], [4, 9])
    assert batch.valid is not None
    assert batch.valid[..., 0].tolist() == [[True, False], [True, True]]
    assert (batch.positions, len(batch), batch.peaks) == ((4, 9), 2, None)


def record(**fields: bytes) -> Record:
    return Record(0, 0, "key", fields)


RGB = Reading(Axes("image", 2, 3))


def test_reading_converts_images_to_the_channels_of_the_base() -> None:
    signal = RGB.signal(record(png=png(0, (4, 6), 1), cls=b"3"))
    assert signal is not None
    assert (signal.values.shape, signal.peak, signal.label) == ((4, 6, 3), 255, 3)
    gray = Reading(Axes("image", 2, 1)).signal(record(png=png(0, (4, 6), 3)))
    assert gray is not None
    assert gray.values.shape == (4, 6, 1)


def test_a_record_without_a_usable_field_is_no_signal_and_no_error() -> None:
    assert RGB.signal(record(txt=b"words")) is None
    assert RGB.tiles(record(txt=b"words")) == ()
    assert Reading(RGB.axes, field="jpg").signal(record(png=png(0, (4, 4)))) is None


@pytest.mark.parametrize(
    "bad",
    [
        record(png=b"no image"),
        record(npy=npy(np.zeros((4, 4, 3)))),
        Record(0, 0, "key", {}, "too large"),
        record(npy=npy(np.zeros((4, 4))), json=b"{"),
    ],
)
def test_a_bad_record_is_an_item_error(bad: Record) -> None:
    with pytest.raises(ItemError):
        RGB.signal(bad)


def test_reading_cuts_tiles() -> None:
    tiles = Reading(RGB.axes, tile=8).tiles(record(png=png(0, (12, 8))))
    assert [tile.signal.shape for tile in tiles] == [(6, 8), (6, 8)]
