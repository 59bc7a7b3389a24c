"""What stands at the top of a report is said in plain words."""

from __future__ import annotations

import pytest

from fusion.workflow.cautions import few_labels, lost_pretraining
from fusion.workflow.expectations import Expectation
from fusion.workflow.words import cautions_of, expected_in_words, lead

CONFUSION = {"classes": ["wheat", "maize"], "counts": [[60, 10], [5, 20]]}


def row(f1: float, low: float = 0.0, high: float = 1.0) -> dict:
    return {"macro_f1": f1, "accuracy": 0.8, "intervals": {"macro_f1": [low, high]}, "confusion": CONFUSION}


def test_the_lead_names_encoders_and_chance_and_no_code():
    told = lead({"probe": {"pretrained": row(0.7, 0.6, 0.8), "random": row(0.5), "conditions": "..."}, "seed": 3})
    assert told == (
        "On tiles that training has not seen, macro F1 is 0.70 (95 % interval 0.60 to 0.80) with the pretrained "
        "encoder, 0.50 (95 % interval 0.00 to 1.00) with an encoder with random weights, 0.42 by saying always wheat, "
        "the commonest class of the test labels."
    )
    assert lead({"pretrain": {"parameters": 3, "loss": {"first": 2.0, "last": 1.0}}}) == ""


@pytest.mark.parametrize(
    ("rival", "how", "told"),
    [
        ("random", "with a simple classifier on the features of", "the same network with random weights"),
        ("raw", "with a simple classifier on the features of", "plain band statistics without any network"),
        ("raw_forest", "fine-tuned from", "a random forest on raw values without any network"),
        ("raw_best", "fine-tuned from", "the strongest of several simple methods on raw values without any network"),
        ("scratch", "fine-tuned from", "the same network trained on the labels alone, from random weights"),
    ],
)
def test_pretraining_that_lost_is_said(rival, how, told):
    others = {"random": row(0.1)} if "classifier" in how else {}
    group = {"pretrained": row(0.6, 0.55, 0.62), **others, rival: row(0.7, 0.65, 0.75)}
    (warning,) = lost_pretraining({"some": group})
    assert warning == (
        f"Pretraining did not help here: {how} the pretrained encoder, macro F1 is 0.600 on the test tiles, less than "
        f"the 0.700 of {told}."
    )


def test_the_winner_among_simple_methods_is_named():
    rival = row(0.7, 0.65, 0.75) | {"control": "HistGradientBoosting on 18 dates"}
    (warning,) = lost_pretraining({"some": {"pretrained": row(0.6, 0.55, 0.62), "raw_best": rival}})
    assert warning.endswith(
        "several simple methods on raw values without any network, HistGradientBoosting on 18 dates."
    )


def test_a_difference_within_the_intervals_may_be_chance_and_a_win_is_no_warning():
    (warning,) = lost_pretraining({"probe": {"pretrained": row(0.6), "raw": row(0.7)}})
    assert warning.endswith("Their intervals overlap, so that the difference may be chance.")
    assert lost_pretraining({"probe": {"pretrained": row(0.8), "raw": row(0.7), "random": row(0.1)}}) == []
    assert lost_pretraining({"seed": 1, "probe": {"random": row(0.1)}}) == []
    assert "no more than the 0.700" in lost_pretraining({"probe": {"pretrained": row(0.7), "raw": row(0.7)}})[0]


def test_classes_with_few_test_labels_are_named():
    assert few_labels(CONFUSION).startswith("Fewer than 30 test tiles are labelled as: maize (25).")
    assert few_labels(CONFUSION, "pixels").startswith("Fewer than 500 test pixels are labelled as: wheat (70), maize")
    several = {"classes": ["a", "b"], "counts": [[[10, 0], [5, 85]], [[90, 1], [2, 7]]]}  # absent, present
    assert few_labels(several) == (
        "Fewer than 30 test tiles are labelled as: b (9). What is said of it alone is uncertain."
    )
    assert few_labels(None) == ""
    assert few_labels({"classes": ["a", "b"], "draws": [[[40, 2], [3, 4]]] * 2}).startswith(
        "Fewer than 30 test tiles are labelled as: b (7)."
    )
    assert cautions_of({"probe": {"pretrained": row(0.7), "random": row(0.5)}, "seed": 1}) == [few_labels(CONFUSION)]


def test_what_an_experiment_expects_is_a_sentence():
    metrics = {"probe": {"pretrained": {"macro_f1": 0.812}, "raw": {"macro_f1": 0.73}}}
    above = Expectation.parse("probe.pretrained.macro_f1 > probe.raw.macro_f1")
    assert expected_in_words(above, metrics) == (
        "macro F1 of the pretrained encoder in probe (0.812) is above macro F1 of plain band statistics without a "
        "network in probe (0.730)"
    )
    fixed = Expectation.parse("probe.pretrained.macro_f1 >= 0.5")
    assert expected_in_words(fixed, metrics) == "macro F1 of the pretrained encoder in probe (0.812) is at least 0.5"
