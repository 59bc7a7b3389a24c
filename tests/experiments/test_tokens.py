"""A miniature of the experiment with token fusion on the landscape: every step runs and keeps its promises."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fusion.evaluation.intervals import scores_of_sums
from fusion.evaluation.profile_baselines import mean_profile, ridge_profiles
from fusion.evaluation.profile_scores import profile_scores
from fusion.workflow import load_experiment, run_experiment
from fusion.workflow.kept import keep_profiles
from fusion.workflow.state import State

IMAGES = ["aerial", "terrain", "location"]
STEPS = "fusion.experiments.tokens"
TINY = {
    "seeds": 1,
    "title": "Tiny",
    "data": {
        "source": "landscape",
        "reader": {
            "size": 96,
            "fine": 2,
            "field_metres": 60,
            "modalities": [*IMAGES, "s1", "temperature"],
            "patch": 4,
            "block": 2,
            "latitudes": [40, 60],
            "snow": 4.0,
            "target": "production",
        },
    },
    "steps": [
        {
            f"{STEPS}.landscape:pretrain": {
                "recipe": {
                    "model": {
                        "dim": 16,
                        "depth": 1,
                        "heads": 2,
                        "mlp_dim": 32,
                        "tokenizers": {
                            "aerial": {"kind": "textons", "codes": 16},
                            "terrain": {"kind": "scalar", "bins": 16},
                            "location": {"kind": "scalar", "bins": 16},
                            "s1": {"kind": "bins", "start": 0, "step": 60, "length": 6, "bins": 16},
                            "temperature": {"kind": "bins", "start": 0, "step": 73, "length": 5, "bins": 32},
                        },
                    },
                    "steps": 4,
                    "batch_size": 16,
                }
            }
        },
        {
            f"{STEPS}.landscape:generation": {
                "target": "temperature",
                "conditioning": IMAGES,
                "shown": 6,
                "samples": 4,
                "how": {"steps": 2},
            }
        },
        {f"{STEPS}.directions:known_directions": {"conditioning": IMAGES, "woods_above": 0.5, "raised": 50.0}},
        {f"{STEPS}.downstream:downstream": {"fraction": 0.5, "draws": 2, "tuning": {"steps": 3, "hide": 0.3}}},
        {
            f"{STEPS}.landscape:sensitivity": {
                "target": "temperature",
                "conditioning": IMAGES,
                "finetuned": "downstream",
                "most": 8,
            }
        },
    ],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Metrics and report of the miniature."""
    import yaml

    folder = tmp_path_factory.mktemp("tokens")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    run_experiment(load_experiment(folder / "tiny.yaml"), out=folder, say=lambda line: None)
    return json.loads((folder / "metrics.json").read_text()), (folder / "report.html").read_text()


def test_generation_is_scored_against_fair_baselines(results):
    found = results[0]["generation"]
    assert {"model", "mean_profile", "ridge", "ridge_without_location", "ridge_texture", "forest"} <= set(found)
    assert {"given_aerial", "given_terrain", "given_location"} <= set(found)
    assert found["ridge"]["rmse"] < found["ridge_without_location"]["rmse"] < found["mean_profile"]["rmse"] + 0.5
    assert 0 <= found["samples"]["coverage"] <= 1
    assert all(row["rmse_low"] <= row["rmse"] <= row["rmse_high"] for row in found.values() if "rmse_low" in row)
    assert found["model"]["rmse_low"] < found["model"]["rmse_high"]


def test_counterfactuals_are_compared_with_the_known_truth(results):
    found = results[0]["counterfactual"]
    assert found["direction_ok"] == min(found[edit]["direction_ok"] for edit in ("raised", "north", "woods"))
    assert found["raised"]["true_mean"] < -0.3
    assert found["north"]["true_mean"] < -1.7
    assert found["north"]["true_amplitude"] > 0.9
    assert found["woods"]["true_amplitude"] < -0.3
    assert found["north"]["tiles"] < found["woods"]["tiles"]  # some would leave what training saw


def test_downstream_has_every_row_over_several_draws(results):
    found = results[0]["downstream"]
    singles = {f"single_{name}" for name in (*IMAGES, "s1", "temperature")}
    rows = {"joint", "task_specific", "probe", "raw_ridge", "raw_forest", "mean", "best_single", *singles}
    assert rows | {"conditions"} == set(found)
    assert len(found["joint"]["draws"]["r2"]) == 2
    assert found["best_single"]["r2"] == max(found[name]["r2"] for name in singles)
    assert found["mean"]["r2"] <= 0
    assert found["joint"]["r2_low"] <= found["joint"]["r2"] <= found["joint"]["r2_high"]
    assert {"r2_over_raw_ridge", "r2_over_raw_forest"} <= set(found["joint"])


def test_sensitivities_are_shares(results):
    generated, answered = results[0]["sensitivity"], results[0]["sensitivity_downstream"]
    for found, names in ((generated, IMAGES), (answered, (*IMAGES, "s1", "temperature"))):
        shares = [found[name]["share"] for name in names]
        assert min(shares) > 0
        assert sum(shares) == pytest.approx(1)


def test_the_report_has_its_pictures(results):
    for heading in ("Temperature generated", "Counterfactuals with a known answer", "Production from 50%", "hangs on"):
        assert heading in results[1]
    assert results[1].count("data:image/png;base64,") >= 9


def test_the_settings_that_ship_are_understood():
    experiment = load_experiment("token-landscape")
    assert "generation.model.rmse < generation.ridge.rmse" in experiment.expect
    assert "counterfactual.direction_ok >= 0.95" in experiment.expect


def test_profiles_and_their_scores(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    truth = x @ rng.normal(size=(2, 5)) + np.arange(5)
    truth = truth[:, None]  # (60, 1, 5)
    guess = ridge_profiles(x[:40], truth[:40], x[40:])
    assert profile_scores(truth[40:], guess)["rmse"] < 0.05
    flat = profile_scores(truth[40:], mean_profile(truth[:40], 20))
    assert flat["r2"] > 0 > flat["r2_places"] - 0.1  # the season is common, places are not told apart
    truth[40, 0, 0] = np.nan
    found = profile_scores(truth[40:], guess)
    assert np.isfinite(list(found.values())).all()
    keep_profiles(state := State(tmp_path, 0, {}), "generation", truth[40:], {"ridge": guess})
    sums = state.kept["generation"].rows["ridge"].sums.sums  # (1, places, 1, 5)
    assert sums[0, :, 0, 0].tolist() == [4, *[5] * 19]
    for name, value in scores_of_sums("regression", sums.sum(1)).items():
        assert value[0] == pytest.approx(found[name])
