"""Controls by Gaussian processes: a plane they extend, a bump they follow, and gaps they bridge."""

import numpy as np

from fusion.evaluation.profile_baselines import kriging_profiles, ridge_profiles
from fusion.evaluation.regressors import gaussian_process, ridge


def test_a_gaussian_process_follows_what_a_plane_cannot_and_extends_what_it_can():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 2))
    bent = x[:, 0] + 2 * np.cos(1.5 * x[:, 1])
    for target, better in ((bent, 0.5), (x[:, 0] - x[:, 1], 1.5)):
        noisy = target[:120] + 0.1 * rng.normal(size=120)
        errors = [
            np.sqrt(np.mean((made.fit(x[:120], noisy).predict(x[120:]) - target[120:]) ** 2))
            for made in (gaussian_process(0.05, 0.7), ridge())
        ]
        assert errors[0] < better * errors[1] + 0.05


def test_inputs_that_are_missing_take_the_mean_of_the_training_rows():
    x = np.random.default_rng(1).normal(size=(40, 3))
    made = gaussian_process().fit(x, x[:, 0])
    gap, mean = np.array([[1.0, np.nan, 0.0]]), np.array([[1.0, x[:, 1].mean(), 0.0]])
    np.testing.assert_allclose(made.predict(gap), made.predict(mean))


def test_kriging_knows_what_neighbours_share_beyond_the_plane():
    rng = np.random.default_rng(2)
    place = rng.uniform(0, 1, (80, 3))
    level = 3 * place[:, 2] + np.sin(9 * place[:, 0])
    profile = (level[:, None] + 10 * np.sin(np.arange(12) / 2))[:, None]  # (N, 1, 12)
    profile += 0.05 * rng.normal(size=profile.shape)
    missing = profile.copy()
    missing[3, 0, :6] = np.nan  # a place of which half a year is known
    rows = (place[:60], missing[:60], place[60:])
    errors = [np.sqrt(np.mean((f(*rows) - profile[60:]) ** 2)) for f in (kriging_profiles, ridge_profiles)]
    assert errors[0] < 0.4 * errors[1]
    assert kriging_profiles(*rows).shape == (20, 1, 12)
