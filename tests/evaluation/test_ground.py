"""Blocks of ground: those that are known, and parts of ground where there is only one."""

from __future__ import annotations

import numpy as np

from fusion.data import ArrayTiles, Geo, Modality
from fusion.evaluation import raw_statistics
from fusion.evaluation.ground import cut, ground_blocks

RELIEF = Modality("relief", "image", ("elevation",), 10.0, 1)


def tiles(blocks=None, places: bool = True, count: int = 64) -> ArrayTiles:
    """A square of 8 x 8 tiles of 10 m."""
    row, column = np.divmod(np.arange(count), 8)
    lie = [Geo((10.0, 0.0, 10.0 * c, 0.0, -10.0, -10.0 * r), "EPSG:32632") for r, c in zip(row, column, strict=True)]
    return ArrayTiles(
        [RELIEF],
        {"relief": np.ones((count, 1), np.float32)},
        task="regression",
        classes=["biomass"],
        labels=np.arange(count, dtype=np.float32)[:, None],
        blocks=blocks,
        places=lie if places else None,
    )


def test_a_square_without_blocks_is_cut_into_its_four_quarters():
    parts = ground_blocks(tiles()).reshape(8, 8)
    assert len(np.unique(parts)) == 4
    for quarter in (parts[:4, :4], parts[:4, 4:], parts[4:, :4], parts[4:, 4:]):
        assert len(np.unique(quarter)) == 1


def test_blocks_that_are_known_are_taken_and_two_are_cut_each_on_its_own():
    three = np.arange(64) % 3
    assert ground_blocks(tiles(three)).tolist() == three.astype(str).tolist()
    two = np.arange(64) // 32
    parts = ground_blocks(tiles(two))
    assert len(np.unique(parts)) == 8
    assert not set(parts[:32]) & set(parts[32:])


def test_without_places_two_blocks_are_two_and_one_is_none():
    assert len(np.unique(ground_blocks(tiles(np.arange(64) // 32, places=False)))) == 2
    assert ground_blocks(tiles(np.zeros(64), places=False)) is None
    assert ground_blocks(tiles(places=False)) is None


def test_tiles_of_one_row_are_never_on_both_sides_and_few_are_not_cut():
    line = np.column_stack([np.zeros(10), np.repeat(np.arange(2), 5)])
    assert cut(line, ["a"] * 10).tolist() == ["a-0"] * 5 + ["a-1"] * 5
    assert len(np.unique(cut(np.arange(6).reshape(3, 2), ["a"] * 3))) == 1


def test_features_carry_their_blocks_through_subsets():
    features = raw_statistics(tiles())
    assert features.subset([0, 63]).blocks.tolist() == [features.blocks[0], features.blocks[63]]
