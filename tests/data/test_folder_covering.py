"""Tiles of a map cover a scene whose sides are no multiples of them."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.data import FolderDataset

from .rasters import image, write

AERIAL = {"files": "{scene}.tif", "bands": ["R", "G"], "resolution": 10, "axes": ["band", "y", "x"]}


def opened(tmp_path, side: int = 13, **changes) -> FolderDataset:
    write(tmp_path / "a.tif", image(0, side=side))
    description = {"files": "x", "tile": 80, "patch": 20, "modalities": {"aerial": AERIAL}} | changes
    return FolderDataset(description, tmp_path)


def seen(dataset: FolderDataset, side: int) -> np.ndarray:
    """How many tiles each pixel lies in, by the values that they hold."""
    counts = np.zeros((side, side), dtype=int)
    for i in range(len(dataset)):
        values = dataset[i].values["aerial"][0].numpy().astype(int) - 1000
        np.add.at(counts, (values // side, values % side), 1)
    return counts


def test_tiles_of_a_map_reach_the_border_pixel_by_pixel_or_patch_by_patch(tmp_path):
    data = opened(tmp_path)  # 130 m, tiles of 80 m
    assert seen(data, 13).min() == 0
    assert (seen(data.covering(0, by="pixel"), 13) > 0).all()
    by_patch = seen(data.covering(0), 13)
    assert (by_patch[:12, :12] > 0).all()  # the last begins at 40 m
    assert (by_patch[12] == 0).all()
    assert data.covering(0, by="pixel").names == ["a_r0000_c0000", "a_r0000_c0050", "a_r0050_c0000", "a_r0050_c0050"]


def test_neighbours_overlap_by_whole_patches_unless_a_stride_is_described(tmp_path):
    names = opened(tmp_path, side=16).covering(0.3).names  # 56 m apart: 40 m in whole patches
    assert [name[-4:] for name in names[:3]] == ["0000", "0040", "0080"]
    names = opened(tmp_path, side=16, stride=80).covering(0.3).names
    assert [name[-4:] for name in names[:2]] == ["0000", "0080"]


def test_a_tile_of_the_border_lies_where_its_values_are_from(tmp_path):
    data = opened(tmp_path).covering(0, by="pixel")
    place = data.places()[3]
    assert (place.transform[2], place.transform[5]) == (500_050.0, 5_599_950.0)
    assert data[3].values["aerial"][0, 0, 0] == 1000 + 5 * 13 + 5


def test_a_cover_is_refused_of_labelled_tiles_and_with_a_foolish_overlap(tmp_path):
    data = opened(tmp_path)
    with pytest.raises(ValueError, match="overlap 1 is a share of a tile's side, from 0 to below 1"):
        data.covering(1)
    write(tmp_path / "labels" / "a.tif", np.ones((13, 13), dtype=np.uint8))
    labels = {"files": "labels/{scene}.tif", "reduction": "none", "classes": {"one": 1}}
    with pytest.raises(ValueError, match="open the data without"):
        opened(tmp_path, labels=labels).covering()
