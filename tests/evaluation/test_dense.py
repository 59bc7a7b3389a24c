"""Scores of maps against counts made by hand, and fine-tuning on labels that are maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, mean_absolute_error, r2_score

from fusion.data import ArrayTiles, Modality, fit_statistics
from fusion.evaluation import finetune
from fusion.evaluation.dense import confusion_scores, score_maps
from fusion.evaluation.intervals import sample_sums, scores_of_sums
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning, load_finetuned
from fusion.training.dense import PatchHead, PyramidHead

CLASSES = ("water", "meadow", "forest", "snow")


def tiles(count=12, labels="classes", seed=0):
    """Tiles of 2 x 2 patches of 8 pixels; the class (or quantity) of a pixel is told by its colour, 9 is no label."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (count, 4, 4)).repeat(4, 1).repeat(4, 2)  # (N, 16, 16), fields of 4 x 4 pixels
    image = np.stack([truth == k for k in range(3)], 1) * 100.0 + rng.normal(0, 5, (count, 3, 16, 16))
    modality = Modality("aerial", "image", ("R", "G", "B"), 1.0, 8)
    if labels == "classes":
        maps = torch.from_numpy(np.where(rng.random(truth.shape) < 0.1, 9, truth))
        task, names = "multiclass", CLASSES
    else:
        quantity = 10.0 * truth + 100
        maps = torch.from_numpy(np.where(rng.random(truth.shape) < 0.1, np.nan, quantity)).float()
        task, names = "regression", ("height",)
    return ArrayTiles(
        [modality], {"aerial": image.astype(np.float32)}, grid=(2, 2), task=task, classes=names, labels=maps,
        ignore_index=9,
    )  # fmt: skip


def model_of(data):
    torch.manual_seed(0)
    return OmniSat(OmniSatConfig.preset("tiny", fit_statistics(data), data.grid, dim=32, mlp_dim=64))


def test_scores_of_a_confusion_matrix_are_those_of_its_pixels():
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    counts = np.zeros((4, 4), dtype=int)
    np.add.at(counts, (target, prediction), 1)
    scores, classes = confusion_scores(counts, CLASSES)
    assert scores["miou"] == pytest.approx(jaccard_score(target, prediction, average="macro"))
    assert scores["macro_f1"] == pytest.approx(f1_score(target, prediction, average="macro"))
    assert scores["weighted_f1"] == pytest.approx(f1_score(target, prediction, average="weighted"))
    assert scores["accuracy"] == pytest.approx((target == prediction).mean())
    assert classes["meadow"]["iou"] == pytest.approx(jaccard_score(target, prediction, average=None)[1])
    assert classes["snow"]["support"] == 0
    assert np.isnan(classes["snow"]["iou"])


def test_a_split_of_one_class_has_no_score():
    counts = np.zeros((4, 4), dtype=int)
    with pytest.raises(ValueError, match="all pixels of the test split are without label"):
        confusion_scores(counts, CLASSES)
    counts[1] = 5
    with pytest.raises(ValueError, match="of class meadow, so no score says anything"):
        confusion_scores(counts, CLASSES)


class Constant(torch.nn.Module):
    """Says the same map of every tile."""

    def __init__(self, data, out):
        super().__init__()
        self.model, self.task, self.dense = model_of(data), data.task, True
        self.out = torch.nn.Parameter(out)

    def forward(self, batch):
        return self.out[None].expand(len(batch), -1, -1, -1)


def test_pixels_without_label_count_in_no_score():
    data = tiles(5)
    guess = torch.randint(0, 3, (16, 16), generator=torch.Generator().manual_seed(1))
    module = Constant(data, torch.nn.functional.one_hot(guess, 4).permute(2, 0, 1).float())
    result = score_maps(module, data, 3, batch_size=2)
    labels = data.labels().numpy()
    known = labels != 9
    predicted = np.broadcast_to(guess.numpy(), labels.shape)
    assert result.scores["miou"] == pytest.approx(jaccard_score(labels[known], predicted[known], average="macro"))
    assert result.per_class["water"]["support"] == (labels[known] == 0).sum()
    assert result.labelled == 3
    assert len(result.target) == known.sum()  # few enough to be kept as they are
    assert 9 not in result.target


