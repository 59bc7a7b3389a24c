"""Which shares of the labels a learning curve has, and that equal ones are run once."""

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Modality, fit_statistics
from fusion.data import fraction as draw_labels
from fusion.evaluation.controls import _fit
from fusion.evaluation.curve_plots import learning_curve
from fusion.evaluation.penalties import folds_of
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.workflow.curve import curve, distinct_fractions
from fusion.workflow.state import State
from fusion.workflow.steps import compare

S2 = Modality("s2", "image", ("a",), 10.0, 1, "1")


def tiles(labels: np.ndarray, task: str, classes: tuple[str, ...]) -> ArrayTiles:
    values = {"s2": np.zeros((len(labels), 1, 1, 1), np.float32)}
    return ArrayTiles([S2], values, labels=labels, task=task, classes=classes)


def test_shares_of_many_tiles_are_as_asked():
    many = tiles(np.arange(1000.0), "regression", ("height",))
    assert distinct_fractions(many, (1.0, 0.01, 0.1), 0) == {0.01: 0.01, 0.1: 0.1, 1.0: 1.0}


def test_of_few_tiles_the_least_share_is_two():
    few = tiles(np.arange(20.0), "regression", ("height",))
    found = distinct_fractions(few, (0.01, 0.05, 0.1, 1.0), 0)
    assert found == {0.01: 0.1, 1.0: 1.0}  # 1, 5 and 10 % are two tiles all
    assert len(draw_labels(few, found[0.01], 0)) == 2


def test_every_class_keeps_a_tile_and_equal_shares_are_run_once():
    classed = tiles(np.repeat([0, 1, 2], 20), "multiclass", ("a", "b", "c"))
    found = distinct_fractions(classed, (0.01, 0.05, 0.1, 1.0), 0)
    assert list(found) == [0.01, 0.1, 1.0]  # 1 and 5 % are one tile a class
    assert len(draw_labels(classed, found[0.01], 0)) == 3


def test_one_label_a_class_is_too_few_to_choose_a_penalty_by():
    """As the least share of a curve has it, in two blocks of ground."""
    assert folds_of("multiclass", np.array([0, 1]), 0, np.array(["a", "b"])) is None


def test_boosting_learns_where_a_sensor_is_absent_from_the_few_labels():
    x, y = np.array([[0.0, np.nan], [1.0, np.nan]] * 20), np.array([0, 1] * 20)
    fitted = _fit("HistGradientBoosting", x, "multiclass", y, None, 0)
    assert fitted.predict(np.array([[0.0, 5.0], [1.0, -5.0]])).tolist() == [0, 1]


def test_what_is_no_share_is_refused():
    few = tiles(np.arange(20.0), "regression", ("height",))
    for wrong in ((), (0.0, 1.0), (10,)):
        with pytest.raises(ValueError, match="give shares of the labels above 0, at most 1"):
            distinct_fractions(few, wrong, 0)


def test_a_curve_without_values_is_refused_and_one_with_them_is_a_picture():
    with pytest.raises(ValueError, match="no values of r2 for any row"):
        learning_curve({}, "r2", "draws")
    shown = learning_curve({"pretrained": {1.0: [0.1, 0.3], 100.0: [0.5]}}, "r2", "draws", "Scored.")
    assert shown.png.startswith(b"\x89PNG")
    assert shown.caption == "Learning curve; a band is from the least to the largest over draws. Scored."


def test_a_curve_takes_the_row_of_all_labels_from_an_earlier_comparison(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    values = {"s2": rng.normal(size=(40, 1, 2, 2)).astype(np.float32) + labels[:, None, None, None]}
    known = ArrayTiles([S2], values, labels=labels, task="multiclass", classes=("a", "b"), grid=(2, 2))
    torch.manual_seed(0)
    model = OmniSat(OmniSatConfig.preset("tiny", fit_statistics(known), known.grid, dim=16, mlp_dim=16))
    parts = {"train": known.subset(range(30)), "test": known.subset(range(30, 40))}
    state = State(tmp_path, 0, parts, models={"pretrained": model})
    compare(state, fraction=1.0, draws=1)
    (before,) = state.probed.values()
    curve(state, fractions=[0.5, 1.0], draws=1, control=False)
    assert len(state.probed) == 2
    assert before in state.probed.values()
    for row in ("pretrained", "random", "raw"):
        assert state.metrics["curve"][f"{row}_100"] == state.metrics["probe"][row]
    other = {(settings, fraction) for settings, fraction in state.probed if fraction == 1.0}
    compare(state, fraction=1.0, draws=1, pool="summary")  # of other features
    assert len({key for key in state.probed if key[1] == 1.0} - other) == 1
