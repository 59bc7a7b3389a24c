"""Intervals of predicted quantities: the quantile, the bins, what they hold of samples that were not seen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fusion.training.conformal import ConformalInterval, fewest_residuals


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, and true values whose error grows with the prediction."""
    rng = np.random.default_rng(seed)
    prediction = rng.uniform(0, 100, count)
    return prediction, prediction + rng.normal(0, 1 + 0.3 * prediction)


def test_the_width_is_the_residual_of_its_rank():
    residuals = np.arange(1, 20)  # 19: rank ceil(20 x 0.9) = 18
    found = ConformalInterval.fit(np.zeros(19), residuals * np.array([1, -1] * 9 + [1]), 0.9)
    assert (found.edges, found.widths, found.counts) == ((), (18.0,), (19,))
    assert ConformalInterval.fit(np.zeros(19), residuals, 0.5).widths == (10.0,)
    assert ConformalInterval.fit(np.zeros(9), np.arange(9), 0.9).widths == (8.0,)  # the largest


def test_it_takes_as_many_residuals_as_make_the_rank_exist():
    assert [fewest_residuals(level) for level in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    with pytest.raises(ValueError, match="8 residuals are too few for a level of 90%, which takes 9"):
        ConformalInterval.fit(np.zeros(8), np.arange(8), 0.9)


def test_it_holds_new_samples_as_often_as_asked_in_every_bin_and_is_wider_where_errors_are():
    found = ConformalInterval.fit(*samples(4000, 0), 0.9)
    assert len(found.widths) == 10
    assert set(found.counts) == {400}
    assert found.widths[-1] > 4 * found.widths[0]
    prediction, target = samples(40_000, 1)
    held = np.abs(target - prediction) <= found.half_width(prediction)
    number = np.searchsorted(found.edges, prediction, side="right")
    for k in range(10):
        assert held[number == k].mean() == pytest.approx(0.9, abs=0.05), k
    assert held.mean() == pytest.approx(0.9, abs=0.015)
    single = ConformalInterval(0.9, (), (float(np.quantile(np.abs(np.subtract(*samples(4000, 0))), 0.9)),), (4000,))
    loose = np.abs(target - prediction) <= single.half_width(prediction)
    assert loose[number == 9].mean() < 0.75, "one width for all is too narrow where errors are large"


def test_over_many_draws_the_coverage_is_at_least_the_level():
    rng = np.random.default_rng(0)
    share = []
    for _ in range(400):
        found = ConformalInterval.fit(np.zeros(25), rng.standard_t(3, 25), 0.8)
        share.append((np.abs(rng.standard_t(3, 500)) <= found.widths[0]).mean())
    assert 0.8 <= np.mean(share) < 0.85  # between level and level + 1 / (n + 1), by theory


def test_bins_with_too_few_residuals_are_merged():
    few = ConformalInterval.fit(*samples(250, 0), 0.9)
    assert len(few.widths) == 2
    assert min(few.counts) >= 100
    alike = np.concatenate([np.zeros(950), np.linspace(1, 2, 150)])  # many equal predictions: quantiles coincide
    found = ConformalInterval.fit(alike, alike + np.random.default_rng(0).normal(size=1100), 0.9)
    assert sum(found.counts) == 1100
    assert min(found.counts) >= 100
    assert len(found.widths) == 2
    assert ConformalInterval.fit(np.full(1000, 3.0), np.arange(1000.0), 0.9).edges == ()


def test_values_beyond_those_calibrated_on_have_the_width_of_the_last_bin_and_nan_has_none():
    found = ConformalInterval(0.9, (10.0,), (1.0, 5.0), (100, 100))
    assert found.half_width(np.array([[-1e9, 9.99], [10.0, 1e9]])).tolist() == [[1, 1], [5, 5]]
    assert np.isnan(found.half_width(np.array([np.nan]))).all()


def test_it_comes_back_from_plain_types_and_refuses_what_is_none():
    found = ConformalInterval.fit(*samples(300, 0), 0.9)
    assert ConformalInterval.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(ValueError, match="not level, edges, widths and counts"):
        ConformalInterval.from_dict({"level": 0.9})
    for wrong in ((0.9, (2.0, 1.0), (1.0,) * 3, (9,) * 3), (1.5, (), (1.0,), (9,)), (0.9, (), (1.0, 2.0), (9, 9))):
        with pytest.raises(ValueError, match="ascending edges one fewer"):
            ConformalInterval(*wrong)
