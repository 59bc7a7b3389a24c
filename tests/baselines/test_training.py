"""The baselines learn, and the step that trains them in an experiment."""

import json
import re

import pytest
import torch
import yaml

from fusion.data import collate
from fusion.data.landscape import Landscape, LandscapeTiles
from fusion.training import SYSTEMS, Finetuning
from fusion.training.pretrain import configure
from fusion.workflow import load_experiment, run_experiment
from fusion.workflow.state import State
from fusion.workflow.steps import STEPS

QUICK = {"epochs": 1, "batch_size": 16}
NETWORKS = {
    "pse-ltae": {"size": "tiny"},
    "utae": {"model": {"encoder_widths": [8, 8], "decoder_widths": [8]}},
    "timm-image": {"model": {"resnet_width": 16}},
}


@pytest.fixture(scope="module")
def landscape():
    return LandscapeTiles(Landscape(size=64), max_dates=4, block=2)


@pytest.mark.parametrize(
    ("system", "fields"),
    [
        ("pse-ltae", {}),
        ("utae", {}),
        ("timm-image", {}),
        pytest.param("timm-image", {"series": "median"}, marks=pytest.mark.extra),
        pytest.param("timm-image", {"backbone": "vit-tiny"}, marks=pytest.mark.extra),
    ],
)
def test_eight_tiles_are_learned_by_heart(landscape, system, fields):
    config = SYSTEMS[system].load("config")
    tiles = landscape.with_modalities(config.usable(landscape.modalities, fields))
    torch.manual_seed(0)
    model = SYSTEMS[system].load("model")(configure(system, tiles, model=fields))
    module = Finetuning(model, tiles.task, tiles.classes)
    batch = collate([tiles[i] for i in range(0, 64, 8)])
    assert len(batch.labels.unique()) > 2
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(module(batch), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (module.eval()(batch).argmax(1) == batch.labels).all():
            return
        module.train()
    pytest.fail(f"after 60 steps {module.eval()(batch).argmax(1)}, not {batch.labels}")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """An experiment that fine-tunes from scratch and trains every baseline on the same labels."""
    out = tmp_path_factory.mktemp("baselines")
    same = {"fractions": [0.5], "training": QUICK}
    steps = [{"baseline": {"system": name, **fields, **same}} for name, fields in NETWORKS.items()]
    composites = {"name": "composites", "modalities": ["s2"], "model": {"series": "mean", "resnet_width": 16}}
    steps.append({"baseline": {"system": "timm-image", **composites, **same, "lr": 1e-3}})
    data = {"source": "landscape", "reader": {"size": 64, "block": 2, "fine": 4, "max_dates": 4}}
    expect = ["baselines.utae.macro_f1 >= 0", "baselines.pse-ltae.parameters > 1000"]
    experiment = {"title": "Baselines", "data": data, "steps": steps, "expect": expect, "seeds": 1}
    (out / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    lines = []
    found = run_experiment(load_experiment(out / "tiny.yaml"), out=out / "out", say=lines.append)
    (out / "lines.txt").write_text("\n".join(lines))
    return found


def test_baselines_of_one_key_share_a_group_and_a_table(outcome):
    metrics = json.loads((outcome.out / "metrics.json").read_text())
    rows = {"pse-ltae", "pse-ltae_s2", "pse-ltae_s1", "utae", "utae_s2", "utae_s1", "timm-image", "composites"}
    assert set(metrics["baselines"]) == rows | {"conditions"}
    assert set(metrics["baselines_loss"]) == {*NETWORKS, "composites"}
    assert metrics["baselines"]["conditions"].count("labelled tiles") == 1  # the same for all of them
    assert outcome.as_expected
    page = (outcome.out / "report.html").read_text()
    assert page.count("<h2>Supervised baselines</h2>") == 1
    assert page.count("<td>utae</td>") == page.count("<td>composites</td>") == 1
    assert page.count("data:image/png;base64,") == 4  # losses of each


def test_every_run_has_a_folder_and_a_checkpoint(outcome):
    for name in (*NETWORKS, "composites"):
        assert (outcome.out / "baselines" / name / "scratch-0.5-0" / "best.safetensors").is_file()


def test_the_step_says_what_it_trained_on_what(outcome):
    lines = (outcome.out.parent / "lines.txt").read_text()
    assert "baseline   utae tiny, 0.02 M parameters, on s2, s1. macro F1: utae " in lines
    assert "baseline   composites: timm-image tiny, 0.71 M parameters, on s2. macro F1: composites " in lines


def test_a_baseline_has_the_labels_of_fine_tuning(tmp_path, landscape):
    """Same splits, draws and budget: from scratch, the step is the step for fine-tuning of an equal model."""
    tiles = landscape.with_modalities(["s2"])
    parts = {"train": tiles.subset(range(40)), "test": tiles.subset(range(40, 64))}
    state = State(tmp_path, 3, parts)
    settings = {"fractions": [0.5], "draws": 2, "training": QUICK}
    STEPS["baseline"](state, system="pse-ltae", **settings)
    state.models["pretrained"] = SYSTEMS["pse-ltae"].load("model")(configure("pse-ltae", parts["train"]))
    STEPS["finetune"](state, starts=["scratch"], **settings)
    rows = state.metrics["baselines"]["pse-ltae"], state.metrics["finetune"]["scratch"]
    assert rows[0]["draws"] == rows[1]["draws"]
    assert state.metrics["baselines"]["conditions"] == state.metrics["finetune"]["conditions"]
    assert state.metrics["baselines_loss"]["pse-ltae"] == state.metrics["finetune_loss"]["scratch"]


def test_a_system_that_is_pretrained_elsewhere_may_be_a_baseline_too(tmp_path, landscape):
    parts = {"train": landscape.subset(range(40)), "test": landscape.subset(range(40, 64))}
    state = State(tmp_path, 0, parts)
    small = {"dim": 16, "depth": 1, "heads": 2, "series_heads": 2}
    STEPS["baseline"](state, system="omnisat", model=small, validation="test", training=QUICK)
    assert {"omnisat", "omnisat_aerial"} < set(state.metrics["baselines"])


def test_rows_under_other_conditions_say_so(tmp_path, landscape):
    parts = {"train": landscape.subset(range(40)), "test": landscape.subset(range(40, 64))}
    state = State(tmp_path, 0, parts)
    for name, fraction in (("half", 0.5), ("all", 1.0)):
        STEPS["baseline"](
            state, system="pse-ltae", modalities=["s1"], name=name, fractions=[fraction], training=QUICK, key="few"
        )
    conditions = state.metrics["few"]["conditions"]
    assert re.search(r"^\d+ \(50%\) labelled tiles of the 40 of split 'train'", conditions)
    assert "all: 40 (100%) labelled tiles of the 40 of split 'train'" in conditions
    assert [section.title for section in state.sections] == ["Supervised baselines: few"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"system": "resnet"}, "no system 'resnet'; there are omnisat"),
        ({"system": "timm-image", "modalities": ["s2"]}, "s2 is a series, and the network encodes images"),
        ({"system": "utae", "modalities": ["aerial"]}, "aerial is an image, and Utae encodes series only"),
        ({"system": "utae", "modalities": ["radar"]}, "no modality 'radar'"),
        ({"system": "utae", "model": {"depth": 3}}, "utae: .*'depth'; its fields are modalities"),
        ({"system": "utae", "size": "huge"}, "unknown preset 'huge'; one of tiny, small, paper"),
        ({"system": "utae", "labelled": "north"}, "no split 'north'"),
        ({"system": "utae", "name": "first"}, "there is a row 'first' in 'baselines' already"),
    ],
)
def test_mistakes_are_named(tmp_path, landscape, settings, told):
    state = State(tmp_path, 0, {"train": landscape, "test": landscape}, metrics={"baselines": {"first": {}}})
    with pytest.raises(ValueError, match=told):
        STEPS["baseline"](state, **settings)


def test_data_without_a_usable_modality_are_refused(tmp_path, landscape):
    state = State(tmp_path, 0, {"train": landscape.with_modalities(["aerial"]), "test": landscape})
    with pytest.raises(ValueError, match=r"pse-ltae can use none of the modalities of the data: aerial \(image\)"):
        STEPS["baseline"](state, system="pse-ltae")


@pytest.mark.parametrize("system", ["pse-ltae", "utae", "timm-image"])
def test_what_has_no_pretraining_says_so(system):
    with pytest.raises(ValueError, match="has no pretraining class"):
        SYSTEMS[system].load("pretraining")
