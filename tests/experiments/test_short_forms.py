"""Experiments on real data in their short form, from data to table and page; what a short form is."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusion.cli import main
from fusion.workflow import experiments, load_experiment
from fusion.workflow.experiment import shortened

DATA = {
    "context-crops": "worldcereal_patches",
    "context-gpp": "gpp_flux",
    "context-landscape": "",
    "context-quantized": "worldcereal_patches",
    "context-worldcereal": "worldcereal_patches",
    "omnisat-biomassters": "biomassters_mini",
    "omnisat-crops": "worldcereal_can2017",
    "omnisat-treesatai": "treesatai_ts_mini",
    "omnisat-worldcereal": "worldcereal_patches",
    "token-crops": "worldcereal_can2017",
    "token-gpp": "gpp_flux",
    "token-landscape": "",
    "token-stations": "daily_temperature_stations",
    "token-temperature": "minicubes_daily_climate",
}


def intervals(metrics: Any) -> list[tuple[float, float, float]]:
    """Every score that has an interval: lower end, score, upper end."""
    if not isinstance(metrics, dict):
        return []
    own = [(metrics[f"{k}_low"], metrics[k], metrics[f"{k}_high"]) for k in metrics if f"{k}_low" in metrics]
    return own + [found for value in metrics.values() for found in intervals(value)]


@pytest.mark.extra
@pytest.mark.parametrize("name", DATA)
def test_an_experiment_runs_in_its_short_form(name, data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(data_dir(DATA[name]))] if DATA[name] else []
    assert main(["experiment", name, *data, "--short"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == shlex.join(["next:", "fusion", "experiment", name, *data])
    out = Path("runs") / f"{name}-short"
    metrics = json.loads((out / "metrics.json").read_text())
    assert all(low <= score <= high for low, score, high in intervals(metrics))
    if name in ("omnisat-biomassters", "omnisat-crops", "omnisat-worldcereal"):
        assert len(intervals(metrics)) > 3
        assert "Strongest control on raw values: " in told
    assert "(short form)" in (out / "report.html").read_text()


def test_all_experiments_but_those_on_archives_have_one_here():
    archives = ("omnisat-treesatai", "omnisat-pastis", "omnisat-flair")  # rows: test_omnisat_rows.py
    others = {name for name in experiments() if not name.startswith(archives)} - {"demo"}
    assert others == {*DATA} - {"omnisat-treesatai"}


SETTINGS = {
    "title": "two",
    "data": {"source": "landscape", "reader": {"size": 64}},
    "steps": [{"pretrain": {"size": "tiny", "training": {"epochs": 9}}}, {"compare": {"draws": 5}}],
    "expect": ["probe.pretrained.macro_f1 > 0.5"],
    "row": {"dataset": "x"},
}


def written(folder: Path, **changes: Any) -> Path:
    (folder / "two.yaml").write_text(yaml.safe_dump(SETTINGS | changes))
    return folder / "two.yaml"


def test_a_short_form_hardly_trains_and_states_nothing(tmp_path):
    changes = {"reader": {"fine": 4}, "steps": {"compare": {"draws": 1}}}
    brief = shortened(load_experiment(written(tmp_path, short=changes)))
    assert brief.name == "two-short"
    assert (brief.seeds, brief.expect, brief.row) == (2, (), {})
    assert brief.notes.startswith("Short form, hardly trained")
    pretrain, compare = (next(iter(step.values())) for step in brief.steps)
    assert pretrain["training"] == {"epochs": 1, "min_epochs": 0, "limit_train_batches": 2}
    assert compare == {"draws": 1}
    assert brief.data["reader"] == {"size": 64, "fine": 4}


@pytest.mark.parametrize(
    ("short", "told"),
    [
        ({"steps": {"probe": {}}}, "short of probe; the steps are compare, pretrain"),
        ({"compare": {}}, "short has compare; it may have reader, steps"),
    ],
)
def test_a_short_form_of_a_step_that_is_not_there_is_refused(short, told, tmp_path):
    with pytest.raises(ValueError, match=r".") as error:
        load_experiment(written(tmp_path, short=short))
    assert told in str(error.value)