def test_a_quantity_is_scored_on_the_pixels_that_have_it():
    data = tiles(5, "quantity")
    guess = torch.linspace(90, 130, 256).view(1, 16, 16)
    result = score_maps(Constant(data, guess), data, 5, batch_size=2)
    labels = data.labels().numpy()
    known = np.isfinite(labels)
    predicted = np.broadcast_to(guess[0].numpy(), labels.shape)
    assert result.scores["r2"] == pytest.approx(r2_score(labels[known], predicted[known]))
    assert result.scores["mae"] == pytest.approx(mean_absolute_error(labels[known], predicted[known]))


@pytest.mark.parametrize(("head", "start"), [("decoder", "scratch"), ("patch", "frozen"), (None, "pretrained")])
def test_finetuning_on_maps_of_classes(tmp_path, head, start):
    data = tiles(16)
    (row,) = finetune(
        model_of(data), data.subset(range(12)), data.subset(range(12, 16)), tmp_path, starts=[start], fractions=[1.0],
        seeds=[0], rates={start: 3e-3}, settings={} if head is None else {"head": head}, epochs=30, batch_size=4,
        progress=False,
    )  # fmt: skip
    module = load_finetuned(tmp_path / f"{start}-1-0")
    assert isinstance(module.head, PatchHead if head == "patch" else PyramidHead)
    assert set(row.result.scores) == {"miou", "macro_f1", "weighted_f1", "accuracy"}
    # A decoder sees fields within a patch; one label a patch cannot.
    assert row.result.scores["miou"] > 0.9 if head != "patch" else row.result.scores["miou"] < 0.6


def test_finetuning_on_maps_of_a_quantity(tmp_path):
    data = tiles(16, "quantity")
    (row,) = finetune(
        model_of(data), data.subset(range(12)), data.subset(range(12, 16)), tmp_path, starts=["scratch"],
        fractions=[1.0], seeds=[0], rates={"scratch": 3e-3}, epochs=30, batch_size=4, progress=False,
    )  # fmt: skip
    assert row.result.scores["r2"] > 0.9
    module = load_finetuned(tmp_path / "scratch-1-0")
    assert 100 < module.target_mean.item() < 120  # in the unit of the labels, NaN left out


def test_a_batch_without_a_labelled_pixel_teaches_nothing_and_breaks_nothing():
    data = tiles(2)
    module = Finetuning(model_of(data), "multiclass", CLASSES, label_shape=(16, 16), ignore_index=9)
    from fusion.data import collate

    batch = collate([data[0], data[1]])
    batch.labels[:] = 9
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.eq(0).all() for p in module.parameters())


def test_heads_and_labels_that_do_not_fit_are_refused():
    data = tiles(2)
    with pytest.raises(ValueError, match="head is 'patch' or 'decoder', not 'mlp', where labels are maps"):
        Finetuning(model_of(data), "multiclass", CLASSES, head="mlp", label_shape=(16, 16))
    with pytest.raises(ValueError, match="one class or one quantity a pixel, not multilabel"):
        Finetuning(model_of(data), "multilabel", CLASSES, label_shape=(16, 16))


@pytest.mark.parametrize("labels", ["classes", "quantity"])
def test_the_sums_of_tiles_and_the_confusion_matrix_of_maps_are_those_of_all_their_pixels(labels):
    data = tiles(5, labels)
    guess = torch.linspace(90, 130, 256).view(1, 16, 16)
    if labels == "classes":
        guess = torch.nn.functional.one_hot((guess[0].long() % 3), 4).permute(2, 0, 1).float()
    result = score_maps(Constant(data, guess), data, 5, batch_size=2)
    truth = data.labels().numpy()
    said = np.broadcast_to(guess.argmax(0).numpy() if labels == "classes" else guess[0].numpy(), truth.shape)
    found = scores_of_sums(data.task, result.sums.sum(0)[None])
    for name, value in result.scores.items():
        assert found[name][0] == pytest.approx(value, rel=1e-9)
    for tile in range(5):
        known = truth[tile] != 9 if labels == "classes" else np.isfinite(truth[tile])
        t, p = truth[tile][known], said[tile][known]
        if labels == "classes":
            own = sample_sums("multiclass", t, p, 4).sum(0)
            assert np.array_equal(result.sums[tile], own)
        else:
            assert result.sums[tile, 0, [0, 3, 4]] == pytest.approx(
                [known.sum(), ((p - t) ** 2).sum(), np.abs(p - t).sum()]
            )
    if labels == "classes":
        known = truth != 9
        assert np.array_equal(result.confusion, confusion_matrix(truth[known], said[known], labels=range(4)))
    else:
        assert result.confusion is None
