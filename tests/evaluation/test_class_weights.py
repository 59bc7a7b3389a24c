"""Weights of classes: their numbers, the loss that they give, and fine-tuning with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from fusion.data import ArrayTiles, Modality, collate, fit_statistics
from fusion.evaluation import finetune
from fusion.evaluation.class_weights import balanced_weights, class_shares
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning, load_finetuned

CLASSES = ("water", "meadow", "forest", "snow")
QUIET = {"epochs": 1, "batch_size": 8, "progress": False}


def tiles(kind, count=20, seed=0):
    """Tiles of 2 x 2 patches of 8 pixels: 70 % water, 20 % meadow, 10 % forest, no snow; 9 is no label of a pixel."""
    rng = np.random.default_rng(seed)
    task, ignored = {"several": "multilabel", "quantity": "regression"}.get(kind, "multiclass"), -1
    if kind == "maps":
        labels, ignored = rng.choice([0, 1, 2, 9], (count, 16, 16), p=[0.6, 0.2, 0.1, 0.1]), 9
    elif kind == "several":
        labels = (rng.random((count, 4)) < [2, 0.3, 0.1, -1]).astype(np.float32)  # water everywhere
        labels[0, 1:3] = 1
    elif kind == "quantity":
        labels = rng.normal(size=(count, 1)).astype(np.float32)
    else:
        labels = np.repeat([0, 1, 2], [round(0.7 * count), round(0.2 * count), round(0.1 * count)])
    image = rng.normal(size=(count, 3, 16, 16)).astype(np.float32)
    modality = Modality("aerial", "image", ("R", "G", "B"), 1.0, 8)
    return ArrayTiles(
        [modality], {"aerial": image}, grid=(2, 2), task=task, labels=labels, ignore_index=ignored,
        classes=("height",) if kind == "quantity" else CLASSES,
    )  # fmt: skip


def model_of(data):
    torch.manual_seed(0)
    return OmniSat(OmniSatConfig.preset("tiny", fit_statistics(data), data.grid, dim=32, mlp_dim=64))


def module_of(data, **settings):
    shape = {"label_shape": data.label_shape, "ignore_index": data.ignore_index} if data.dense else {}
    torch.manual_seed(1)
    return Finetuning(model_of(data), data.task, data.classes, **shape, **settings)


@pytest.mark.parametrize("kind", ["tiles", "maps"])
def test_balanced_weights_are_those_of_scikit_learn_and_absent_classes_are_told(kind):
    data = tiles(kind, count=100)  # of maps more than are read at once
    weights, notes = balanced_weights(data)
    labels = data.labels().numpy().ravel()
    labels = labels[labels != 9]
    # scikit-learn counts the classes that occur, three of four.
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels) * 3 / 4
    assert weights == pytest.approx([*theirs, 0.0])
    what = "pixel" if kind == "maps" else "tile"
    assert notes == (f"balanced class weights: no labelled {what} of snow in training, weight 0",)


def test_of_several_classes_a_tile_yes_and_no_are_balanced():
    data = tiles("several")
    weights, notes = balanced_weights(data)
    there = data.labels().numpy().sum(0)
    assert weights == pytest.approx([1.0, (20 - there[1]) / there[1], (20 - there[2]) / there[2], 0.0])
    assert "of snow in training" in notes[0]


@pytest.mark.parametrize("head", ["linear", "patch", "decoder"])
def test_the_loss_of_tiles_patches_and_pixels_is_the_mean_of_weight_times_cross_entropy(head):
    data = tiles("tiles" if head == "linear" else "maps", count=6)
    module = module_of(data, head=head, class_weights=[0.5, 2.0, 3.0, 0.0]).eval()
    batch = collate([data[i] for i in range(6)])
    loss = module._loss(batch)[0]
    with torch.no_grad():
        out, labels = module(batch), batch.labels
        each = F.cross_entropy(out, labels.clamp(max=3), reduction="none")  # (B,) or (B, H, W)
    weights = torch.tensor([0.5, 2.0, 3.0, 0.0])[labels.clamp(max=3)]
    known = labels != 9
    assert loss.item() == pytest.approx((weights * each)[known].mean().item(), rel=1e-5)


def test_the_loss_of_several_classes_weighs_presence():
    data = tiles("several", count=6)
    module = module_of(data, class_weights=[1, 2, 3, 0]).eval()
    batch = collate([data[i] for i in range(6)])
    p, y, w = module(batch).sigmoid(), batch.labels, torch.tensor([1.0, 2, 3, 0])
    by_hand = -(w * y * p.log() + (1 - y) * (1 - p).log()).mean()
    assert module._loss(batch)[0].item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_batch_whose_labels_all_have_weight_0_teaches_nothing_and_breaks_nothing():
    data = tiles("tiles", count=10)
    module = module_of(data, class_weights=[0, 1, 1, 1])
    loss = module.training_step(collate([data[0], data[1]]), 0)  # water
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.eq(0).all() for p in module.parameters())


def test_weights_of_1_and_no_weights_are_the_same_fine_tuning(tmp_path):
    data = tiles("maps", count=8)
    rows = []
    for name, settings in {"plain": {}, "none": {"class_weights": "none"}, "ones": {"class_weights": [1] * 4}}.items():
        rows += finetune(
            model_of(data), data, data, tmp_path / name, starts=["scratch"], fractions=[1.0], seeds=[0],
            settings=settings | {"head": "patch"}, **QUIET,
        )  # fmt: skip
    plain, none, ones = (load_finetuned(tmp_path / name / "scratch-1-0") for name in ("plain", "none", "ones"))
    for key, value in plain.state_dict().items():
        assert torch.equal(value, none.state_dict()[key])  # the bits of before
        torch.testing.assert_close(value, ones.state_dict()[key], rtol=1e-3, atol=1e-4)
    assert rows[0].result.scores == rows[1].result.scores


def test_balanced_fine_tuning_counts_the_labels_it_trains_on_and_keeps_the_numbers(tmp_path):
    data = tiles("tiles", count=30)
    held_out, arguments = tiles("tiles", count=10, seed=1), {"starts": ["frozen"], "fractions": [1.0], "seeds": [0]}
    (row,) = finetune(
        model_of(data), data, data, tmp_path, validation=held_out, settings={"class_weights": "balanced"},
        **arguments, **QUIET,
    )  # fmt: skip
    module = load_finetuned(tmp_path / "frozen-1-0")
    assert module.hparams["class_weights"] == pytest.approx([30 / (4 * n) for n in (21, 6, 3)] + [0])
    assert module.class_weights.tolist() == pytest.approx(module.hparams["class_weights"])
    assert row.result.notes == ("balanced class weights: no labelled tile of snow in training, weight 0",)
    with pytest.raises(ValueError, match="class_weights"):  # it would go on with another loss
        finetune(
            model_of(data), data, data, tmp_path, validation=held_out, settings={"class_weights": [1, 2, 3, 4]},
            **arguments, **QUIET | {"epochs": 2},
        )  # fmt: skip


def test_balanced_weights_lift_a_rare_class(tmp_path):
    """A rare class that its colour tells poorly is predicted more often with balanced weights, or adjusted logits."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [54, 6])
    image = rng.normal(0, 1, (60, 3, 16, 16)) + labels[:, None, None, None] * 0.1
    modality = Modality("aerial", "image", ("R", "G", "B"), 1.0, 8)
    data = ArrayTiles(
        [modality], {"aerial": image.astype(np.float32)}, grid=(2, 2), task="multiclass", labels=labels,
        classes=("common", "rare"),
    )  # fmt: skip
    recall = {}
    ways = {"neither": {"logit_adjustment": 0.0}, "balanced": {"class_weights": "balanced"}, "adjusted": {}}
    for way, settings in ways.items():
        (row,) = finetune(
            model_of(data), data, data, tmp_path / way, starts=["frozen"], fractions=[1.0], seeds=[0],
            rates={"frozen": 1e-2}, settings=settings, **QUIET | {"epochs": 12, "batch_size": 30},
        )  # fmt: skip
        recall[way] = row.result.per_class["rare"]["recall"]
    assert min(recall["balanced"], recall["adjusted"]) > recall["neither"] + 0.2


