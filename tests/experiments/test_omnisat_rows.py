"""Every row of OmniSat's tables runs to its end on small archives in the published layouts, in a few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fusion.workflow import Outcome, experiments, load_experiment, run_experiment
from fusion.workflow.experiment import with_settings
from fusion.workflow.table import finished, markdown, published

from ..data.flair_archive import write_flair
from ..data.pastis_archive import write_pastis
from ..data.treesat_archive import write_treesat

STEPS = {"epochs": 1, "min_epochs": 0, "limit_train_batches": 1, "limit_val_batches": 1, "batch_size": 4, "workers": 0}
READERS = {"treesatai": {"max_dates": 3}, "pastis": {"cut": 16, "max_dates": 3}, "flair": {"max_dates": 3}}
ROWS = [name for name in experiments() if load_experiment(name).row]
# One of each kind; the others differ from these in a setting (ablations: tests/omnisat/test_ablations.py) and run with
# `make test-all`.
KINDS = [
    "omnisat-pastis-utae",
    "omnisat-treesatai-raw",
    "omnisat-treesatai-resnet",
]
TOGETHER = ["omnisat-treesatai-all", "omnisat-treesatai-s2"]  # one after another, below


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("archives")
    write_treesat(folder / "treesatai")
    write_pastis(folder / "pastis", patches=5)
    write_flair(folder / "flair")
    return {name: folder / name for name in READERS}


def run(name: str, archives: dict[str, Path], out: Path) -> Outcome:
    dataset = name.split("-")[1]
    small = with_settings(load_experiment(name), size="tiny", training=STEPS, reader=READERS[dataset])
    return run_experiment(small, data=archives[dataset], out=out / name, say=lambda _: None)


def told(outcome: Outcome) -> None:
    """The row's scores are there, and the page that shows them."""
    page = (outcome.out / "report.html").read_text()
    assert "labelled tiles of the" in page or "standard deviations over fold-1" in page  # the conditions of its scores
    lines = finished([outcome.out])
    row = json.loads((outcome.out / "metrics.json").read_text())["row"]
    assert {line.method for line in lines} == set(row["lines"])
    assert all(0 <= float(text.split()[0]) <= 100 for line in lines for text in line.scores.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_row_of_each_kind_runs(name, archives, tmp_path):
    told(run(name, archives, tmp_path))


@pytest.mark.extra
@pytest.mark.parametrize("name", sorted({*ROWS} - {*KINDS, *TOGETHER}))
def test_every_other_row_runs(name, archives, tmp_path):
    told(run(name, archives, tmp_path))


@pytest.mark.slow
def test_repetitions_have_their_folders_and_the_mean_counts(archives, tmp_path):
    whole = with_settings(load_experiment("omnisat-treesatai-raw"), reader=READERS["treesatai"])
    repeated = replace(whole, repeats={"aerial": {"modalities": ["aerial"]}, "radar": {"modalities": ["s1-des"]}})
    outcome = run_experiment(repeated, data=archives["treesatai"], out=tmp_path / "raw", say=lambda _: None)
    each = [json.loads((outcome.out / part / "metrics.json").read_text()) for part in ("aerial", "radar")]
    values = [metrics["raw"]["raw_100"]["macro_f1"] for metrics in each]
    assert values[0] != values[1]
    assert outcome.metrics["raw"]["raw_100"]["macro_f1"] == pytest.approx(sum(values) / 2)
    assert outcome.metrics["raw"]["raw_100"]["macro_f1_sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    lines = finished([tmp_path])
    assert len(lines) == 2  # not those of each repetition again
    assert "±" in lines[0].scores[100]
    assert "aerial, radar" in (outcome.out / "report.html").read_text()


@pytest.mark.extra
def test_rows_of_a_data_set_share_the_pretrained_model_and_a_table(archives, tmp_path):
    first, second = TOGETHER
    told(whole := run(first, archives, tmp_path))
    written = (whole.out / "pretrain" / "best.safetensors").stat().st_mtime_ns
    told(run(second, archives, tmp_path))
    assert (whole.out / "pretrain" / "best.safetensors").stat().st_mtime_ns == written
    assert not (tmp_path / second / "pretrain").exists()
    lines = finished([tmp_path])
    text = markdown(lines, published())
    assert text.count("### TreeSatAI-TS, weighted F1 in per cent") == 1
    assert "| all | OmniSat, pretrained | 61.1 | 74.2 | published, not ours: text of arXiv 2404.08351 |" in text
    ours = next(line for line in lines if line.modalities == "s2" and line.method == "OmniSat, pretrained")
    few, every = ours.scores[10], ours.scores[100]
    assert f"| s2 | OmniSat, pretrained | {few} | {every} | `{tmp_path / 'omnisat-treesatai-s2'}` |" in text
    assert "PASTIS" not in text  # nothing of ours to compare


def test_a_folder_without_rows_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text('{"probe": {}}')
    with pytest.raises(ValueError, match=r"no finished experiment with a row in a table under .*fusion experiment"):
        finished([tmp_path])


def test_published_values_are_what_the_sources_say():
    value = {(v.dataset, v.modalities, v.method): v.scores for v in published()}
    assert value["TreeSatAI-TS", "all", "OmniSat, pretrained"] == {10: "61.1", 100: "74.2"}
    assert value["PASTIS-HD", "s2", "OmniSat, pretrained"] == {100: "70.8"}
    assert value["FLAIR #2", "all", "DOFA"] == {100: "74.9"}


@pytest.mark.parametrize("name", ROWS)
def test_what_a_row_trains_is_the_published_protocol(name):
    """Budget, monitor and patience as published, unless the row is about another task."""
    steps = {next(iter(step)): next(iter(step.values())) for step in load_experiment(name).steps}
    if "pretrain" in steps:
        assert steps["pretrain"]["size"] == "paper"
        assert steps["pretrain"]["choose"] == "last"
        training = steps["pretrain"]["training"]
        assert (training["epochs"], training["min_epochs"], training["patience"]) == (200, 50, 40)
    if "finetune" in steps and not name.endswith("-map"):
        training = steps["finetune"]["training"]
        assert (training["monitor"], training["mode"], training["patience"]) == ("val/f1_macro", "max", 10)
        assert steps["finetune"]["rates"] == {"pretrained": 2e-4, "scratch": 2e-4, "frozen": 2e-3}
