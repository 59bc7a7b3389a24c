"""Probes find what is in features, do not find what is not, and say why they cannot."""

from dataclasses import replace

import numpy as np
import pytest

from fusion.evaluation import Features, forest_probe, knn_probe, linear_probe, penalties, probes

RNG = np.random.default_rng(1)


def features(n: int, task: str, noise: float = 0.3, informative: bool = True, classes: int = 3) -> Features:
    kinds = np.arange(n) % classes
    x = RNG.normal(size=(n, 6)).astype(np.float32)
    if informative:
        x[:, :classes] = 3 * np.eye(classes)[kinds] + noise * RNG.normal(size=(n, classes))
    y = {
        "multiclass": kinds,
        "multilabel": np.stack([kinds == 0, kinds <= 1, kinds == 2], 1).astype(np.float32),
        "regression": (100.0 * kinds[:, None] + 5).astype(np.float32),
    }[task]
    names = ("a", "b", "c") if task != "regression" else ("biomass",)
    return Features(x, y, tuple(f"t{i}" for i in range(n)), task, names)


ALL = [linear_probe, knn_probe, lambda a, b: forest_probe(a, b, trees=30)]
KEY = {"multiclass": "macro_f1", "multilabel": "macro_f1", "regression": "r2"}


@pytest.mark.parametrize("probe", ALL)
@pytest.mark.parametrize("task", list(KEY))
def test_what_is_there_is_found_and_what_is_not_is_not(probe, task):
    found = probe(features(60, task), features(45, task))
    assert found.scores[KEY[task]] > 0.9
    assert len(found.per_class) == len(features(3, task).classes)
    nothing = probe(features(60, task, informative=False), features(45, task, informative=False))
    assert nothing.scores[KEY[task]] < 0.7
    assert found.labelled == 60


def test_the_scale_of_a_feature_does_not_matter():
    train, test = features(60, "multiclass"), features(45, "multiclass")
    train.x[:, 5] = test.x[:, 5] = 0
    scaled = [Features(f.x * 10.0 ** np.arange(-3, 3) + 7, f.y, f.names, f.task, f.classes) for f in (train, test)]
    for probe in ALL[:2]:
        assert probe(*scaled).scores["macro_f1"] == pytest.approx(probe(train, test).scores["macro_f1"], abs=0.03)


def test_the_penalty_is_chosen_by_what_the_data_bear():
    clean, noisy = (features(90, "regression", noise=n) for n in (0.01, 30.0))
    assert linear_probe(clean, clean).setting["ridge"] < linear_probe(noisy, noisy).setting["ridge"]


def fields(seed: int) -> tuple[Features, np.ndarray]:
    """20 fields of 10 pixels: what they share with their class is weak, what makes each one of its own is strong."""
    rng = np.random.default_rng(seed)
    kinds, field = np.arange(200) // 10 % 2, np.arange(200) // 10
    own = rng.normal(size=(20, 24))[field]
    x = np.column_stack([kinds[:, None] + 0.4 * rng.normal(size=(20, 3))[field], own]) + 0.1 * rng.normal(
        size=(200, 27)
    )
    return Features(x.astype(np.float32), kinds, tuple(map(str, field)), "multiclass", ("a", "b")), field


def test_folds_of_whole_groups_choose_a_penalty_for_other_groups():
    (train, field), (test, _) = fields(0), fields(1)
    alone, grouped = linear_probe(train, test), linear_probe(train, test, groups=field)
    assert grouped.setting["C"] < alone.setting["C"]
    assert linear_probe(replace(train, blocks=field), test).scores == grouped.scores
    with pytest.raises(ValueError, match="3 groups of 200 tiles; give one a tile"):
        linear_probe(train, test, groups=field[:3])


def stands(seed: int) -> Features:
    """30 stands of 10 tiles: a quantity of the stand that 20 features tell weakly everywhere, and 20 others that only
    tell one stand from another."""
    rng = np.random.default_rng(seed)
    stand, level = np.repeat(np.arange(30), 10), rng.normal(size=30)
    told = np.column_stack([level[:, None] + 1.5 * rng.normal(size=(30, 20)), rng.normal(size=(30, 20))])
    x = told[stand] + 0.05 * rng.normal(size=(300, 40))
    y = level[stand] + 0.05 * rng.normal(size=300)
    names = tuple(map(str, range(300)))
    return Features(x.astype(np.float32), y[:, None], names, "regression", ("biomass",), blocks=stand.astype(str))


