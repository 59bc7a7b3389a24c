"""Tiles from arrays: what arrives is what was given, gaps are gaps, and misfits are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Geo, Modality, collate, fit_statistics

S2 = Modality("s2", "series", ("B04", "B08"), 10.0, 1)
RELIEF = Modality("relief", "image", ("elevation",), 10.0, 1)
WIDE = Modality("wide", "image", ("R", "G"), 5.0, 2)
RNG = np.random.default_rng(0)


def pixels(**changes):
    """Five pixels of four dates, with labels and splits."""
    given = {
        "modalities": [S2, RELIEF],
        "values": {"s2": RNG.normal(size=(5, 4, 2)), "relief": np.arange(5)[:, None]},
        "days": {"s2": np.array([0, 30, 60, 90])},
        "task": "regression",
        "classes": ["yield"],
        "labels": np.arange(5, dtype=np.float32)[:, None],
        "splits": {"train": [0, 1, 2], "test": [3, 4]},
    }
    given |= changes
    return ArrayTiles(given.pop("modalities"), given.pop("values"), **given)


def test_tiles_are_the_arrays():
    values = RNG.normal(size=(5, 4, 2)).astype(np.float32)
    tiles = pixels(values={"s2": values, "relief": np.arange(5)[:, None]}, names=list("abcde"))
    batch = collate([tiles[i] for i in range(5)])
    np.testing.assert_array_equal(batch.values["s2"][..., 0, 0].numpy(), values)
    assert batch.values["relief"].flatten().tolist() == [0, 1, 2, 3, 4]
    assert batch.days["s2"].tolist() == [[0, 30, 60, 90]] * 5
    assert batch.valid["s2"].all()
    assert batch.valid["relief"].all()
    assert batch.labels.flatten().tolist() == [0, 1, 2, 3, 4]
    assert batch.names == tuple("abcde")
    assert tiles.split("test").names == ["d", "e"]
    assert [m.mean for m in fit_statistics(tiles)][1] == (2.0,)


def test_days_may_differ_between_tiles_and_random_views_do_not():
    days = np.arange(20).reshape(5, 4)
    tiles = pixels(days={"s2": days})
    assert tiles[3].days["s2"].tolist() == days[3].tolist()
    assert torch.equal(tiles[3, 7].values["s2"], tiles[3].values["s2"])


def test_what_is_nan_is_missing():
    values = np.ones((5, 4, 2), dtype=np.float32)
    values[1, 2, 0] = np.nan  # one band of one date
    values[2] = np.nan  # a whole tile
    relief = np.arange(5.0)[:, None]
    relief[4] = np.nan
    tiles = pixels(values={"s2": values, "relief": relief})
    assert tiles[1].valid["s2"].tolist() == [True, True, False, True]
    assert tiles[1].values["s2"][2].flatten().tolist() == [0, 0]
    assert list(tiles[2].values) == ["relief"]
    assert list(tiles[4].values) == ["s2"]
    batch = collate([tiles[i] for i in range(5)])
    assert batch.valid_tiles("s2").tolist() == [True, True, False, True, True]
    assert batch.valid_tiles("relief").tolist() == [True, True, True, True, False]


def test_missing_pixels_take_the_mean_of_their_band_in_the_tile():
    values = np.arange(2 * 2 * 4 * 2, dtype=np.float32).reshape(2, 2, 4, 2)
    values[0, 0, 0, 0] = np.nan
    values[1, 1, :, 0] = np.nan  # half of a band: just enough is left
    values[1, 0, :3] = np.nan  # too little is left
    tiles = ArrayTiles([WIDE], {"wide": values}, grid=(2, 1))
    filled = tiles[0].values["wide"]
    assert filled[0, 0, 0] == pytest.approx(np.nanmean(values[0, 0]))
    np.testing.assert_array_equal(filled[1].numpy(), values[0, 1])
    assert tiles[1].values == {}


def test_places_travel_with_the_tiles():
    place = Geo((10.0, 0, 0.0, 0, -10.0, 0), "EPSG:32632")
    assert pixels(places=[place] * 5).subset([2])[0].geo is place


def test_blocks_of_ground_travel_with_the_tiles_where_they_are_known():
    assert pixels().blocks() is None
    tiles = pixels(blocks=[0, 0, 1, 1, 2])
    assert tiles.blocks().tolist() == ["0", "0", "1", "1", "2"]
    assert tiles.subset([4, 1]).blocks().tolist() == ["2", "0"]
    with pytest.raises(ValueError, match="3 blocks for 5 tiles"):
        pixels(blocks=[0, 1, 2])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modalities": []}, "no modality given"),
        ({"values": {"s2": np.zeros((5, 4, 2))}}, "no values of 'relief' given"),
        (
            {"values": {"s2": np.zeros((5, 4, 3)), "relief": np.zeros((5, 1))}},
            r"\(5, 4, 3\); a series of 2",
        ),
        ({"values": {"s2": np.zeros((5, 4, 2)), "relief": np.zeros((4, 1))}}, "'relief' has 4 tiles, 's2' has 5"),
        ({"values": {"s2": np.zeros((5, 4, 2)), "relief": np.full((5, 1), np.inf)}}, "5 infinite values"),
        ({"values": {"s2": np.zeros((5, 4, 2)), "relief": np.full((5, 1), "x")}}, "numbers are wanted"),
        ({"values": {"s3": np.zeros((5, 4, 2))}}, "values of s3; the modalities are s2, relief"),
        ({"grid": (2, 2)}, "2 x 2 patches of 1 pixels"),
        ({"days": None}, "give its days"),
        ({"days": {"s2": np.arange(3)}}, "5 tiles of 4 dates"),
        ({"days": {"s2": np.linspace(0, 1, 4)}}, "type float64"),
        ({"names": ["a"]}, "1 names for 5 tiles"),
        ({"places": [None]}, "1 places for 5 tiles"),
        ({"labels": np.zeros((4, 1))}, "4 labels for 5 tiles"),
    ],
)
def test_misfits_are_named(changes, told):
    with pytest.raises(ValueError, match=told):
        pixels(**changes)


def test_what_is_numpys_becomes_pythons_own():
    s2 = Modality(
        np.str_("s2"),
        "series",
        np.array(["B04", "B08"]),
        np.float32(10),
        np.int64(1),
        mean=np.array([0.5, 0.25]),
        std=[np.float32(1), 2],
    )
    assert s2 == Modality("s2", "series", ("B04", "B08"), 10.0, 1, mean=(0.5, 0.25), std=(1.0, 2.0))
    assert [type(v) for v in (s2.name, *s2.bands)] == [str] * 3
    assert [type(v) for v in (s2.resolution, s2.patch_size, *s2.mean, s2.std[0])] == [float, int, float, float, float]
    tiles = pixels(
        modalities=[s2, RELIEF],
        days={"s2": [0, 30, 60, 90]},
        task=np.str_("multiclass"),
        classes=np.array(["maize", "wheat"]),
        labels=[np.int64(k) for k in (0, 1, 1, 0, 1)],
        names=np.array(list("abcde")),
        splits={np.str_("train"): np.array([0, 1, 2])},
    )
    assert tiles.classes == ("maize", "wheat")
    assert tiles[1].days["s2"].tolist() == [0, 30, 60, 90]
    assert tiles.labels().tolist() == [0, 1, 1, 0, 1]
    assert tiles.with_modalities(np.array(["relief", "s2"])).modalities == (RELIEF, s2)
    assert tiles.with_classes(np.array(["wheat"])).names == ["b", "c", "e"]
    batch = collate([tiles[0], tiles[1]], np.array(["relief", "s2"]))
    assert batch.modalities == ("relief", "s2")
    kept = [*tiles.classes, *tiles.names, *tiles.splits, tiles.task, *tiles.with_classes(np.array(["wheat"])).classes]
    assert {type(text) for text in kept} == {str}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Modality("s2", "series", "B04", 10.0, 1), r"modality 's2': bands is a list of names.* give \['B04'\]"),
        (lambda: Modality("s2", "series", (4, 8), 10.0, 1), "bands: names are text, 4 is of type int"),
        (lambda: pixels(classes="yield"), r"classes is a list of names, not the text 'yield'; give \['yield'\]"),
        (lambda: pixels().with_modalities("s2"), "modalities is a list of names, not the text 's2'"),
        (lambda: pixels().with_modalities([]), "none given"),
    ],
)
def test_one_text_is_not_taken_letter_by_letter(make, told):
    with pytest.raises(ValueError, match=told):
        make()
