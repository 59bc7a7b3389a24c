"""Intervals over seeds and ground together: their parts, each where the other does not vary, and paired differences."""

import numpy as np
import pytest

from fusion.evaluation.intervals import Interval, sample_sums, score_intervals
from fusion.evaluation.seed_intervals import Sums, difference, draw_seeds, interval

BLOCKS = np.array([f"b{k}" for k in range(8)])


def regression(error: np.ndarray) -> Sums:
    """Eight blocks of one tile each, targets 0 to 7, with these errors of the prediction."""
    target = np.arange(8.0)
    return Sums(sample_sums("regression", target, target + error, 1)[None], BLOCKS)


def ends(found: Interval) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def test_of_one_seed_the_interval_is_that_of_the_blocks():
    row = regression(np.linspace(0, 2, 8))
    found = draw_seeds("regression", {"row": [[row]]}, seed=3)["row"]
    alone = score_intervals("regression", row.sums[0], BLOCKS, seed=3).scores["mae"]
    assert ends(interval(found, "mae")) == pytest.approx(ends(alone))
    assert alone.low < alone.value < alone.high


def test_seeds_that_agree_add_nothing_to_the_interval_of_the_blocks():
    row = regression(np.linspace(-1, 1, 8))
    three = draw_seeds("regression", {"row": [[row, row, row]]})["row"]
    one = draw_seeds("regression", {"row": [[row]]})["row"]
    assert ends(interval(three, "mae")) == pytest.approx(ends(interval(one, "mae")))


def test_blocks_that_are_alike_leave_the_interval_of_the_seeds():
    """Two seeds with errors 1 and 3 everywhere: a draw has the mean 1, 2 or 3, moved from 2 by the factor sqrt(2)."""
    found = draw_seeds("regression", {"row": [[regression(np.full(8, 1.0)), regression(np.full(8, 3.0))]]})["row"]
    assert found.values["mae"].tolist() == [[1.0, 3.0]]
    assert ends(interval(found, "mae")) == pytest.approx((2.0, 2 - 2**0.5, 2 + 2**0.5))
    assert set(np.round(found.draws["mae"], 6)) == {round(2 - 2**0.5, 6), 2.0, round(2 + 2**0.5, 6)}


def test_a_difference_leaves_out_what_both_rows_share():
    """The control is worse by 0.5 in every block, and blocks differ much: the difference is certain, the scores not."""
    errors = np.linspace(0.1, 4, 8)
    rows = {"row": [[regression(errors)]], "control": [[regression(errors + 0.5)]]}
    found = draw_seeds("regression", rows)
    apart = difference(found["row"], found["control"], "mae")
    assert ends(apart) == pytest.approx((-0.5, -0.5, -0.5))
    own = interval(found["row"], "mae")
    assert own.high - own.low > 1


def test_repetitions_are_averaged_and_each_has_ground_of_its_own():
    near, far = regression(np.full(8, 1.0)), Sums(regression(np.full(8, 3.0)).sums, np.char.add("other-", BLOCKS))
    found = draw_seeds("regression", {"row": [[near], [far]]})["row"]
    assert found.values["mae"].tolist() == [[1.0], [3.0]]
    assert ends(interval(found, "mae")) == pytest.approx((2.0, 2.0, 2.0))


def test_seeds_on_other_ground_are_drawn_apart():
    """Of the same ground, the mean of two seeds with opposite errors is 1 in every draw that has both, which is half of
    them; of other ground it is not."""
    up = np.linspace(0, 2, 8)
    same = draw_seeds("regression", {"row": [[regression(up), regression(2 - up)]]})["row"]
    elsewhere = Sums(regression(2 - up).sums, np.char.add("other-", BLOCKS))
    other = draw_seeds("regression", {"row": [[regression(up), elsewhere]]})["row"]
    shares = [np.isclose(found.draws["mae"], 1).mean() for found in (same, other)]
    assert shares[0] > 0.45
    assert shares[1] < 0.1


def test_draws_of_labels_are_averaged_within_a_seed():
    both = Sums(np.concatenate([regression(np.full(8, 1.0)).sums, regression(np.full(8, 2.0)).sums]), BLOCKS)
    found = draw_seeds("regression", {"row": [[both]]})["row"]
    assert found.values["mae"].tolist() == [[1.5]]


def test_few_blocks_have_no_interval():
    few = Sums(regression(np.ones(8)).sums[:, :4], BLOCKS[:4])
    found = draw_seeds("regression", {"row": [[few, few]]})["row"]
    assert np.isnan(interval(found, "mae").low)
    assert interval(found, "mae").value == 1.0


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match="no row, repetition or seed"):
        draw_seeds("regression", {})
