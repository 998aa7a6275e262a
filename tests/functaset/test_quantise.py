import numpy as np
import pytest

from functaconv.functaset import Bits, Quantiser


@pytest.fixture
def latents() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(7, 2, 3, 4)).astype(np.float32)


def test_float32_comes_back_as_it_was(latents: np.ndarray) -> None:
    quantiser = Quantiser("float32")
    assert np.array_equal(quantiser.dequantise(quantiser.quantise(latents)), latents)


def test_float16_is_rounded_to_the_nearest(latents: np.ndarray) -> None:
    quantiser = Quantiser("float16")
    stored = quantiser.quantise(latents)
    assert stored.dtype == np.float16
    np.testing.assert_allclose(quantiser.dequantise(stored), latents, rtol=2**-11, atol=2**-24)


def test_codes_are_off_by_half_a_step_at_most(latents: np.ndarray) -> None:
    low, high = latents.min(axis=(0, 1, 2)), latents.max(axis=(0, 1, 2))
    quantiser = Quantiser.for_range(low, high)
    stored = quantiser.quantise(latents)
    assert stored.dtype == np.uint8
    assert stored.min() == 0
    assert stored.max() == 255
    found = quantiser.dequantise(stored)
    assert found.dtype == np.float32
    assert quantiser.scale is not None
    # half a step, and the rounding of float32 on top
    assert (np.abs(found - latents) <= quantiser.scale * 0.5 + 1e-6).all()


def test_codes_of_codes_are_the_same(latents: np.ndarray) -> None:
    quantiser = Quantiser.for_range(np.full(4, -3.0), np.full(4, 3.0))
    stored = quantiser.quantise(latents)
    assert np.array_equal(quantiser.quantise(quantiser.dequantise(stored)), stored)


def test_what_is_out_of_range_gets_the_code_at_the_end() -> None:
    quantiser = Quantiser.for_range(np.array([-1.0]), np.array([1.0]))
    stored = quantiser.quantise(np.array([[-9.0], [9.0]], np.float32))
    assert stored.ravel().tolist() == [0, 255]


def test_a_latent_that_never_varies_keeps_its_value() -> None:
    quantiser = Quantiser.for_range(np.array([0.25]), np.array([0.25]))
    value = np.array([[0.25]], np.float32)
    assert np.array_equal(quantiser.dequantise(quantiser.quantise(value)), value)


@pytest.mark.parametrize("bits", ["float16", "float32", "8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_item_with_nan_or_infinity_does_not_fit(bits: Bits, bad: float) -> None:
    quantiser = Quantiser.for_range(np.zeros(2), np.ones(2)) if bits == "8" else Quantiser(bits)
    latents = np.zeros((3, 2, 2), np.float32)
    latents[1, 0, 1] = bad
    assert quantiser.fits(latents).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"items \[1\]"):
        quantiser.quantise(latents)


def test_what_float16_makes_infinite_does_not_fit() -> None:
    latents = np.array([[65504.0], [65520.0], [-1e6]], np.float32)
    assert Quantiser("float16").fits(latents).tolist() == [True, False, False]
    assert Quantiser("float32").fits(latents).all()
    assert np.isfinite(Quantiser("float16").quantise(latents[:1])).all()


@pytest.mark.parametrize("bits", ["float16", "float32"])
def test_no_items_are_no_problem(bits: Bits) -> None:
    empty = np.empty((0, 2, 4), np.float32)
    assert Quantiser(bits).quantise(empty).shape == empty.shape
    assert Quantiser(bits).fits(empty).shape == (0,)


def test_a_quantiser_that_makes_no_sense_is_refused() -> None:
    ones = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="positive scale"):
        Quantiser("8", scale=-ones, offset=ones)
    with pytest.raises(ValueError, match="need a scale"):
        Quantiser("8")
    with pytest.raises(ValueError, match="no scale"):
        Quantiser("float16", scale=ones, offset=ones)
    with pytest.raises(ValueError, match="finite"):
        Quantiser("8", scale=ones * np.float32(np.nan), offset=ones)
