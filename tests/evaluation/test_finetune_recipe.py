"""How long fine-tuning trains, on what it is augmented with, and which tiles choose the best epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_system import Meadows, TinyConfig, TinyFinetuning, TinyModel

from fusion.data import ArrayTiles, Augmentation, Modality, fit_statistics
from fusion.evaluation import finetune
from fusion.evaluation.budget import enough_epochs
from fusion.evaluation.held_out import enough_to_choose_by, hold_out
from fusion.evaluation.tuner import augmented
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning, read_header

S2 = Modality("s2", "series", ("a",), 10.0, 1)


def fields(blocks=None, task="multiclass", labels=None, tiles: int = 200) -> ArrayTiles:
    """Pixels in 20 blocks of ten; class 2 lives in two of the blocks alone."""
    rng = np.random.default_rng(1)
    if labels is None:
        labels = torch.tensor([2 if i // 10 in (3, 11) else int(rng.integers(2)) for i in range(tiles)])
    classes = tuple("abc")[: 3 if labels.ndim == 1 and task != "regression" else labels.reshape(tiles, -1).shape[1]]
    values, days = {"s2": rng.normal(size=(tiles, 4, 1))}, {"s2": np.arange(4) * 30}
    return ArrayTiles([S2], values, days, task=task, classes=classes, labels=labels, blocks=blocks)


def block_names(tiles: int = 200) -> list[str]:
    return [f"block{i // 10}" for i in range(tiles)]


def module(**settings) -> Finetuning:
    return Finetuning(TinyModel(TinyConfig()), "multiclass", ["class0", "class1"], **settings)


@pytest.mark.parametrize("seed", range(5))
def test_whole_blocks_are_held_out_and_every_class_stays_to_be_learned(seed):
    fitted, held, note = hold_out(fields(block_names()), seed)
    assert note == ""
    assert not set(fitted.blocks()) & set(held.blocks())
    assert len(fitted) + len(held) == 200
    assert 20 <= len(held) <= 60
    assert set(fitted.labels().tolist()) == {0, 1, 2}
    share = [float((part.labels() == 0).float().mean()) for part in (fitted, held)]
    assert share[0] == pytest.approx(share[1], abs=0.2)


def test_another_seed_holds_other_blocks_out_and_the_same_the_same():
    held = [set(hold_out(fields(block_names()), seed)[1].blocks()) for seed in (0, 0, 1, 2)]
    assert held[0] == held[1]
    assert len({frozenset(part) for part in held}) > 1


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_blocks_of_several_classes_and_of_quantities_are_held_out_whole(task):
    rng = np.random.default_rng(0)
    labels = (
        (rng.random((200, 3)) < [0.5, 0.3, 0.1]).astype(np.float32) if task == "multilabel" else rng.random((200, 1))
    )
    fitted, held, _ = hold_out(fields(block_names(), task, torch.tensor(labels).float()), 0)
    assert not set(fitted.blocks()) & set(held.blocks())
    mean = [part.labels().mean(0) for part in (fitted, held)]
    torch.testing.assert_close(mean[0], mean[1], atol=0.15, rtol=0)


def test_blocks_of_a_tile_each_are_held_out_where_no_class_has_five():
    labels = torch.arange(6) % 3
    few = ArrayTiles(
        [S2], {"s2": np.ones((6, 4, 1))}, {"s2": np.arange(4) * 30}, task="multiclass", classes=tuple("abc"),
        labels=labels, blocks=list(range(6)),
    )  # fmt: skip
    fitted, held, note = hold_out(few, 0)
    assert (len(fitted) + len(held), note) == (6, "")
    assert 1 <= len(held) <= 2
    assert set(fitted.labels().tolist()) == {0, 1, 2}


def test_random_tiles_are_held_out_with_a_note_where_blocks_are_few_or_unknown():
    fitted, held, note = hold_out(fields([i // 50 for i in range(200)]), 0)
    assert (len(fitted), len(held)) == (160, 40)
    assert note == (
        "the best epoch was chosen by 40 random tiles, neighbours of training tiles perhaps: only 4 blocks of ground "
        "are known"
    )
    assert hold_out(fields(), 0)[2].endswith("no blocks of ground are known")


@pytest.mark.parametrize(
    ("settings", "training", "held"),
    [
        ({}, {}, False),
        ({"schedule": "plateau"}, {}, True),  # which waits for val/loss
        ({"recipe": "paper"}, {}, True),
        ({}, {"patience": 2}, True),
    ],
)
def test_few_labels_are_all_trained_on_where_the_schedule_ends_by_itself(tmp_path, settings, training, held):
    torch.manual_seed(0)
    labels = torch.arange(40) % 3
    few = ArrayTiles(
        [S2], {"s2": np.random.default_rng(0).normal(size=(40, 4, 1))}, {"s2": np.arange(4) * 30}, task="multiclass",
        classes=tuple("abc"), labels=labels,
    )  # fmt: skip
    model = OmniSat(OmniSatConfig.preset("tiny", fit_statistics(few), (1, 1), dim=8, mlp_dim=8, heads=2))
    how = {"starts": ["scratch"], "fractions": [1.0], "seeds": [0], "epochs": 1, "progress": False}
    (row,) = finetune(model, few, few, tmp_path, settings=settings, **how, **training)
    (note,) = row.result.notes
    assert note.startswith("the best epoch was chosen by" if held else "all 40 labels were trained on to the end")
    assert ("val/loss" in read_header(tmp_path / "scratch-1-0").metrics) == held


def test_enough_labels_are_held_out_for_the_choice_of_an_epoch():
    assert [enough_to_choose_by(fields(tiles=n)) for n in (499, 500)] == [False, True]


def test_epochs_are_as_many_as_make_enough_steps(capsys):
    def chosen(tiles: int, **training) -> dict:
        return enough_epochs(module(), Meadows(tiles), training)

    assert chosen(640, batch_size=32)["epochs"] == 75  # 20 steps each: 1500
    assert capsys.readouterr().out == "75 epochs of 20 steps (1500 steps; --training.epochs takes another number)\n"
    assert chosen(24)["epochs"] == 500  # one step each: no more than 500
    assert chosen(32 * 400)["epochs"] == 10  # 400 steps each: no fewer than 10
    assert chosen(640, limit_train_batches=10)["epochs"] == 150
    capsys.readouterr()
    assert chosen(640, epochs=3) == {"epochs": 3}
    assert chosen(640, progress=False, max_steps=7) == {"progress": False, "max_steps": 7}
    assert chosen(640, progress=False)["epochs"] == 75
    assert capsys.readouterr().out == ""


def test_the_paper_and_a_module_of_ones_own_keep_the_epochs_of_fit():
    assert enough_epochs(module(recipe="paper"), Meadows(64), {}) == {}
    assert enough_epochs(TinyFinetuning(TinyModel(TinyConfig()), "multiclass", ("a",)), Meadows(64), {}) == {}


def test_training_views_are_changed_as_asked_for_or_as_the_recipe_says():
    mild = Augmentation(date_dropout=0.2, modality_dropout=0.1, gain=0.1, offset=0.1)
    tiles, flips = Meadows(8), Augmentation(flips=True)
    assert augmented(tiles, None, module()).augmentation == mild
    assert augmented(tiles, None, module(recipe="paper")).augmentation.nothing
    assert augmented(tiles, flips, module()).augmentation == flips
    assert augmented(tiles, Augmentation(), module()).augmentation.nothing
    assert augmented(tiles.with_augmentation(flips), None, module()).augmentation == flips
    view = augmented(tiles, None, module())[0, 3]
    assert any(not torch.equal(value, tiles[0, 3].values[name]) for name, value in view.values.items())
