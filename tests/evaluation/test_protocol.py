"""The comparisons of a paper: modalities alone and together, controls, fractions of labels, fine-tuning."""

import numpy as np
import pytest
import torch
from tiny_system import S2, VHR, Meadows, TinyConfig, TinyModel, TinyTraining

from fusion.data import fraction
from fusion.evaluation import Features, combinations, compare, evaluate, extract, finetune, predict, probe, summarise
from fusion.training import fit, load_finetuned, load_model, save_model
from fusion.training.vectors import pools_of

QUIET = {"progress": False, "memory": "ignore"}


@pytest.fixture(scope="module")
def model() -> TinyModel:
    torch.manual_seed(0)
    return TinyModel(TinyConfig()).eval()


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_each_modality_alone_and_all_together(model, task):
    train, test = Meadows(24, task), Meadows(18, task)
    rows = evaluate(model, train, test)
    assert [(row.modalities, row.method) for row in rows] == [
        (("s2",), "linear"),
        (("s2",), "knn"),
        (("vhr",), "linear"),
        (("vhr",), "knn"),
        (("s2", "vhr"), "linear"),
        (("s2", "vhr"), "knn"),
    ]
    key = "r2" if task == "regression" else "macro_f1"
    assert all(row.result.scores[key] > 0.8 for row in rows)  # classes differ in season and in colour
    assert all(row.result.labelled == 24 for row in rows)


def test_controls_are_probed_with_the_same_labels(model):
    train, test = Meadows(40), Meadows(18)
    rows = compare(model, train, test, fractions=(0.2, 1.0), seeds=(0, 1))
    assert {row.features for row in rows} == {"pretrained", "random", "raw"}
    assert {row.method for row in rows if row.features == "raw"} == {"linear", "forest"}
    assert {row.result.labelled for row in rows if row.fraction == 0.2} == {8}
    entries = {(e["features"], e["method"], e["fraction"]): e for e in summarise(rows)}
    assert entries["pretrained", "linear", 0.2]["scores"]["macro_f1"].runs == 2
    assert entries["pretrained", "linear", 1.0]["scores"]["macro_f1"].runs == 1  # all labels can be drawn one way only
    assert entries["random", "linear", 1.0]["scores"]["macro_f1"].runs == 2  # but there are many random encoders
    assert entries["raw", "forest", 1.0]["labelled"] == 40


def test_the_strongest_control_learns_from_the_same_draws_where_it_is_asked_for(model):
    train, test = Meadows(40), Meadows(18)
    rows = compare(model, train, test, fractions=(0.5,), seeds=(0, 1), forest=False, control=True)
    assert [(row.method, row.result.labelled) for row in rows if row.features == "raw"] == [
        ("linear", 20),
        ("linear", 20),
        ("best", 20),
        ("best", 20),
    ]
    assert all(" on " in row.result.setting["control"] for row in rows if row.method == "best")


def test_fractions_of_labels_are_stratified_draws(model):
    train = Meadows(40)
    features = extract(model, train)
    rows = probe(features, extract(model, Meadows(9)), train, fractions=(0.25,), seeds=(0, 1, 2))
    assert [row.seed for row in rows] == [0, 1, 2]
    assert np.bincount(features.subset(fraction(train, 0.25, 0)).y).tolist() == [5, 5]
    assert fraction(train, 0.25, 0) != fraction(train, 0.25, 1)


def test_only_tiles_that_are_drawn_are_encoded_and_nothing_else_changes(model):
    train, test = Meadows(40), Meadows(9)
    whole = probe(extract(model, train), extract(model, test), train, fractions=(0.2,), seeds=(0, 1), probes=("knn",))
    few = evaluate(model, train, test, modalities=[["s2", "vhr"]], fractions=(0.2,), seeds=(0, 1), probes=("knn",))
    assert [row.result.scores for row in few] == [row.result.scores for row in whole]


def test_what_does_not_belong_together_is_refused(model):
    features = extract(model, Meadows(8))
    with pytest.raises(ValueError, match="trees unknown; there are linear, knn, forest"):
        probe(features, features, Meadows(8), probes=("trees",))
    with pytest.raises(ValueError, match=r"fraction 1.0, seed 0 draws tiles without features"):
        probe(features.subset([0, 1]), features, Meadows(8), rows=[3, 5])
    with pytest.raises(ValueError, match="features of 8 tiles, labels of 9"):
        probe(features, features, Meadows(9))
    stranger = TinyModel(TinyConfig(modalities=(VHR,)))
    with pytest.raises(ValueError, match="the model knows vhr, the data have s2: nothing in common"):
        combinations(stranger, Meadows(8).with_modalities(["s2"]))
    assert combinations(stranger, Meadows(8)) == [["vhr"]]


