"""A toy world: every patch has a known ground position, and a model whose embedding says which it is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fusion.data import Geo, Modality, Tile, TileDataset

PATCH = 2  # pixels a patch side
RESOLUTION = 10.0
OPTICAL = Modality("optical", "image", ("east", "north"), RESOLUTION, PATCH)


class Places(TileDataset):
    """Tiles whose two bands are the x and y of the pixel centres, for the places given."""

    def __init__(self, places: list[Geo | None], grid: tuple[int, int] = (3, 3), absent: frozenset[int] = frozenset()):
        super().__init__([f"tile{i}" for i in range(len(places))], (OPTICAL,), grid)
        self.where, self.absent = places, absent

    def _place(self, row: int) -> Geo | None:
        return self.where[row]

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        if row in self.absent:
            return Tile(self._names[row], {})
        place = self.where[row] or Geo((RESOLUTION, 0, 0, 0, -RESOLUTION, 0), "")
        a, _, c, _, e, f = place.transform
        rows, columns = (n * PATCH for n in self.grid)
        x = torch.tensor([c + a * (k + 0.5) for k in range(columns)])
        y = torch.tensor([f + e * (k + 0.5) for k in range(rows)])
        return Tile(self._names[row], {"optical": torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)])})


class Positions(nn.Module):
    """Embeds a patch as (x, y, 1, 0) of its centre, in kilometres."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1e-3))

    def forward(self, batch):
        pixels = batch.values["optical"]  # (B, 2, H, W)
        centres = nn.functional.avg_pool2d(pixels, PATCH).flatten(2).mT * self.scale  # (B, P, 2)
        rest = torch.tensor([1.0, 0.0]).expand(*centres.shape[:2], 2)
        return SimpleNamespace(patches=torch.cat([centres, rest], dim=-1))


def tile_at(row: int, column: int, *, crs: str = "EPSG:32632", x0: float = 500.0, y0: float = 900.0) -> Geo:
    """The place of a tile whose upper left patch is (row, column) of a lattice with its origin at (x0, y0)."""
    side = PATCH * RESOLUTION
    return Geo((RESOLUTION, 0.0, x0 + column * side, 0.0, -RESOLUTION, y0 - row * side), crs)


@pytest.fixture
def model() -> Positions:
    return Positions()
