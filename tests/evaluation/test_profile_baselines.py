"""Series of places predicted without any network."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.evaluation.profile_baselines import forest_profiles, mean_profile, ridge_profiles


@pytest.fixture
def places() -> tuple[np.ndarray, np.ndarray]:
    """Two numbers a place, and its profile (N, C, T), linear in the first of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    return x, x[:, :1, None] * np.array([1.0, -2.0, 0.5]) + np.array([3.0, 0.0, 1.0])


def test_the_mean_profile_leaves_out_what_is_missing(places):
    _, profile = places
    profile = profile.copy()
    profile[0, 0, 1] = np.nan
    found = mean_profile(profile, 5)
    assert found.shape == (5, 1, 3)
    np.testing.assert_allclose(found[4, 0, 1], profile[1:, 0, 1].mean())


@pytest.mark.parametrize(("method", "error"), [(ridge_profiles, 0.01), (forest_profiles, 0.6)])
def test_regressions_learn_every_date_at_once(places, method, error):
    x, profile = places
    given = profile[:60].copy()
    given[::7, 0, 2] = np.nan  # filled with the date's mean
    found = method(x[:60], given, x[60:])
    assert found.shape == (20, 1, 3)
    off, of_the_mean = (np.abs(guess - profile[60:])[:, 0, :2].mean() for guess in (found, mean_profile(given, 20)))
    assert off < error * of_the_mean


def test_missing_inputs_take_the_training_mean(places):
    x, profile = places
    unseen = np.array([[np.nan, 0.0]])
    np.testing.assert_allclose(ridge_profiles(x, profile, unseen), ridge_profiles(x, profile, x.mean(0)[None] * [1, 0]))