def test_pretraining_probing_and_fine_tuning_hold_together(tmp_path):
    torch.manual_seed(0)
    train, test = Meadows(40), Meadows(18)
    best = fit(TinyTraining(), train, test, tmp_path / "pretrain", epochs=3, batch_size=8, **QUIET)
    model = load_model(best)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rows = finetune(
        model, train, test, tmp_path / "fine", fractions=(0.25, 1.0), seeds=(0,), epochs=3, batch_size=4, **QUIET
    )
    assert [(row.features, row.fraction, row.result.labelled) for row in rows] == [
        (start, fraction, n) for fraction, n in ((0.25, 10), (1.0, 40)) for start in ("pretrained", "frozen", "scratch")
    ]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    tuned = load_finetuned(tmp_path / "fine" / "frozen-1-0")
    assert torch.equal(tuned.model.encoders["s2"].weight, model.encoders["s2"].weight)  # frozen weights stay
    tuned = load_finetuned(tmp_path / "fine" / "pretrained-1-0")
    assert not torch.equal(tuned.model.encoders["s2"].weight, model.encoders["s2"].weight)
    row = next(row for row in rows if (row.features, row.fraction) == ("pretrained", 1.0))
    assert np.array_equal(predict(tuned, test), row.result.prediction)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_are_fine_tuned_too(tmp_path, model, task):
    path = save_model(tmp_path / "a.safetensors", model)
    rows = finetune(
        path,
        Meadows(16, task),
        Meadows(9, task),
        tmp_path / "fine",
        validation=Meadows(6, task),
        starts=("pretrained",),
        fractions=(1.0,),
        seeds=(0,),
        rates={"pretrained": 1e-3},
        epochs=1,
        **QUIET,
    )
    assert rows[0].result.prediction.shape == rows[0].result.target.shape


def test_an_interrupted_comparison_goes_on(tmp_path, model, monkeypatch):
    train, test = Meadows(16), Meadows(9)
    settings = {"starts": ("frozen",), "fractions": (1.0,), "epochs": 1, **QUIET}
    first = finetune(model, train, test, tmp_path, seeds=(0,), **settings)
    state = (tmp_path / "frozen-1-0" / "last.ckpt").stat().st_mtime_ns
    both = finetune(model, train, test, tmp_path, seeds=(0, 1), **settings)
    assert (tmp_path / "frozen-1-0" / "last.ckpt").stat().st_mtime_ns == state
    assert both[0].result.scores == first[0].result.scores
    assert len(both) == 2


def test_fine_tuning_says_what_it_cannot_do(tmp_path, model):
    with pytest.raises(ValueError, match="2 labelled tiles are too few to hold a fifth of them out"):
        finetune(model, Meadows(20), Meadows(9), tmp_path, fractions=(0.1,), seeds=(0,), **QUIET)
    with pytest.raises(ValueError, match="start warm unknown; there are pretrained, scratch, frozen"):
        finetune(model, Meadows(20), Meadows(9), tmp_path, starts=("warm",), **QUIET)
    unlabelled = TinyModel(TinyConfig(modalities=(S2,)))
    with pytest.raises(ValueError, match="the model has s2, not vhr"):
        finetune(unlabelled, Meadows(20), Meadows(9), tmp_path, fractions=(1.0,), seeds=(0,), **QUIET)


def test_the_pool_is_the_one_that_holds_the_signal_and_the_test_tiles_have_no_say():
    rng = np.random.default_rng(0)
    data = Meadows(40)
    labels, names = data.labels().numpy(), tuple(data.names)

    def of(x: np.ndarray) -> Features:
        return Features(x.astype(np.float32), labels, names, "multiclass", data.classes, blocks=np.arange(40) // 4)

    signal = of(labels[:, None] + 0.1 * rng.normal(size=(40, 3)))
    noise = of(rng.normal(size=(40, 3)))
    for pools in ({"mean": noise, "tokens": signal}, {"mean": signal, "tokens": noise}):
        holds = next(pool for pool, features in pools.items() if features is signal)
        swapped = {"mean": pools["tokens"], "tokens": pools["mean"]}  # on the test tiles the other pool tells more
        for test in (pools, swapped):
            rows = probe(pools, test, data, fractions=(0.5,), seeds=(0, 1))
            assert [row.result.setting["pool"] for row in rows] == [holds, holds]


def test_every_encoder_chooses_among_all_that_it_offers(model):
    assert pools_of(model) == ("mean", "summary", "both")
    rows = compare(model, Meadows(40), Meadows(18), fractions=(0.5,), forest=False, pool="auto")
    chosen = {row.features: row.result.setting.get("pool") for row in rows}
    assert chosen["pretrained"] in pools_of(model)
    assert chosen["random"] in pools_of(model)
    assert chosen["raw"] is None
