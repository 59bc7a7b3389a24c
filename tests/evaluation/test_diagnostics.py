"""Collapse is seen without labels."""

import numpy as np
import pytest

from fusion.evaluation import Features, diagnose, effective_rank, retrieval

RNG = np.random.default_rng(0)


def test_the_effective_rank_counts_directions():
    orthogonal = np.linalg.qr(RNG.normal(size=(200, 8)))[0]
    orthogonal = np.linalg.qr(orthogonal - orthogonal.mean(0))[0]  # centred columns of equal length
    assert effective_rank(orthogonal) == pytest.approx(8, abs=1e-6)
    assert effective_rank(orthogonal[:, :1] @ np.ones((1, 8)) + 5) == pytest.approx(1, abs=1e-6)
    assert effective_rank(np.full((10, 4), 3.0)) == 1
    assert effective_rank(orthogonal + 1e6) == pytest.approx(8, rel=1e-3)  # an offset is no direction
    with pytest.raises(ValueError, match=r"finite features with N >= 2 wanted, \(1, 4\) given"):
        effective_rank(np.ones((1, 4)))


def test_retrieval_of_the_same_places():
    a = RNG.normal(size=(50, 16))
    assert retrieval(a, 3 * a + 7) == 1
    assert retrieval(a, a[::-1]) < 0.2
    assert retrieval(a, a[::-1], top=50) == 1
    with pytest.raises(ValueError, match="the same places"):
        retrieval(a, a[:10])


def test_a_collapse_shows():
    spread = Features(RNG.normal(size=(100, 8)), None, tuple(map(str, range(100))))
    collapsed = Features(np.ones((100, 8)) + 1e-3 * RNG.normal(size=(100, 8)), None, spread.names)
    good, bad = diagnose(spread), diagnose(collapsed)
    assert good["effective_rank"] > 7
    assert abs(good["mean_cosine"]) < 0.05
    assert bad["mean_cosine"] > 0.99
    assert good["dimensions"] == 8
