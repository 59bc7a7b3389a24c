"""What the labelled pixels of a patch say, and which patches are learned from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_system import TinyConfig, TinyModel

from fusion.data import ArrayTiles, Modality
from fusion.evaluation.patches import patch_features, stratified_sample, vote
from fusion.evaluation.raw_patches import RawPatches
from fusion.training.loading import evaluation_loader


def test_the_class_of_most_labelled_pixels_is_that_of_the_patch():
    labels = np.array([[[1, 1, -1, -1], [0, -1, -1, -1], [2, 0, 2, 2], [0, 2, 2, 1]]])
    assert vote(labels, (2, 2), "multiclass", 3, -1).tolist() == [[[1, -1], [0, 2]]]  # of equally many the first


def test_the_mean_of_the_labelled_pixels_is_that_of_the_patch():
    labels = np.array([[[1.0, np.nan, np.nan], [4.0, np.nan, np.nan]]])
    found = vote(labels, (1, 3), "regression", 1, -1)
    assert found[0, 0, 0] == 2.5
    assert np.isnan(found[0, 0, 1:]).all()


@pytest.mark.parametrize(("pixels", "cells"), [((7, 5), (3, 2)), ((6, 6), (2, 3)), ((3, 2), (6, 4))])
def test_pixels_belong_to_the_patch_whose_value_they_get(pixels, cells):
    """The vote of what a prediction by patch is enlarged to is that prediction."""
    by_patch = np.random.default_rng(0).integers(0, 4, (5, *cells))
    if pixels[0] >= cells[0]:
        maps = F.interpolate(torch.from_numpy(by_patch)[:, None].float(), pixels)[:, 0].long().numpy()
    else:  # patches smaller than pixels take the pixel's label
        maps = by_patch[:, ::2, ::2]
        by_patch = maps.repeat(2, 1).repeat(2, 2)
    assert (vote(maps, cells, "multiclass", 4, -1) == by_patch).all()


def test_a_sample_keeps_shares_and_rare_classes():
    classes = np.repeat([0, 1, 2], [8000, 1990, 10])
    chosen = stratified_sample(classes, 1000, 0, classes)
    counts = np.bincount(classes[chosen])
    assert counts.sum() == len(np.unique(chosen)) == 1000
    assert counts[2] == 10  # all there are
    assert counts[0] / counts[1] == pytest.approx(4, rel=0.15)
    assert (chosen == stratified_sample(classes, 1000, 0, classes)).all()
    assert (chosen != stratified_sample(classes, 1000, 1, classes)).any()
    by_share = np.bincount(classes[stratified_sample(classes, 1000, 0)])
    assert by_share.tolist() in ([800, 199, 1], [800, 198, 2], [799, 199, 2])


def tiles(task: str = "multiclass") -> ArrayTiles:
    """Six tiles of 2 x 2 patches of 2 x 2 pixels, labels at twice the resolution, the last tile without any."""
    rng = np.random.default_rng(0)
    s2 = Modality("s2", "series", ("B03", "B04", "B08"), 10.0, 1, "reflectance x 10000")
    vhr = Modality("vhr", "image", ("R", "G", "B"), 2.5, 4, "8 bit")
    labels = rng.integers(0, 2, (6, 4, 4))
    labels[:, 0, 0] = labels[-1] = -1
    maps = labels if task == "multiclass" else np.where(labels < 0, np.nan, labels * 10.0).astype(np.float32)
    return ArrayTiles(
        (s2, vhr),
        {"s2": rng.normal(2000, 100, (6, 3, 3, 2, 2)), "vhr": rng.normal(100, 10, (6, 3, 8, 8))},
        {"s2": np.array([10, 130, 140])},
        grid=(2, 2),
        labels=maps,
        task=task,
        classes=("a", "b") if task == "multiclass" else ("height",),
    )


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_features_of_patches_are_the_model_s_beside_what_their_pixels_say(task):
    data, model = tiles(task), TinyModel(TinyConfig()).eval()
    found, groups = patch_features(model, data, batch_size=4)
    batch = next(iter(evaluation_loader(data, 6)))
    with torch.no_grad():
        wanted = model(batch).patches.numpy()[:5].reshape(20, -1)
    assert np.allclose(found.x, wanted, atol=1e-6)
    assert (found.labels.ravel() == vote(data.labels().numpy(), (2, 2), task, 2, -1)[:5].ravel()).all()
    assert groups.tolist() == list(np.repeat(data.names[:5], 4))  # tiles, where no blocks are known
    few, _ = patch_features(model, data, most=8)
    assert len(few) == 8
    assert np.isclose(few.x[:, None], found.x[None], atol=1e-6).all(2).any(1).all()


def test_raw_patches_are_the_statistics_of_their_bands():
    data = tiles()
    batch = next(iter(evaluation_loader(data, 6)))
    patches = RawPatches(TinyModel(TinyConfig()), data.modalities)(batch).patches.numpy()  # (6, 4, 3 * 6 + 3 * 2)
    series, image = batch.values["s2"].numpy()[:, :, :, 0, 1], batch.values["vhr"].numpy()[:, :, :4, 4:]
    seen = patches[:, 1]
    assert np.allclose(seen[:, :3], series.mean(1), rtol=1e-5)
    assert np.allclose(seen[:, 3:6], series.std(1), rtol=1e-4)
    assert np.allclose(seen[:, 6:9], series[:, 0], rtol=1e-6)  # January
    assert np.allclose(seen[:, 9:12], series[:, 1:].mean(1), rtol=1e-6)  # two dates of May
    assert np.isnan(seen[:, 12:18]).all()
    assert np.allclose(seen[:, 18:21], image.mean((2, 3)), rtol=1e-5)
    assert np.allclose(seen[:, 21:], image.std((2, 3)), rtol=1e-4)
