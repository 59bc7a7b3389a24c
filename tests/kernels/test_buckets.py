"""Bucket tables of relative positions: the original's values, their closed form, and which tables have one."""

from __future__ import annotations

import pytest
import torch

from fusion.kernels import euclidean_buckets
from fusion.kernels.attention.euclidean import BUCKETS, coordinates, grid_of


def test_buckets_are_those_of_the_original(golden):
    numbers = golden("omnisat")["rpe"]
    assert euclidean_buckets(6, 6).tolist() == numbers["bucket_6x6_skip1_37x37"]
    line = euclidean_buckets(1, 60, extra=0)[0]
    assert line.tolist() == numbers["distance_to_bucket_0_to_59"]


@pytest.mark.parametrize("size", [(3, 3), (5, 9), (32, 32)])
def test_buckets_have_their_closed_form(size):
    height, width = size
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, column = row.reshape(-1), column.reshape(-1)
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    expected = 3 + (squared >= 1).long() + (squared >= 3).long() + (squared >= 13).long()
    table = euclidean_buckets(height, width, extra=2)
    assert torch.equal(table[2:, 2:], expected)
    assert (table[:2] == 7).all()
    assert (table[:, :2] == 7).all()


@pytest.mark.parametrize("grid", [(1, 1, 0), (3, 3, 1), (2, 8, 0), (8, 2, 2), (6, 6, 1), (1, 40, 3)])
def test_a_euclidean_table_is_recognised_and_follows_from_coordinates(grid):
    bucket = euclidean_buckets(*grid)
    assert euclidean_buckets(*grid_of(bucket.int())).equal(bucket)
    query, key = (coordinates(grid_of(bucket), keys).float() for keys in (False, True))
    squared = query @ key.T
    beyond = sum((squared >= bound).long() for bound in (1, 3, 13, 1 << 23))
    assert torch.tensor(BUCKETS)[beyond].equal(bucket)


def test_coordinates_of_the_longest_sides_are_exact():
    query, key = (coordinates((1024, 1, 0), keys) for keys in (False, True))
    row = torch.arange(1024)
    assert torch.equal((query.float() @ key.float().T).long(), (row[:, None] - row) ** 2)
    assert (query.float() @ key.float().T).max() < 1 << 23


def test_another_table_is_not_taken_for_a_euclidean_one():
    changed = euclidean_buckets(5, 4)
    changed[7, 3] = 3
    assert grid_of(changed) is None
    assert grid_of(torch.full((4, 4), 7)) is None
    assert grid_of(torch.zeros(6, 6, dtype=torch.long)) is None


def test_bucket_table_needs_a_grid():
    with pytest.raises(ValueError, match="0 x 4"):
        euclidean_buckets(0, 4)
