import numpy as np
import pytest

from fusion.embed import NODATA, decode, encode, unit


def test_codes_follow_the_published_mapping():
    # v = 51: (51 / 127.5)^2 = 0.16 exactly
    assert encode(np.array([0.16, -0.16, 0.0, 1.0, -1.0])).tolist() == [51, -51, 0, 127, -127]
    np.testing.assert_allclose(decode(np.array([51, -51, 0, 127], np.int8)), [0.16, -0.16, 0, (127 / 127.5) ** 2])


def test_every_code_survives_decoding_and_encoding():
    codes = np.arange(-128, 128).astype(np.int8)
    assert (encode(decode(codes)) == codes).all()


def test_missing_stays_missing():
    assert encode(np.array([np.nan, 0.5]))[0] == NODATA
    assert np.isnan(decode(np.array([NODATA], np.int8))).all()
    assert np.isnan(unit(np.full((2, 3), np.nan))).all()


def test_cosines_survive():
    vectors = unit(np.random.default_rng(0).normal(size=(500, 64)))
    stored = unit(decode(encode(vectors)))
    assert (vectors * stored).sum(-1).min() > 0.999


def test_zero_vector_has_no_direction():
    assert (unit(np.zeros((1, 4))) == 0).all()


def test_vectors_that_are_not_unit_are_refused():
    with pytest.raises(ValueError, match=r"reach 3.*unit"):
        encode(np.array([3.0, 0.0]))
    with pytest.raises(TypeError, match="uint8"):
        decode(np.array([3], np.uint8))
