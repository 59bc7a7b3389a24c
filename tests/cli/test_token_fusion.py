"""Token fusion from the command line: pretrain, generate, edit, explain; a landscape of 64 tiles, a tiny model."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import rasterio
import yaml

from fusion.cli import main

READER = {"size": 64, "block": 2, "fine": 4, "modalities": ["terrain", "s1", "temperature"], "target": "biomass"}
DATA = ["--data", "landscape", "--reader", yaml.safe_dump(READER, default_flow_style=True).strip()]
TOKENIZERS = {
    "terrain": {"kind": "bins", "bins": 16},
    "s1": {"kind": "bins", "step": 60, "length": 6, "bins": 16},
    "temperature": {"kind": "bins", "step": 20, "length": 18, "bins": 32},
}
MODEL = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32, "tokenizers": TOKENIZERS}


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of one pretraining."""
    out = tmp_path_factory.mktemp("tokens") / "a"
    model = yaml.safe_dump(MODEL, default_flow_style=True, width=10_000).strip()
    arguments = ["pretrain", "--preset", "token-fusion", *DATA, "--model", model, "--out", str(out)]
    assert main([*arguments, "--training.epochs", "2", "--training.batch_size", "16"]) == 0
    return out


def test_generate_writes_values_scores_and_a_page(run, tmp_path, capsys):
    drawn = ["--target", "temperature", "--conditioning", "[terrain]", "--samples", "3"]
    arguments = ["generate", str(run), *DATA, *drawn]
    assert main([*arguments, "--steps", "3", "--tiles", "5", "--out", str(tmp_path)]) == 0
    with np.load(tmp_path / "temperature.npz") as made:
        assert made["samples"].shape == (3, 5, 1, 18)
        assert made["unit"] == "degC"
        assert made["days"][:2].tolist() == [10, 30]
        assert np.isfinite(made["samples"]).all()
        assert np.isfinite(made["observed"]).all()
        assert (made["low"] <= made["high"]).all()
        rmse = np.sqrt(np.square(made["expected"] - made["observed"]).mean())
        first = made["median"][0, 0, 0]
    with open(tmp_path / "temperature.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 18
    assert float(rows[0]["median (degC)"]) == pytest.approx(first, rel=1e-4)
    scores = json.loads((tmp_path / "metrics.json").read_text())["generate_temperature"]
    assert scores["expectation"]["rmse"] == pytest.approx(rmse, rel=1e-5)
    assert {"expectation", "median", "mean_profile"} <= set(scores)
    assert 0 <= scores["median"]["coverage"] <= 1
    page = (tmp_path / "report.html").read_text()
    assert "Temperature from terrain" in page
    assert page.count("data:image/png") == 1
    assert f"{scores['expectation']['rmse']:.3f}" in capsys.readouterr().out


def test_generate_repeats_itself_and_makes_images_from_series(run, tmp_path):
    arguments = ["generate", str(run), *DATA, "--target", "[s1,terrain]", "--samples", "2", "--scheme", "roar"]
    for folder in ("one", "two"):
        assert main([*arguments, "--tiles", "4", "--top_p", "0.9", "--out", str(tmp_path / folder)]) == 0
    one, two = (np.load(tmp_path / folder / "terrain.npz") for folder in ("one", "two"))
    assert one["samples"].shape == (2, 4, 2, 4, 4)
    assert np.array_equal(one["samples"], two["samples"])
    assert not (tmp_path / "one" / "terrain.csv").exists()
    assert set(json.loads((tmp_path / "one" / "metrics.json").read_text())) == {"generate_s1", "generate_terrain"}


def test_generate_does_without_a_truth(run, tmp_path):
    reader = {**READER, "modalities": ["terrain"]}
    data = ["--data", "landscape", "--reader", yaml.safe_dump(reader, default_flow_style=True).strip()]
    arguments = ["generate", str(run), *data, "--target", "temperature", "--samples", "1", "--tiles", "3"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    with np.load(tmp_path / "temperature.npz") as made:
        assert np.isnan(made["observed"]).all()
    assert json.loads((tmp_path / "metrics.json").read_text()) == {}


def test_counterfactual_tells_how_the_season_moves(run, tmp_path, capsys):
    arguments = ["counterfactual", str(run), *DATA, "--target", "temperature", "--conditioning", "[terrain]"]
    assert (
        main([*arguments, "--edit", "{add: {terrain: {elevation: 300}}}", "--tiles", "6", "--out", str(tmp_path)]) == 0
    )
    told = json.loads((tmp_path / "metrics.json").read_text())["counterfactual"]
    with np.load(tmp_path / "counterfactual.npz") as made:
        assert made["before"].shape == made["after"].shape == (6, 1, 18)
        change = (made["after"] - made["before"]).mean()
    assert told["mean"]["mean"] == pytest.approx(change, abs=1e-4)
    assert "edit: add terrain elevation 300" in told["conditions"]
    with open(tmp_path / "counterfactual.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([float(row["change of mean"]) for row in rows]) == pytest.approx(change, abs=1e-4)
    assert "change of amplitude" in rows[0]
    assert "the season of each place moved" in (tmp_path / "report.html").read_text()
    assert "amplitude" in capsys.readouterr().out


def test_sensitivity_of_a_pretrained_and_of_a_finetuned_model(run, tmp_path):
    arguments = ["sensitivity", str(run), *DATA, "--target", "temperature", "--tiles", "6"]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    told = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert sum(row["share"] for name, row in told["sensitivity"].items() if name != "conditions") == pytest.approx(1)
    assert set(told["sensitivity_bands"]) == {"terrain elevation", "terrain wetness", "s1 VV", "s1 VH"}
    assert (tmp_path / "a" / "report.html").read_text().count("data:image/png") == 2

    tuned = ["finetune", str(run), *DATA, "--out", str(tmp_path / "ft"), "--training.epochs", "1", "--control", "false"]
    assert main(tuned) == 0
    arguments = ["sensitivity", str(tmp_path / "ft" / "pretrained-1-0"), *DATA, "--tiles", "6"]
    assert main([*arguments, "--measure", "gradient-x-input", "--out", str(tmp_path / "b")]) == 0
    told = json.loads((tmp_path / "b" / "metrics.json").read_text())["sensitivity"]
    assert {"terrain", "s1", "temperature"} <= set(told)
    assert "prediction of the fine-tuned head" in told["conditions"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["generate", "--target", "snow"], "targets: no modality snow; the model has terrain, s1, temperature"),
        (["generate", "--target", "s1", "--conditioning", "[s1]"], "s1 is wholly given"),
        (["counterfactual", "--target", "temperature", "--edit", "{melt: [s1]}"], "melt is no edit"),
        (["counterfactual", "--target", "terrain", "--edit", "{hide: [s1]}"], "'terrain' is an image"),
        (["sensitivity", "--tiles", "3"], "encoder without a head"),
    ],
)
def test_what_cannot_be_done_is_told_in_words(run, arguments, told, capsys, tmp_path):
    command, *rest = arguments
    assert main([command, str(run), *DATA, *rest, "--out", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


def test_a_model_of_another_system_is_refused(tmp_path, capsys):
    tiny = ["--model.dim", "16", "--model.heads", "2", "--model.series_heads", "2", "--model.depth", "1"]
    out = tmp_path / "omnisat"
    assert main(["pretrain", *DATA, *tiny, "--modalities", "[s1]", "--out", str(out), "--training.epochs", "1"]) == 0
    assert main(["generate", str(out), *DATA, "--target", "s1"]) == 2
    assert "a TokenFusion is wanted, this is OmniSat" in capsys.readouterr().err


def test_predict_writes_a_map_with_an_interval(run, tmp_path, capsys):
    out = tmp_path / "tuned"
    arguments = ["finetune", str(run), *DATA, "--training.epochs", "1", "--training.batch_size", "16"]
    assert main([*arguments, "--module.interval_level", "0.5", "--out", str(out)]) == 0
    scores = json.loads((out / "metrics.json").read_text())["finetune"]["pretrained"]
    assert 0 <= scores["interval_coverage"] <= 1
    assert "Interval 50 % of pretrained: coverage" in capsys.readouterr().out
    path = tmp_path / "map.tif"
    assert main(["predict", str(out / "pretrained-1-0"), *DATA, "--out", str(path)]) == 0
    assert "next: fusion evaluate" in capsys.readouterr().out.splitlines()[-1]
    with rasterio.open(path) as file:
        value, lower, upper = file.read()
        assert file.descriptions == ("biomass", "biomass_lower", "biomass_upper")
    assert value.shape == (8, 8)
    assert np.isfinite(value).all()
    assert ((lower < value) & (value < upper)).all()
