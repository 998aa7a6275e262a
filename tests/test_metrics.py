"""Measures of loss."""

import math

import numpy as np
import pytest

from functaconv.metrics import mse_of, psnr


def test_psnr_is_ten_decibels_per_factor_of_ten() -> None:
    for mse, decibel in [(1.0, 0.0), (0.1, 10.0), (0.01, 20.0), (1e-4, 40.0), (4.0, -6.0206)]:
        assert float(psnr(mse)) == pytest.approx(decibel, abs=1e-4)


def test_psnr_of_a_perfect_item_is_infinite_and_of_many_items_an_array() -> None:
    found = psnr(np.array([0.0, 0.5, np.nan], np.float32))
    assert found.dtype == np.float64
    assert found[0] == math.inf
    assert math.isnan(found[2])


def test_mse_is_in_units_of_the_peak() -> None:
    original = np.array([[0, 255], [128, 64]], np.uint8)
    assert mse_of(original, original, peak=255) == 0
    assert mse_of(original.astype(float) + 51, original, peak=255) == pytest.approx(0.04)
    # unsigned codes do not wrap around
    assert mse_of(np.zeros(4, np.uint8), np.ones(4, np.uint8)) == 1


def test_mse_counts_valid_values_only() -> None:
    original, found = np.zeros((2, 3, 2)), np.ones((2, 3, 2))
    found[0] = 1e6
    valid = np.array([False, True])[:, None, None]
    assert mse_of(found, original, valid=valid) == 1
    found[0] = np.nan
    assert mse_of(found, original, valid=valid) == 1
    assert math.isnan(mse_of(found, original, valid=np.zeros((2, 3, 2), bool)))
