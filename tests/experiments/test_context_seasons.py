"""Crops from the season: who may be learned from, what standardising by place takes away, what a vote does."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.evaluation.alignment import standardised_by_place
from fusion.experiments.context.worldcereal import seasons


@pytest.fixture(scope="module")
def ground() -> seasons.Ground:
    """Three patches of 16 x 16 pixels; the first feature tells the class beside an offset of the patch's own, classes
    2 and 3 are of one patch each."""
    rng = np.random.default_rng(0)
    row, column = (np.tile(axis.ravel(), 3) for axis in np.mgrid[:16, :16])
    patch = np.repeat(["a", "b", "c"], 256)
    y = row // 4 % 2
    y[(patch == "a") & (row < 2)] = 2
    y[(patch == "b") & (row < 2)] = -1
    y[(patch == "c") & (row < 2)] = 3
    offset = np.repeat([0.0, 40.0, -40.0], 256)
    told = np.stack([y % 2 + offset + 0.1 * rng.normal(size=768), rng.normal(size=768)], axis=1)
    told[5] = np.nan
    return seasons.Ground({"fused": told, "raw": rng.normal(size=(768, 2))}, y, patch, row, column, row // 4, 16)


def test_the_patch_that_is_scored_is_not_learned_from_and_its_classes_are(ground):
    splits = list(seasons.split_by_patch(ground, 50, 0))
    assert [split.name for split in splits] == ["a", "b", "c"]
    for split in splits:
        assert set(ground.patch[split.test]) == {split.name}
        assert {n: int((ground.patch[split.train] == n).sum()) for n in "abc" if n != split.name} == dict.fromkeys(
            [n for n in "abc" if n != split.name], 50
        )
        assert set(ground.y[split.test]) == set(ground.y[split.train]) == {0, 1}


def test_stripes_that_are_scored_are_not_learned_from(ground):
    split = seasons.split_by_stripe(ground, 1, 30, 0)
    assert len(split.train) == 90
    assert set(ground.column[split.train]) == {1, 2, 9, 10}
    assert set(ground.column[split.test]) == {5, 6, 13, 14}
    assert (ground.y[np.concatenate([split.train, split.test])] >= 0).all()


def test_standardising_by_place_takes_each_place_mean_and_spread_away(ground):
    found = np.nan_to_num(standardised_by_place(ground.x["fused"], ground.patch))
    assert (found[5] == 0).all()
    for name in "abc":
        own = found[(ground.patch == name) & np.isfinite(ground.x["fused"][:, 0])]
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-9)
        np.testing.assert_allclose(own.std(axis=0), 1, rtol=0.01)


def test_a_patch_with_an_offset_of_its_own_is_told_only_where_the_offset_is_taken_away(ground):
    split = next(iter(seasons.split_by_patch(ground, 200, 0)))
    probe = seasons.probes(ground, split, "fused", 0)["fused"]
    x = ground.x["fused"]
    right = [(probe(values) == ground.y[split.test]).mean() for values in (x, standardised_by_place(x, ground.patch))]
    assert right[0] < 0.7
    assert right[1] > 0.95


def test_controls_see_the_bands_under_the_same_probes_and_the_strongest(ground):
    split = seasons.split_by_stripe(ground, 1, 30, 0)
    assert list(seasons.probes(ground, split, "fused", 0)) == ["fused"]
    assert list(seasons.probes(ground, split, "raw", 0)) == ["raw", "raw_best"]


def test_parcels_are_touching_pixels_of_one_class_and_vote():
    labels = np.array([[0, 0, -1, 0], [1, 1, -1, 0]])
    parcels = seasons._parcels(labels)
    assert parcels.tolist() == [[1, 1, 0, 2], [3, 3, 0, 2]]
    assert seasons._voted(np.array([4, 2, 4, 2]), np.array([7, 7, 7, 9])).tolist() == [4, 4, 4, 2]
