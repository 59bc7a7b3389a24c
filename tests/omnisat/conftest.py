"""Three small modalities of a 2x3 grid of 20 m patches: fine image, series of 2x2 pixels, coarse image."""

from collections.abc import Callable

import pytest
import torch

from fusion.data import Modality, TileBatch
from fusion.omnisat import OmniSatConfig

MODALITIES = (
    Modality("aerial", "image", ("R", "G", "B"), 2.0, 10, mean=(3.0, 4.0, 5.0), std=(2.0, 2.0, 2.0)),
    Modality("s2", "series", ("B02", "B03"), 10.0, 2),
    Modality("dem", "image", ("height",), 20.0, 1),
)
GRID = (2, 3)


@pytest.fixture
def config() -> OmniSatConfig:
    return OmniSatConfig.preset("tiny", MODALITIES, GRID, dim=16, mlp_dim=32, heads=2, series_heads=2)


@pytest.fixture
def batch() -> Callable[..., TileBatch]:
    """``batch(tiles, length, seed)``: everything observed."""

    def make(tiles: int = 3, length: int = 5, seed: int = 0) -> TileBatch:
        draw = torch.Generator().manual_seed(seed)
        values = {
            "aerial": torch.randn(tiles, 3, 20, 30, generator=draw) * 2 + 4,
            "s2": torch.randn(tiles, length, 2, 4, 6, generator=draw),
            "dem": torch.randn(tiles, 1, 2, 3, generator=draw),
        }
        days = {"s2": torch.randint(0, 366, (tiles, length), generator=draw).sort(1).values}
        valid = {
            "aerial": torch.ones(tiles, dtype=torch.bool),
            "s2": torch.ones(tiles, length, dtype=torch.bool),
            "dem": torch.ones(tiles, dtype=torch.bool),
        }
        return TileBatch(values, days, valid, names=tuple(f"t{i}" for i in range(tiles)))

    return make


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
