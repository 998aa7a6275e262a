"""Every codec of the table keeps what its protocol promises; and what is particular to each."""

import numpy as np
import pytest

from functaconv.functaset.codecs import CODECS, Codec, EightBit

LATENT = 4


def made(name: str) -> Codec:
    """The codec for latents of deviation one."""
    return CODECS[name].for_latents(np.zeros(LATENT), np.ones(LATENT), is_canonical=False)


@pytest.fixture(params=sorted(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    return made(request.param)


@pytest.fixture
def latents() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(7, 2, 3, LATENT)).astype(np.float32)


def test_the_table_names_its_codecs() -> None:
    assert all(codec.name == name for name, codec in CODECS.items())


def test_latents_come_back_nearly(codec: Codec, latents: np.ndarray) -> None:
    stored = codec.encode(latents)
    assert (stored.shape, stored.dtype) == (latents.shape, codec.dtype)
    found = codec.decode(stored)
    assert (found.shape, found.dtype) == (latents.shape, np.float32)
    # a step of the coarsest, eight bits over nine deviations, is 0.035
    np.testing.assert_allclose(found, latents, atol=0.018)


def test_what_was_decoded_is_stored_as_it_was(codec: Codec, latents: np.ndarray) -> None:
    stored = codec.encode(latents)
    assert np.array_equal(codec.encode(codec.decode(stored)), stored)


def test_it_is_made_again_of_its_arrays(codec: Codec, latents: np.ndarray) -> None:
    again = type(codec)({name: codec.constants[name] for name in codec.vectors})
    stored = codec.encode(latents)
    assert np.array_equal(again.decode(stored), codec.decode(stored))
    for wrong in ({"more": np.ones(LATENT, np.float32)}, {name: np.ones(LATENT) for name in codec.vectors} or {"x": 1}):
        with pytest.raises(ValueError, match=r"arrays|float32"):
            type(codec)(wrong)  # type: ignore[arg-type]


def test_an_item_with_nan_or_infinity_does_not_fit(codec: Codec, latents: np.ndarray) -> None:
    for bad in [np.nan, np.inf, -np.inf]:
        latents[3, 1, 2, 0] = bad
        assert np.flatnonzero(~codec.fits(latents)).tolist() == [3]
        with pytest.raises(ValueError, match=r"items \[3\]: not finite"):
            codec.encode(latents)


def test_no_items_are_no_problem(codec: Codec) -> None:
    empty = np.zeros((0, LATENT), np.float32)
    assert codec.decode(codec.encode(empty)).shape == empty.shape


def test_half_precision_holds_no_large_numbers() -> None:
    latents = np.array([[65504.0], [65520.0], [-1e6]], np.float32)
    assert made("float16").fits(latents).tolist() == [True, False, False]
    assert np.isfinite(made("float16").encode(latents[:1])).all()
    assert made("float32").fits(latents).all()


def test_codes_are_off_by_half_a_step_at_most(latents: np.ndarray) -> None:
    codec = EightBit.for_range(latents.min(axis=(0, 1, 2)), latents.max(axis=(0, 1, 2)))
    stored = codec.encode(latents)
    assert (stored.min(), stored.max()) == (0, 255)
    # and the rounding of float32 on top
    assert (np.abs(codec.decode(stored) - latents) <= codec.scale * 0.5 + 1e-6).all()


def test_what_is_out_of_range_gets_the_code_at_the_end() -> None:
    codec = EightBit.for_range(np.array([-1.0]), np.array([1.0]))
    assert codec.encode(np.array([[-9.0], [9.0]], np.float32)).ravel().tolist() == [0, 255]


def test_a_latent_that_never_varies_keeps_its_value() -> None:
    codec = EightBit.for_range(np.array([0.25]), np.array([0.25]))
    assert codec.decode(codec.encode(np.array([[0.25]], np.float32))).item() == 0.25


def test_canonical_latents_have_a_common_step_but_for_the_widest() -> None:
    codec = EightBit.for_latents(np.zeros(4), np.array([8.0, 4.0, 1.0, 0.1]), is_canonical=True)
    np.testing.assert_allclose(codec.scale / codec.scale[-1], [4, 2, 1, 1], rtol=1e-6)


def test_a_step_of_nothing_is_refused() -> None:
    ones = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="positive scale"):
        EightBit({"latent_scale": -ones, "latent_offset": ones})
