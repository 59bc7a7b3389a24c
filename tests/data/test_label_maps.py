"""Labels that are maps, and labels that stay in their files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.data import Modality, Tile, TileDataset, fraction

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