def test_single_tiles_left_out_choose_too_weak_a_ridge_and_whole_blocks_do_not():
    train, test = stands(0), stands(1)
    blocks, single = linear_probe(train, test), linear_probe(replace(train, blocks=None), test)
    assert single.setting["ridge"] < 0.1 * blocks.setting["ridge"]
    assert blocks.scores["r2"] > single.scores["r2"] + 0.15
    assert blocks.notes == ()
    assert single.notes[0].startswith("no blocks of ground are known: penalties are chosen by leaving out single tiles")


def test_folds_never_share_a_block_and_do_not_depend_on_features():
    y, groups = np.arange(60) % 3, np.arange(60) // 6
    first, second = (penalties.folds_of("multiclass", y, 0, groups) for _ in range(2))
    assert len(first) == 5
    for (fit, held_out), (same, other) in zip(first, second, strict=True):
        assert not set(groups[fit]) & set(groups[held_out])
        assert np.array_equal(fit, same)
        assert np.array_equal(held_out, other)
    classes = np.repeat([0, 1], 30)  # a block a class: nothing is learned from one, so single tiles are left out
    assert len(penalties.folds_of("multiclass", classes, 0, classes)) == 5


def test_the_same_seed_gives_the_same_result():
    train, test = features(60, "multiclass", noise=3), features(45, "multiclass", noise=3)
    a, b = linear_probe(train, test, seed=2), linear_probe(train, test, seed=2)
    assert np.array_equal(a.prediction, b.prediction)


def test_large_sets_are_searched_on_a_part_and_voted_on_in_blocks(monkeypatch):
    train, test = features(90, "multiclass", noise=2), features(45, "multiclass", noise=2)
    whole = [probe(train, test) for probe in (linear_probe, knn_probe)]
    monkeypatch.setattr(penalties, "_SEARCHED", 60)
    monkeypatch.setattr(probes, "_BLOCK", 7)
    parts = [probe(train, test) for probe in (linear_probe, knn_probe)]
    assert parts[1].scores == whole[1].scores
    assert parts[0].scores["macro_f1"] == pytest.approx(whole[0].scores["macro_f1"], abs=0.1)
    assert parts[0].labelled == 90


def test_missing_values_take_the_training_mean():
    train, test = features(60, "multiclass"), features(45, "multiclass")
    train.x[::7, 4], test.x[0, 3:] = np.nan, np.nan
    train.x[:, 5] = np.nan  # a modality nobody has
    for probe in ALL:
        assert probe(train, test).scores["macro_f1"] > 0.9


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("probe", ALL)
def test_a_class_without_labels_is_named_and_does_not_stop_the_probe(probe, task):
    train, test = features(60, task), features(45, task)
    train = train.subset(np.flatnonzero(np.arange(60) % 3 != 2))
    result = probe(train, test)
    assert result.notes[0] == "no labelled tile of c: never predicted, F1 0 where it occurs"
    assert result.per_class["c"]["f1"] == 0
    assert result.per_class["a"]["recall"] == 1


@pytest.mark.parametrize("probe", ALL)
def test_few_labels_work(probe):
    for n in (2, 3, 4, 7):
        assert probe(features(n, "multiclass"), features(45, "multiclass")).labelled == n


@pytest.mark.parametrize("probe", ALL)
def test_what_cannot_be_probed_is_explained(probe):
    train, test = features(30, "multiclass"), features(15, "multiclass")
    with pytest.raises(ValueError, match=r"1 labelled tile \(t0\) is not enough; give at least two"):
        probe(train.subset([0]), test)
    with pytest.raises(ValueError, match=r"have one class only \(b\), so there is nothing to learn"):
        probe(train.subset(range(1, 30, 3)), test)
    with pytest.raises(ValueError, match="all 5 tiles of the test split are of class 1"):
        probe(train, test.subset(range(1, 15, 3)))
    empty = Features(np.full((30, 6), np.nan, np.float32), train.y, train.names, "multiclass", train.classes)
    with pytest.raises(ValueError, match=r"all features of 30 of 30 training tiles are NaN, e.g. t0"):
        probe(empty, test)
    with pytest.raises(ValueError, match="the test tiles have no labels"):
        probe(train, Features(test.x, None, test.names))
    with pytest.raises(ValueError, match="training and test features differ"):
        probe(train, Features(test.x[:, :3], test.y, test.names, "multiclass", test.classes))
    constant = Features(train.x, np.ones((30, 3), np.float32), train.names, "multilabel", train.classes)
    with pytest.raises(ValueError, match="nothing to learn"):
        probe(constant, Features(test.x, np.eye(3)[test.y], test.names, "multilabel", test.classes))
