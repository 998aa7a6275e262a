"""The numbers of a functaset."""

import json

import numpy as np
import pytest

from functaconv.summary import Items, Method, Size, raw_bytes, summarise

SIZE = Size(store=1000, base=300, raw=24000)


def summary_of(mse: list[float], **changes: object) -> dict[str, object]:
    options = {
        "failed": 1, "ignored": {".md": 2}, "method": Method("gradient", 3, (2, 2), 16),
        "size": SIZE, "items_per_second": 12.5, **changes,
    }  # fmt: skip
    return summarise(np.array(mse), **options)  # type: ignore[arg-type]


def test_the_headline_is_the_mean_of_the_items_psnr_not_the_psnr_of_their_mean() -> None:
    report = summary_of([0.1, 0.001])
    assert report["psnr"]["mean"] == 20.0  # type: ignore[index]
    assert report["psnr"]["min"] == 10.0  # type: ignore[index]
    assert report["psnr_of_mean_mse"] == pytest.approx(-10 * np.log10(0.0505), abs=1e-4)


def test_bytes_are_per_converted_item() -> None:
    assert summary_of([0.1] * 4)["bytes"] == {"store": 1000, "base": 300, "per_item": 250.0, "raw_per_item": 6000.0}


@pytest.mark.parametrize("mse", [[], [0.0], [0.0, 0.1]], ids=["no items", "perfect", "one perfect"])
def test_a_report_is_json_whatever_happened(mse: list[float]) -> None:
    report = summary_of(mse, items_per_second=None)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["count"] == len(mse)


def test_percentiles_are_ordered() -> None:
    quality = summary_of([10 ** -(n / 10) for n in range(101)])["psnr"]
    assert quality == {"mean": 50.0, "min": 0.0, "p5": 5.0, "p50": 50.0, "p95": 95.0}


def test_items_without_tiles_are_rows() -> None:
    items = Items.of(np.array(["a", "b"], object), np.array([[4, 5], [6, 7]], np.int32), None)
    assert len(items) == 2
    assert not items.is_tiled.any()
    assert items.mse(np.array([0.1, 0.2], np.float32)) == pytest.approx([0.1, 0.2])


def test_tiles_are_joined_to_items_weighted_by_their_points() -> None:
    keys = np.array(["a#0,0", "a#0,1", "b#x", "c#1#0,0", "c#1#1,0"], object)
    shapes = np.array([[4, 4], [4, 2], [3, 3], [2, 5], [1, 5]], np.int32)
    tiles = np.array([[0, 0, 4, 6], [0, 4, 4, 6], [0, 0, 3, 3], [0, 0, 3, 5], [2, 0, 3, 5]], np.int32)
    items = Items.of(keys, shapes, tiles)
    assert items.keys.tolist() == ["a", "b#x", "c#1"]
    assert items.first.tolist() == [0, 2, 3]
    assert items.rows.tolist() == [2, 1, 2]
    assert items.shape.tolist() == [[4, 6], [3, 3], [3, 5]]
    assert items.is_tiled.tolist() == [True, False, True]
    found = items.mse(np.array([0.3, 0.6, 0.1, 0.0, 0.9], np.float32))
    assert found == pytest.approx([(0.3 * 16 + 0.6 * 8) / 24, 0.1, 0.3])


@pytest.mark.parametrize("tiled", [False, True])
def test_no_items_are_no_items(tiled: bool) -> None:
    none = np.zeros((0, 2), np.int32)
    items = Items.of(np.zeros(0, object), none, np.zeros((0, 4), np.int32) if tiled else None)
    assert len(items) == 0
    assert len(items.mse(np.zeros(0, np.float32))) == 0


def test_raw_bytes_count_channels_and_the_type_of_the_values() -> None:
    shapes = np.array([[4, 5], [10, 10]])
    assert raw_bytes(shapes, 3, 1) == 360
    assert raw_bytes(shapes, 1, 4) == 480
    # beyond 2**31 points
    assert raw_bytes(np.array([[2**20, 2**20]]), 1, 1) == 2**40
