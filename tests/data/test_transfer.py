"""Splits by scene, on cubes that are made here: what is tested, what is learned, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion.data import FolderDataset
from fusion.data.transfer import scenes_of, squares, transfers

CLASSES = {"one": 1, "two": 2, "three": 3}


def cubes(folder: Path, scenes: dict[str, np.ndarray], kind: str = "classes") -> FolderDataset:
    """Scenes of 8 x 8 tiles of 20 m, with a label map of 16 x 16 pixels of 10 m each."""
    rng = np.random.default_rng(0)
    for name, labels in scenes.items():
        values = rng.normal(size=(1, 2, 16, 16)).astype(np.float32)
        np.savez(folder / f"{name}.npz", s2=values, days=np.array(["2020-06-01"], "datetime64[D]"), y=labels)
    labels = {"variable": "y", "resolution": 10}
    labels |= (
        {"reduction": "mean"} if kind == "quantity" else {"reduction": "majority", "nodata": 0, "classes": CLASSES}
    )
    s2 = {"variable": "s2", "bands": ["a", "b"], "resolution": 10, "unit": "1", "dates": "days"}
    table = {"files": "{scene}.npz", "tile": 20, "patch": 20, "modalities": {"s2": s2}, "labels": labels}
    return FolderDataset(table, folder)


def quantity(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> FolderDataset:
    return cubes(tmp_path_factory.mktemp("pair"), {"a": quantity(0), "b": quantity(1)}, "quantity")


def test_two_scenes_are_both_directions(pair):
    found = transfers(pair)
    assert list(found) == ["b-to-a", "a-to-b"]
    parts = found["a-to-b"]
    assert set(scenes_of(parts["test"])) == {"b"}
    assert set(scenes_of(parts["known"])) == {"a"}
    assert (len(parts["test"]), len(parts["known"]), len(parts["all"])) == (64, 64, 128)


def test_validation_is_whole_squares_of_the_training_scene(pair):
    parts = transfers(pair)["a-to-b"]
    train, val = parts["train"], parts["val"]
    assert sorted(train.names + val.names) == sorted(parts["known"].names)
    assert len(val) == 16  # four squares of 2 x 2 tiles, the first number of whole ones that is a fifth of 64
    known = dict(zip(parts["known"].names, squares(parts["known"]), strict=True))
    assert not {known[name] for name in train.names} & {known[name] for name in val.names}


def test_a_scene_is_cut_into_sixteen_squares(pair):
    names, counts = np.unique(squares(pair), return_counts=True)
    assert len(names) == 32  # of two scenes
    assert set(counts) == {4}
    assert {name.split("/")[0] for name in names} == {"a", "b"}


def test_without_validation_all_of_the_scene_is_trained_on(pair):
    parts = transfers(pair, validation=0.0)["a-to-b"]
    assert parts["train"].names == parts["known"].names
    assert "val" not in parts


def test_of_more_scenes_each_is_left_out_once(tmp_path):
    three = cubes(tmp_path, {"a": quantity(0), "b": quantity(1), "c": quantity(2)}, "quantity")
    found = transfers(three)
    assert list(found) == ["to-a", "to-b", "to-c"]
    assert set(scenes_of(found["to-b"]["known"])) == {"a", "c"}
    assert list(transfers(three, folds=2)) == ["to-fold-1", "to-fold-2"]
    with pytest.raises(ValueError, match="folds 4 of 3 scenes"):
        transfers(three, folds=4)


def test_common_classes_are_those_that_every_scene_has(tmp_path):
    a, b = np.ones((16, 16), np.int16), np.ones((16, 16), np.int16)
    a[4:8], a[8:10] = 2, 3
    b[4:8] = 2
    data = cubes(tmp_path, {"a": a, "b": b})
    assert set(data.classes) >= {"one", "two"}
    found = transfers(data, classes="common")["a-to-b"]
    assert found["test"].classes == ("one", "two")
    assert found["known"].classes == ("one", "two")
    assert len(found["known"]) == 56  # without the eight tiles of class three
    assert int(found["known"].labels().max()) == 1
    with pytest.raises(ValueError, match=r"only one has 20 labels or more in each of a, b; give classes: all"):
        transfers(data, classes="common", least=20)


def test_what_cannot_be_transferred_is_named(pair, tmp_path):
    with pytest.raises(ValueError, match="all 64 tiles lie in one scene, a; two or more"):
        transfers(transfers(pair)["a-to-b"]["known"])
    with pytest.raises(ValueError, match="classes 'common' is for classes; a quantity has none"):
        transfers(pair, classes="common")
    with pytest.raises(ValueError, match="by 'place', classes 'all'"):
        transfers(pair, by="place")
    with pytest.raises(ValueError, match=r"validation 1\.5"):
        transfers(pair, validation=1.5)
