"""Controls answer for rare classes as the networks do that they stand beside."""

import numpy as np
import pytest

from fusion.evaluation.controls import Described, _fit, _held_out, strongest
from fusion.evaluation.fold_search import macro_f1
from fusion.evaluation.logit_adjustment import ADJUSTMENTS, Adjusted, log_shares
from fusion.evaluation.penalties import folds_of


class Same:
    """Gives the probabilities that it is asked about."""

    def predict_proba(self, x):
        return x


def test_an_adjusted_answer_is_the_likeliest_class_if_all_were_as_frequent():
    labels = np.array(["a"] * 8 + ["b"] * 2)
    found = Adjusted(Same(), labels).answers(np.array([[0.7, 0.3], [0.9, 0.1]]), [0.0, 0.5, 1.0])
    assert ["".join(one) for one in found] == ["aa", "aa", "ba"]  # 0.7 / 0.8 < 0.3 / 0.2; 0.9 / 0.8 > 0.1 / 0.2
    assert Adjusted(Same(), labels, 1.0).predict(np.array([[0.7, 0.3]])).tolist() == ["b"]
    assert Adjusted(Same(), labels, 1.0).predict(np.array([[1.0, 0.0]])).tolist() == ["a"]


def test_shares_are_of_classes_that_occur_and_columns_that_never_vary_keep_their_logit():
    np.testing.assert_allclose(log_shares(np.array([0, 0, 0, 1])), np.log([0.75, 0.25]))
    np.testing.assert_allclose(log_shares(np.array([0, 0, 1, 2])), np.log([0.5, 0.25, 0.25]))
    several = np.array([[0, 1, 0], [0, 1, 1], [0, 1, 1], [0, 1, 1]])
    np.testing.assert_allclose(log_shares(several), [0, 0, np.log(3)])


def test_the_adjustment_of_a_control_is_that_which_held_out_ground_prefers():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 600, p=[0.7, 0.24, 0.06])
    x = rng.normal(size=(600, 6)) + 1.2 * np.eye(3)[y].repeat(2, axis=1)
    folds = folds_of("multiclass", y, 0)[:3]
    value, part = _held_out(x, "random forest", "multiclass", y, None, folds, 0)
    answers = [_fit("random forest", x[fit], "multiclass", y[fit], None, 0).answers(x[asked]) for fit, asked in folds]
    target = np.concatenate([y[asked] for _, asked in folds])
    by_part = [macro_f1(target, np.concatenate(own)) for own in zip(*answers, strict=True)]
    assert value == pytest.approx(max(by_part))
    assert part == ADJUSTMENTS[int(np.argmax(by_part))] > 0  # of the likeliest classes hardly any is the rare one
    found = strongest({"values": Described(x)}, "multiclass", y)
    assert found.held_out["random forest on values"] == pytest.approx(value)
    if found.method != "linear classifier":
        assert found.fitted.adjustment in ADJUSTMENTS
