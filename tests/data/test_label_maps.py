"""Labels that are maps, and labels that stay in their files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.data import Modality, Tile, TileDataset, fraction
from fusion.data.check import check, check_labels

MODALITY = Modality("s2", "image", ("B04",), 10.0, 2)
MAPS = torch.tensor([[[0, 1], [2, 9]], [[2, 2], [9, 9]], [[1, 1], [1, 0]]])


class InFiles(TileDataset):
    """Three tiles whose maps are read when they are asked for; 9 is no label."""

    def __init__(self) -> None:
        super().__init__(
            ["a", "b", "c"],
            [MODALITY],
            (1, 1),
            task="multiclass",
            classes=("water", "meadow", "forest"),
            label_shape=(2, 2),
            ignore_index=9,
        )
        self.read: list[int] = []

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        return Tile(self._names[row], {"s2": torch.zeros(1, 2, 2)})

    def _read_label(self, row: int) -> Tensor:
        self.read.append(row)
        return MAPS[row]


def test_a_map_is_read_with_its_tile_and_no_other():
    tiles = InFiles()
    assert tiles.dense
    assert tiles.label_shape == (2, 2)
    assert torch.equal(tiles[1].label, MAPS[1])
    assert tiles.read == [1]
    assert torch.equal(tiles.subset([2, 0]).labels(), MAPS[[2, 0]])


def test_pixels_of_classes_that_are_left_out_have_no_label():
    kept = InFiles().with_classes(["forest", "water"])
    assert len(kept) == 3
    assert kept.classes == ("forest", "water")
    assert kept.labels().tolist() == [[[1, 9], [0, 9]], [[0, 0], [9, 9]], [[9, 9], [9, 1]]]
    assert kept.with_classes(["water"])[0].label.tolist() == [[0, 9], [9, 9]]


def test_all_labels_are_drawn_without_reading_one():
    tiles = InFiles()
    assert fraction(tiles, 1.0) == [0, 1, 2]
    assert tiles.read == []


def test_few_labels_are_drawn_by_the_most_frequent_class_of_a_map():
    assert fraction(InFiles(), 0.1) == [0, 1, 2]  # most frequent: water, forest, meadow; one of each


def test_a_task_without_labels_is_refused():
    with pytest.raises(ValueError, match="belong together"):
        TileDataset(["a"], [MODALITY], (1, 1), task="multiclass", classes=("water",))


class Many(InFiles):
    """As many tiles as wanted, all with the first map; a tile that is named ``spoiled`` has a damaged file."""

    def __init__(self, tiles: int, spoiled: int = -1) -> None:
        super().__init__()
        self._names = [f"t{i}" for i in range(tiles)]
        self._rows = np.arange(tiles)
        self.spoiled = spoiled

    def _read_label(self, row: int) -> Tensor:
        if row == self.spoiled:
            raise ValueError(f"t{row}.tif: cannot be read, the file is damaged or incomplete")
        super()._read_label(0)
        return MAPS[0]


def test_a_report_reads_some_labels_of_many_and_says_how_many():
    tiles = Many(1203)
    report = check(tiles, tiles=3)
    assert len(tiles.read) == 500 + 3
    assert report.labels == "multiclass, of 500 evenly spaced tiles: water 500, meadow 500, forest 500"
    few = Many(40)
    assert check(few, tiles=3).labels == "multiclass, water 40, meadow 40, forest 40"
    assert len(few.read) == 40 + 3


def test_a_report_goes_on_where_labels_cannot_be_read_and_tells_each_file_once():
    report = check(Many(5, spoiled=2))
    assert report.labels == "cannot be read"
    assert report.problems == ["t2.tif: cannot be read, the file is damaged or incomplete"]
    assert check(Many(40, spoiled=20), tiles=2).problems == [
        "t20.tif: cannot be read, the file is damaged or incomplete"
    ]


def test_a_class_of_no_pixel_is_told_with_what_was_looked_at():
    tiles = Many(1000)
    tiles.classes = ("water", "meadow", "forest", "rock")
    assert "no example of rock in 500 of 1000 tiles: scores of these classes mean nothing" in check(tiles, 2).warnings


def test_pixels_without_label_do_not_count_and_labels_can_be_learned():
    tiles = InFiles()
    check_labels(tiles)
    assert "water 2, meadow 4, forest 3" in check(tiles).labels
    tiles.classes = ("water", "meadow", "forest", "rock")
    with pytest.raises(ValueError, match="no label of rock in 3 tiles"):
        check_labels(tiles)
