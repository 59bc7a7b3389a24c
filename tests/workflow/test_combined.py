"""What a made-up result of two seeds becomes: means, spread, intervals, differences, sentences, expectations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fusion.commands.session import print_table
from fusion.evaluation.intervals import sample_sums
from fusion.evaluation.seed_intervals import Sums
from fusion.workflow.combined import Run, add_intervals, combined, derived, differences
from fusion.workflow.controls import against_controls, compared
from fusion.workflow.expectations import Expectation
from fusion.workflow.kept import Kept, KeptRow, read_kept, write_kept
from fusion.workflow.state import State

BLOCKS = np.array([f"b{k}" for k in range(8)])
TARGET = np.arange(8.0)


def run(pretrained: float, raw: float = 2.0, random: float = 4.0) -> Run:
    """A run whose rows are wrong by so much everywhere: that is their mean absolute error."""
    errors = {"pretrained": pretrained, "raw_best": raw, "random": random}
    sums = {name: sample_sums("regression", TARGET, TARGET + error, 1)[None] for name, error in errors.items()}
    r2 = {name: 1 - error**2 / TARGET.var() for name, error in errors.items()}
    group = {name: {"r2": r2[name], "mae": error} for name, error in errors.items()}
    rows = {name: KeptRow(Sums(own, BLOCKS), ("s2",), 1.0) for name, own in sums.items()}
    metrics = {
        "test": {**group, "conditions": "scored."},
        "pretrain": {"epochs": 3, "loss": {"last": pretrained}},
        "seed": 0,
    }
    return Run(metrics, {"test": Kept("regression", True, rows)})


@pytest.fixture(scope="module")
def two() -> dict:
    return combined({"": [run(1.0), run(1.5)]}, seed=0)


def test_two_seeds_give_mean_sd_and_spread(two):
    row = two["test"]["pretrained"]
    assert (row["mae"], row["mae_spread"]) == pytest.approx((1.25, 0.5))
    assert row["mae_sd"] == pytest.approx(0.5 / 2**0.5)
    assert two["pretrain"]["loss"]["last"] == pytest.approx(1.25)
    assert two["pretrain"]["epochs"] == 3  # of the first run


def test_the_interval_holds_what_seeds_vary(two):
    """Every block is alike, so seeds alone: 1.25 -/+ 0.25 sqrt(2)."""
    row = two["test"]["pretrained"]
    assert (row["mae_low"], row["mae_high"]) == pytest.approx((1.25 - 0.25 * 2**0.5, 1.25 + 0.25 * 2**0.5))
    assert row["intervals"]["mae"] == [row["mae_low"], row["mae_high"]]
    assert two["test"]["raw_best"]["mae_low"] == pytest.approx(2.0)


def test_the_difference_to_every_control_is_paired(two):
    row = two["test"]["pretrained"]
    assert row["mae_over_raw_best"] == pytest.approx(-0.75)
    assert row["mae_over_random"] == pytest.approx(-2.75)
    assert row["mae_over_raw_best_high"] == pytest.approx(-0.75 + 0.25 * 2**0.5)
    assert row["r2_over_raw_best_low"] > 0
    assert not any("_over_" in name for name in two["test"]["raw_best"])  # a control has no control


def test_the_strongest_control_is_named_with_the_difference(two):
    group = two["test"]
    (row, control, metric, apart), *_ = differences(group)
    assert (row, control, metric) == ("pretrained", "raw_best", "r2")
    told = compared(group)
    assert told.startswith(f"pretrained - raw_best: R² {apart.value:+.3f} ({apart.low:+.3f} to {apart.high:+.3f}); ")
    assert told.endswith("Strongest control on raw values: raw_best.")
    (section,) = against_controls(two)
    assert "How far above the controls" in section.html()
    assert "pretrained</td><td>raw_best" in section.html()


def test_the_conditions_say_what_was_drawn(two):
    assert two["test"]["conditions"] == (
        "Means over 2 seeds; ± is the standard deviation over seeds, in parentheses the 95 % interval of 1000 draws of "
        "seeds and the 8 blocks of ground. Of the first run: scored."
    )


def test_the_screen_shows_means_and_differences_without_their_parts(two, capsys):
    print_table(two)
    shown = capsys.readouterr().out
    header = next(line for line in shown.splitlines() if line.startswith("test:"))
    assert header.split()[1:] == ["r2", "mae"]
    low, high = two["test"]["pretrained"]["intervals"]["r2"]
    assert f"({low:.3f} to {high:.3f})" in shown
    assert "pretrained - raw_best: R² +" in shown


def test_a_single_run_has_intervals_and_differences_too_and_says_that_it_is_one(capsys):
    one = run(1.0)
    metrics = json.loads(json.dumps(one.metrics)) | {"about_seeds": "one seed of pretraining: nothing is known"}
    add_intervals(metrics, {"": [one]}, seed=0)
    row = metrics["test"]["pretrained"]
    assert (row["mae_low"], row["mae_over_raw_best"]) == pytest.approx((1.0, -1.0))
    assert metrics["test"]["conditions"] == "scored."
    print_table(metrics)
    shown = capsys.readouterr().out
    assert "One seed of pretraining: nothing is known." in shown
    assert f"({row['r2_low']:.3f} to {row['r2_high']:.3f})" in shown


def test_a_group_in_a_group_has_intervals_and_is_shown(capsys):
    def within(one: Run) -> Run:
        test, pretrain = one.metrics["test"], one.metrics["pretrain"]
        return Run({"crops": {"labels_5": test}, "pretrain": pretrain}, {"crops.labels_5": one.kept["test"]})

    metrics = combined({"": [within(run(1.0)), within(run(1.5))]}, seed=0)
    row = metrics["crops"]["labels_5"]["pretrained"]
    assert row["mae_low"] < row["mae"] < row["mae_high"]
    print_table(metrics)
    shown = capsys.readouterr().out
    assert "crops labels_5:" in shown
    assert f"({row['intervals']['r2'][0]:.3f} to {row['intervals']['r2'][1]:.3f})" in shown


def test_repetitions_are_averaged_seed_by_seed():
    """Spread is over seeds of the mean over repetitions: (1 + 3) / 2 and (2 + 3) / 2."""
    metrics = combined({"a-to-b": [run(1.0), run(2.0)], "b-to-a": [run(3.0), run(3.0)]}, seed=0)
    row = metrics["test"]["pretrained"]
    assert (row["mae"], row["mae_spread"]) == pytest.approx((2.25, 0.5))
    assert "2 seeds and 2 repetitions (a-to-b, b-to-a)" in metrics["test"]["conditions"]


def test_expectations_hold_of_intervals_and_in_each_repetition():
    parts = {"a-to-b": [run(1.0), run(1.2)], "b-to-a": [run(1.9), run(3.0)]}
    metrics = combined(parts, 0) | {"repetitions": {name: combined({name: own}, 0) for name, own in parts.items()}}
    assert Expectation.parse("test.pretrained.r2_over_raw_best > -1").holds(metrics)
    each = Expectation.parse("each.test.pretrained.r2_over_raw_best_low > 0").of_each(metrics)
    assert [str(one) for one in each] == [
        "repetitions.a-to-b.test.pretrained.r2_over_raw_best_low > 0",
        "repetitions.b-to-a.test.pretrained.r2_over_raw_best_low > 0",
    ]
    assert [one.holds(metrics) for one in each] == [True, False]
    with pytest.raises(ValueError, match="no repetitions"):
        each[0].parse("each.test.pretrained.r2 > 0").of_each({})


def test_without_an_interval_nothing_is_claimed():
    expected = Expectation.parse("test.pretrained.r2_low > 0")
    metrics = {"test": {"pretrained": {"r2": 0.5, "r2_low": None}}}
    assert not expected.holds(metrics)
    assert expected.told(metrics) == "test.pretrained.r2_low (no interval) > 0"


def test_derived_numbers_are_told_from_scores():
    row = {"r2": 0.5, "r2_sd": 0.1, "r2_over_raw": 0.2, "r2_over_raw_low": 0.1, "share_low": 0.3}
    assert [name for name in row if not derived(name, row)] == ["r2", "share_low"]


def test_what_was_kept_is_read_again(tmp_path: Path):
    kept = run(1.0).kept
    write_kept(kept, tmp_path)
    again = read_kept(tmp_path)["test"]
    assert (again.task, again.known) == ("regression", True)
    assert again.rows["raw_best"].modalities == ("s2",)
    np.testing.assert_array_equal(again.rows["random"].sums.sums, kept["test"].rows["random"].sums.sums)
    assert read_kept(tmp_path / "nowhere") == {}


def test_a_run_of_another_experiment_is_shared_seed_by_seed(tmp_path: Path):
    state = State(tmp_path / "mine" / "seed-1", 1, {}, part=Path("seed-1"))
    assert state.run_folder("pretrain") == tmp_path / "mine" / "seed-1" / "pretrain"
    shared = state.run_folder("../other/pretrain")
    (tmp_path / "mine").mkdir()
    assert shared.resolve() == (tmp_path / "other" / "seed-1" / "pretrain").resolve()
    alone = State(tmp_path / "mine", 0, {})
    assert alone.run_folder("../other/pretrain").resolve() == (tmp_path / "other" / "pretrain").resolve()