def test_weights_that_cannot_be_are_refused(tmp_path):
    data, quantity = tiles("tiles"), tiles("quantity")
    for given in ([1, 2], [1, 2, -3, 4], [0, 0, 0, 0], "equal", [1, 2, float("nan"), 1], 3, [True] * 4):
        with pytest.raises(ValueError, match="class_weights are 'none', 'balanced' or 4 numbers of 0 or more, one of "):
            module_of(data, class_weights=given)
    with pytest.raises(ValueError, match="'balanced' needs the training labels; fine-tune with"):
        module_of(data, class_weights="balanced")
    with pytest.raises(ValueError, match="for a quantity, which has no classes"):
        module_of(quantity, class_weights=[1.0])
    with pytest.raises(ValueError, match="is for labels of classes; these 20 tiles have regression labels"):
        finetune(
            model_of(quantity), quantity, quantity, tmp_path, seeds=[0], fractions=[1.0],
            settings={"class_weights": "balanced"}, **QUIET,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["tiles", "maps"])
def test_shares_are_those_of_what_is_labelled(kind):
    data = tiles(kind, count=100)
    labels = data.labels().numpy().ravel()
    wanted = np.bincount(labels[labels != 9], minlength=4) / (labels != 9).sum()
    np.testing.assert_allclose(class_shares(data), wanted)


def test_fine_tuning_adjusts_by_the_labels_that_it_trains_on(tmp_path):
    data = tiles("tiles")
    finetune(model_of(data), data, data, tmp_path, starts=["scratch"], fractions=[1.0], seeds=[0], **QUIET)
    saved = load_finetuned(tmp_path / "scratch-1-0" / "best.safetensors")
    assert saved.hparams["logit_adjustment"] == 1.0
    torch.testing.assert_close(torch.tensor(saved.hparams["class_shares"]), torch.tensor([0.7, 0.2, 0.1, 0.0]))
    torch.testing.assert_close(saved.logit_offset, torch.tensor([0.7, 0.2, 0.1, 1.0]).log())


def test_maps_are_adjusted_where_that_is_asked_for(tmp_path):
    data, settings = tiles("maps"), {"fractions": [1.0], "seeds": [0], "starts": ["scratch"]}
    for part in (None, 0.5):
        asked = {} if part is None else {"logit_adjustment": part}
        finetune(model_of(data), data, data, tmp_path / str(part), settings=asked, **settings, **QUIET)
        saved = load_finetuned(tmp_path / str(part) / "scratch-1-0" / "best.safetensors")
        assert saved.hparams["logit_adjustment"] == (part or 0.0)
        assert (saved.logit_offset is None) == (part is None)
