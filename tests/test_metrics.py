"""Measures of loss."""

import math

import numpy as np
import pytest

from functaconv.metrics import psnr


def test_psnr_is_ten_decibels_per_factor_of_ten() -> None:
    for mse, decibel in [(1.0, 0.0), (0.1, 10.0), (0.01, 20.0), (1e-4, 40.0), (4.0, -6.0206)]:
        assert float(psnr(mse)) == pytest.approx(decibel, abs=1e-4)


def test_psnr_of_a_perfect_item_is_100_db_and_of_many_items_an_array() -> None:
    found = psnr(np.array([0.0, 0.5, np.nan], np.float32))
    assert found.dtype == np.float64
    assert found[0] == pytest.approx(100)
    assert math.isnan(found[2])
