"""Intervals against brute force, against SciPy, and against how scores truly vary on ground that is alike nearby."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, mean_absolute_error, r2_score

from fusion.evaluation import score
from fusion.evaluation.intervals import bootstrap, sample_sums, score_intervals, scores_of_sums


def samples(task, count=60, classes=4, seed=0):
    """Targets, guesses that are right in about 60 %, and uneven blocks of 1 to 12 samples."""
    rng = np.random.default_rng(seed)
    if task == "regression":
        target = rng.normal(300, 5, (count, 2))
        guess = target + rng.normal(0, 2, (count, 2))
    elif task == "multilabel":
        target = rng.integers(0, 2, (count, classes))
        guess = np.where(rng.random(target.shape) < 0.7, target, 1 - target)
    else:
        target = rng.integers(0, classes - 1, count)  # the last class is never there
        guess = np.where(rng.random(count) < 0.6, target, rng.integers(0, classes, count))
    return target, guess, np.sort(rng.integers(0, 9, count))


def everything(task, target, guess, blocks=None, **how):
    classes = target.shape[1] if target.ndim == 2 else 4
    return score_intervals(task, sample_sums(task, target, guess, classes), blocks, **how)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_sums_give_the_scores_of_the_samples(task):
    target, guess, _ = samples(task)
    found = everything(task, target, guess).scores
    for name, value in score(task, target, guess).items():
        assert found[name].value == pytest.approx(value, rel=1e-12)
    if task == "multiclass":
        assert found["miou"].value == pytest.approx(jaccard_score(target, guess, average="macro"))
        everyone = f1_score(target, guess, labels=range(4), average="macro", zero_division=0.0)
        assert found["macro_f1_all"].value == pytest.approx(everyone)


@pytest.mark.parametrize("blocked", [True, False])
@pytest.mark.parametrize(
    ("task", "name", "plainly"),
    [
        ("multiclass", "accuracy", accuracy_score),
        ("multiclass", "macro_f1", lambda t, p: f1_score(t, p, average="macro")),
        ("multiclass", "miou", lambda t, p: jaccard_score(t, p, average="macro")),
        ("multilabel", "weighted_f1", lambda t, p: f1_score(t, p, average="weighted", zero_division=0.0)),
        ("multilabel", "micro_f1", lambda t, p: f1_score(t, p, average="micro")),
        ("regression", "r2", r2_score),
        ("regression", "mae", mean_absolute_error),
    ],
)
def test_intervals_from_sums_are_those_of_scoring_every_draw_anew(task, name, plainly, blocked):
    target, guess, blocks = samples(task)
    blocks = blocks if blocked else None
    fast = everything(task, target, guess, blocks, draws=80, seed=3).scores[name]
    slow = bootstrap(lambda rows: plainly(target[rows], guess[rows]), len(target), blocks, draws=80, seed=3)
    assert [fast.value, fast.low, fast.high] == pytest.approx([slow.value, slow.low, slow.high], rel=1e-9)


def test_the_order_of_samples_and_the_names_of_blocks_change_nothing():
    target, guess, blocks = samples("multiclass")
    order = np.random.default_rng(1).permutation(len(target))
    names = np.array([f"block {b}" for b in blocks])
    first = everything("multiclass", target, guess, blocks)
    second = everything("multiclass", target[order], guess[order], names[order])
    assert first == second


def test_single_samples_give_the_percentile_interval_of_scipy():
    target, guess, _ = samples("multiclass", count=200)
    theirs = scipy_bootstrap(
        ((target == guess).astype(float),), np.mean, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    ours = everything("multiclass", target, guess, draws=20_000).scores["accuracy"]
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.006)  # one sample is 0.005


def alike(seed, blocks=25, each=20):
    """A guess that is right or wrong in a whole block alike."""
    rng = np.random.default_rng(seed)
    right = np.repeat(rng.random(blocks), each) > rng.random(blocks * each) * 0.3 + 0.2
    target = rng.integers(0, 4, blocks * each)
    return target, np.where(right, target, (target + 1) % 4), np.repeat(np.arange(blocks), each)


def test_blocks_whose_samples_are_alike_give_a_wider_interval_that_holds_what_it_says():
    """On 200 draws of new ground about 95 % of the intervals by blocks hold the true accuracy, and far fewer others."""
    truth = np.mean([np.equal(*alike(10_000 + seed)[:2]).mean() for seed in range(500)])
    held = {True: 0, False: 0}
    for seed in range(200):
        target, guess, blocks = alike(seed)
        widths = {}
        for known in held:
            found = everything("multiclass", target, guess, blocks if known else None, draws=300).scores["accuracy"]
            held[known] += found.low <= truth <= found.high
            widths[known] = found.high - found.low
        assert widths[True] > 1.5 * widths[False]
    assert 0.88 < held[True] / 200 <= 0.99
    assert held[False] / 200 < 0.75


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    target, guess, blocks = samples("multiclass")
    first, again, other = (everything("multiclass", target, guess, blocks, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.scores["macro_f1"].low != other.scores["macro_f1"].low


def test_many_samples_are_drawn_in_parts_without_changing_the_draws(monkeypatch):
    from fusion.evaluation import intervals

    target, guess, _ = samples("multiclass")
    whole = everything("multiclass", target, guess, draws=50)
    monkeypatch.setattr(intervals, "_HELD", 60 * 7)  # seven draws a part
    assert everything("multiclass", target, guess, draws=50) == whole


def test_several_predictions_of_the_same_samples_have_the_interval_of_their_mean():
    target, first, blocks = samples("multiclass")
    second = np.roll(first, 1)
    sums = [sample_sums("multiclass", target, guess, 4) for guess in (first, second)]
    found = score_intervals("multiclass", sums, blocks, draws=60).scores["accuracy"]
    slow = bootstrap(
        lambda rows: np.mean([(target[rows] == guess[rows]).mean() for guess in (first, second)]), 60, blocks, draws=60
    )
    assert [found.value, found.low, found.high] == pytest.approx([slow.value, slow.low, slow.high])


def test_few_blocks_give_no_interval_and_say_so():
    target, guess, blocks = samples("multiclass")
    found = everything("multiclass", target, guess, blocks % 4)
    assert found.scores["accuracy"].value == accuracy_score(target, guess)
    assert np.isnan([found.scores["accuracy"].low, found.scores["macro_f1"].high]).all()
    assert found.note == "No interval: 4 blocks of ground are too few to tell how scores vary; 5 or more are wanted."
    assert str(found.scores["accuracy"]) == f"{accuracy_score(target, guess):.3f}"
    assert np.isnan(bootstrap(len, 60, blocks % 4).low)


def test_the_note_says_whether_samples_were_drawn_by_blocks():
    target, guess, blocks = samples("multiclass")
    by_block, single = everything("multiclass", target, guess, blocks), everything("multiclass", target, guess)
    assert by_block.note == "In parentheses the 95 % interval of 1000 bootstrap draws of the 9 blocks of ground."
    assert "of the 60 tiles, one by one: no blocks of ground are known" in single.note
    assert (by_block.known, by_block.blocks, single.known, single.blocks) == (True, 9, False, 60)


def test_an_interval_is_printed_beside_its_score():
    target, guess, blocks = samples("multiclass")
    found = everything("multiclass", target, guess, blocks).scores["macro_f1"]
    assert str(found) == f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def test_draws_without_a_score_are_left_out():
    target = np.array([[0.0]] * 5 + [[1.0]])  # a third of the draws have the same target throughout, and no R2
    found = everything("regression", target, target + 0.1).scores["r2"]
    assert found.low <= found.value <= found.high
    constant = everything("regression", np.ones((9, 1)), np.ones((9, 1))).scores["r2"]
    assert np.isnan([constant.value, constant.low]).all()


def test_a_set_without_any_class_has_no_score():
    empty = scores_of_sums("multiclass", np.zeros((1, 4, 3)))
    assert np.isnan([empty["macro_f1"], empty["accuracy"], empty["miou"]]).all()


def test_what_does_not_fit_is_refused():
    sums = sample_sums("multiclass", np.array([0, 1]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="blocks of 3 samples for 2"):
        score_intervals("multiclass", sums, [1, 2, 3])
    with pytest.raises(ValueError, match="0 draws"):
        score_intervals("multiclass", sums, draws=0)
    with pytest.raises(ValueError, match="level 95"):
        score_intervals("multiclass", sums, level=95)
    with pytest.raises(ValueError, match="0 samples"):
        score_intervals("multiclass", sums[:0])
    with pytest.raises(ValueError, match="sums of the same samples wanted"):
        score_intervals("multiclass", [sums, sums[:1]])
