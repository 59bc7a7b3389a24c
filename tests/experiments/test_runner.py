import inspect
import json

import pytest
import yaml

from fusion.cli import main
from fusion.embed import read_embeddings
from fusion.settings import call
from fusion.workflow import experiments, load_experiment, run_experiment
from fusion.workflow.experiment import shortened
from fusion.workflow.opening import imported
from fusion.workflow.state import State
from fusion.workflow.steps import STEPS

TINY = {
    "title": "A tiny demo",
    "question": "Does anything run?",
    "seeds": 1,
    "data": {"source": "landscape", "reader": {"size": 64, "block": 2, "fine": 4, "max_dates": 4}},
    "steps": [
        "self_test",
        {
            "pretrain": {
                "model": {"dim": 16, "heads": 2, "series_heads": 2, "depth": 1},
                "module": {"lr": 1e-3},
                "training": {"epochs": 2, "batch_size": 16},
            }
        },
        {"compare": {"key": "probe", "fraction": 0.5, "draws": 2, "names": {"raw": "bands"}, "forest": True}},
        {"embed": {"dtype": "int8"}},
    ],
    "expect": ["probe.bands.macro_f1 >= 0", "pretrain.epochs > 1"],
}


def written(folder, **changes):
    """An experiment file with some of TINY changed; None leaves a key out."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (TINY | changes).items() if v is not None}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of the tiny experiment."""
    where = tmp_path_factory.mktemp("tiny")
    lines = []
    outcome = run_experiment(load_experiment(written(where)), out=where / "out", say=lines.append)
    assert outcome.as_expected
    (where / "lines.txt").write_text("\n".join(lines))
    return where


def test_metrics_are_nested_and_keep_every_draw(folder):
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert {"pretrained", "random", "bands", "raw_forest", "conditions"} == set(metrics["probe"])
    row = metrics["probe"]["pretrained"]
    assert row["macro_f1"] == pytest.approx(sum(row["draws"]["macro_f1"]) / 2)
    assert metrics["expectations"] == dict.fromkeys(TINY["expect"], True)


def test_the_report_is_one_file_with_every_section_and_its_conditions(folder):
    page = (folder / "out" / "report.html").read_text()
    for heading in ("A tiny demo", "Pretraining", "What 50% of the labels tell", "The map", "Conditions"):
        assert f">{heading}<" in page
    assert page.count("data:image/png;base64,") == 4  # losses, classes, confusion, map
    assert page.count("seed 0") >= 3
    assert 'src="http' not in page


def test_the_map_is_georeferenced(folder):
    found = read_embeddings(folder / "out" / "embeddings.tif")
    assert found.values.shape == (16, 32, 32)
    assert found.crs == "EPSG:32632"


def test_steps_are_numbered_and_timed(folder):
    lines = (folder / "lines.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[1:7]] == [f"{k}/6" for k in range(1, 7)]
    assert all(line.endswith(" s]") for line in lines[1:7])
    assert "val/loss" in lines[3]


def test_a_second_run_goes_on_from_the_first(folder):
    before = json.loads((folder / "out" / "metrics.json").read_text())
    stamp = (folder / "out" / "pretrain" / "best.safetensors").stat().st_mtime_ns
    again = run_experiment(load_experiment(folder / "tiny.yaml"), out=folder / "out", say=lambda line: None)
    assert (folder / "out" / "pretrain" / "best.safetensors").stat().st_mtime_ns == stamp
    assert again.metrics["probe"] == before["probe"]


def test_what_does_not_hold_is_said_and_exits_1(folder, capsys):
    path = written(folder, steps=["self_test", *TINY["steps"][1:3]], expect=["probe.bands.macro_f1 > 1"])
    assert main(["experiment", str(path), "--out", str(folder / "out")]) == 1
    score = json.loads((folder / "out" / "metrics.json").read_text())["probe"]["bands"]["macro_f1"]
    told = capsys.readouterr().out
    assert f"NOT MET  probe.bands.macro_f1 ({score:.3f}) > 1" in told
    assert "next: " not in told  # there is no row for a table
    page = (folder / "out" / "report.html").read_text()
    assert f"this does not hold: macro F1 of bands in probe ({score:.3f}) is above 1." in page


def test_a_short_form_hardly_trains_states_nothing_and_leads_to_the_whole(tmp_path, capsys):
    path = written(tmp_path, steps=TINY["steps"][1:2], expect=["pretrain.epochs > 1"])
    assert main(["experiment", str(path), "--short", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "A tiny demo (short form)" in told
    assert told.splitlines()[-1] == f"next: fusion experiment {path}"
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["pretrain"]["epochs"], metrics["expectations"]) == (1, {})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"titel": "x"}, "titel"),
        ({"steps": None}, "an experiment has title, data, steps"),
        ({"expect": ["probe.raw"]}, "'probe.raw' is not of the form"),
        ({"steps": ["pretrian"]}, "'pretrian' is no step; one of self_test, pretrain"),
        ({"steps": [{"compare": {"shares": 0.1}}]}, "unknown setting shares; it has key, fraction"),
        ({"steps": [{"compare": {"share": 0.1}}]}, "no step has made a model 'pretrained'"),  # its former name is known
        ({"steps": [{"compare": {"share": 0.1, "fraction": 0.2}}]}, "share is the former name of fraction"),
        ({"steps": [{"compare": {}}]}, "no step has made a model 'pretrained'"),
        ({"steps": ["no.such:step"]}, "no function 'no.such:step'"),
        ({"steps": [{"self_test": {}}], "expect": ["probe.raw.f1 > 0"]}, "no metric 'probe.raw.f1'"),
        ({"data": {"reader": {}}}, "needs data: --data DIR"),
        ({"data": {"source": "landscape", "splits": {"test": "nord"}}}, "no split 'nord'"),
    ],
)
def test_mistakes_are_named(changes, told, tmp_path):
    with pytest.raises((ValueError, TypeError), match=r".") as error:
        run_experiment(load_experiment(written(tmp_path, **changes)), out=tmp_path / "out", say=lambda line: None)
    assert told in str(error.value)


@pytest.mark.parametrize("name", experiments())
def test_shipped_experiments_name_steps_and_settings_that_exist(name):
    experiment = load_experiment(name)
    for step in (*experiment.steps, *shortened(experiment).steps):
        called, settings = (step, {}) if isinstance(step, str) else next(iter(step.items()))
        function = imported(called) if ":" in called else STEPS[called]
        inspect.signature(function).bind(None, **(settings or {}))


def test_settings_are_checked_by_name():
    def step(state, *, fraction: float, draws: int = 1):
        return fraction, draws

    assert call(step, {"fraction": 0.5}, "step probe", None) == (0.5, 1)
    with pytest.raises(ValueError, match="step probe: unknown setting fractions; it has fraction, draws"):
        call(step, {"fractions": 0.5}, "step probe", None)
    with pytest.raises(ValueError, match="step probe: fraction must be given"):
        call(step, {}, "step probe", None)


def test_a_wrong_number_stops_an_experiment(monkeypatch, tmp_path):
    from fusion.selftest import Outcome

    wrong = Outcome("patch_info_nce", "cpp", "cpu", error=0.1, plain=1e-7)
    monkeypatch.setattr("fusion.selftest.self_test", lambda: iter([wrong]))
    with pytest.raises(RuntimeError, match="wrong numbers"):
        STEPS["self_test"](State(tmp_path, 0, {}))
