"""A small experiment of two seeds on two scenes, from YAML to table: folders, splits, curve, resuming, the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fusion.cli import main
from fusion.workflow import Outcome, load_experiment, run_experiment

MODALITY = {"variable": "s2", "bands": ["a", "b"], "resolution": 10, "unit": "1", "dates": "days"}
DESCRIPTION = {
    "files": "{scene}.npz",
    "tile": 40,
    "patch": 20,
    "modalities": {"s2": MODALITY},
    "labels": {"variable": "y", "resolution": 10, "reduction": "mean"},
}
TRAINING = {"epochs": 1, "batch_size": 16, "limit_train_batches": 1}
EXPERIMENT = {
    "title": "Two scenes",
    "seeds": 2,
    "data": {"transfer": "scene"},
    "steps": [
        {"pretrain": {"model": {"dim": 16, "heads": 2, "series_heads": 2, "depth": 1}, "training": TRAINING}},
        {"compare": {"key": "test", "labelled": "known", "fraction": 1.0, "draws": 1}},
        {"curve": {"labelled": "known", "fractions": [0.01, 0.1, 1.0], "draws": 2, "control": False}},
    ],
    "expect": ["test.raw.r2 > 0.5", "each.test.raw.r2_low > 0", "test.pretrained.r2_over_raw < 1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 8 x 8 tiles whose label is the mean of a band, told by every date."""
    where = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    for name in ("east", "west"):
        ground = np.kron(rng.normal(size=(8, 8)), np.ones((4, 4)))
        values = ground[None, None] + rng.normal(size=(3, 2, 32, 32)) / 10
        days = np.array(["2020-03-01", "2020-06-01", "2020-09-01"], "datetime64[D]")
        np.savez(where / f"{name}.npz", s2=values.astype(np.float32), days=days, y=ground.astype(np.float32))
    (where / "fusion.yaml").write_text(yaml.safe_dump(DESCRIPTION))
    (where / "two.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    return where


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcome:
    return run_experiment(load_experiment(folder / "two.yaml"), data=folder, out=folder / "out", say=lambda line: None)


def test_every_seed_of_every_direction_has_a_folder_and_a_model_of_its_own(outcome):
    metrics = json.loads((outcome.out / "metrics.json").read_text())
    assert metrics["repeats"] == [f"{name}/seed-{k}" for name in ("west-to-east", "east-to-west") for k in (0, 1)]
    assert metrics["seeds"] == [0, 1]
    models = {(outcome.out / part / "pretrain" / "best.safetensors").read_bytes() for part in metrics["repeats"]}
    assert len(models) == 4


def test_the_mean_is_that_of_all_runs_and_the_spread_that_of_seeds(outcome):
    values = np.array([[_part(outcome, f"{d}/seed-{k}") for k in (0, 1)] for d in ("west-to-east", "east-to-west")])
    row = outcome.metrics["test"]["pretrained"]
    assert row["r2"] == pytest.approx(values.mean())
    assert row["r2_spread"] == pytest.approx(np.ptp(values.mean(0)))
    assert row["r2_low"] < row["r2"] < row["r2_high"]
    one = outcome.metrics["repetitions"]["east-to-west"]["test"]["pretrained"]
    assert one["r2"] == pytest.approx(values[1].mean())
    assert one["r2_over_random"] == pytest.approx(
        one["r2"] - outcome.metrics["repetitions"]["east-to-west"]["test"]["random"]["r2"]
    )


def test_what_the_yaml_expects_is_examined_in_each_direction(outcome):
    assert outcome.as_expected
    assert len(outcome.verdict) == 4
    assert any(text.startswith("repetitions.east-to-west.test.raw.r2_low") for text in outcome.verdict)


def test_the_curve_has_a_row_for_every_share_and_the_page_a_figure(outcome):
    rows = {name for name in outcome.metrics["curve"] if name != "conditions"}
    assert rows == {f"{row}_{share}" for row in ("pretrained", "random", "raw") for share in (1, 10, 100)}
    page = (outcome.out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    for text in ("Learning curve", "How far above the controls: east-to-west", "2 seeds and 2 repetitions"):
        assert text in page


def test_a_seed_that_is_finished_is_not_run_again_unless_something_differs(outcome, folder):
    lines: list[str] = []
    again = run_experiment(load_experiment(folder / "two.yaml"), data=folder, out=outcome.out, say=lines.append)
    assert lines == [
        f"Two scenes: {part}, finished before (--fresh runs it again)" for part in again.metrics["repeats"]
    ]
    assert again.metrics["test"] == outcome.metrics["test"]


def test_one_seed_says_so_on_the_screen_and_the_page(folder, tmp_path, capsys):
    one = {**EXPERIMENT, "data": {"splits": {"train": "east", "test": "west"}}, "expect": []}
    one["steps"] = [*EXPERIMENT["steps"][:1], {"compare": {"fraction": 1.0, "draws": 1}}]
    description = {**DESCRIPTION, "splits": {"east": {"files": "east"}, "west": {"files": "west"}}}
    (tmp_path / "fusion.yaml").write_text(yaml.safe_dump(description))
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(one))
    where = ["--data", str(tmp_path / "fusion.yaml"), "--reader.folder", str(folder), "--out", str(tmp_path / "out")]
    assert main(["experiment", str(tmp_path / "one.yaml"), *where, "--seeds", "1"]) == 0
    sentence = "One seed of pretraining: nothing is known of how scores vary with it."
    assert sentence in capsys.readouterr().out
    assert sentence in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "pretrain" / "best.safetensors").is_file()


def test_settings_that_cannot_be_are_named(folder, tmp_path):
    path = tmp_path / "wrong.yaml"
    for changes, told in (
        ({"seeds": 0}, "seeds 0; a number of seeds is wanted"),
        ({"data": {"transfer": "scene", "splits": {"test": "a"}}}, "leave out splits"),
        ({"data": {"transfer": {"by": "scene", "parts": 3}}}, "transfer: unknown setting parts"),
        ({"data": {"transfers": "scene"}}, "data has transfers; it may have source, reader, splits, open, transfer"),
    ):
        path.write_text(yaml.safe_dump(EXPERIMENT | changes))
        with pytest.raises(ValueError, match=r".") as error:
            run_experiment(load_experiment(path), data=folder, out=tmp_path / "out", say=lambda line: None)
        assert told in str(error.value)


def _part(outcome: Outcome, part: str) -> float:
    metrics = json.loads((outcome.out / part / "metrics.json").read_text())
    return float(metrics["test"]["pretrained"]["r2"])
