"""The experiments across places on real data in a short form: two seeds of two steps, from data to table."""

from __future__ import annotations

import json
import math

import pytest

from fusion.workflow import load_experiment, run_experiment
from fusion.workflow.experiment import with_settings

SHORT = {"epochs": 1, "limit_train_batches": 2}
EXPERIMENTS = {
    "omnisat-biomassters": ("biomassters_mini", "test", "r2"),
    "omnisat-crops": ("worldcereal_can2017", "probe", "macro_f1"),
    "omnisat-worldcereal": ("worldcereal_patches", "test", "macro_f1"),
}


@pytest.mark.extra
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_across_places_runs_in_a_short_form(name, data_dir, tmp_path):
    data, group, metric = EXPERIMENTS[name]
    experiment = with_settings(load_experiment(name), training=SHORT)
    outcome = run_experiment(experiment, data=data_dir(data), out=tmp_path, seeds=2, say=lambda line: None)
    scores = json.loads((outcome.out / "metrics.json").read_text())[group]
    for row in ("pretrained", "random", "raw_best"):
        low, mean, high = (scores[row][f"{metric}{end}"] for end in ("_low", "", "_high"))
        assert low <= mean <= high
        assert math.isfinite(scores[row][f"{metric}_spread"])
    assert f"{metric}_over_raw_best_low" in scores["pretrained"]
    assert scores["conditions"].startswith("Means over 2 seeds")
    assert (outcome.out / "report.html").is_file()
