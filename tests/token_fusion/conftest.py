from collections.abc import Callable

import pytest
import torch

from fusion.data import TileBatch, TileDataset, collate
from fusion.token_fusion import TokenFusion, TokenFusionConfig

from .small_places import GRID, MODALITIES, TOKENIZERS, make_places


@pytest.fixture(scope="session")
def places() -> TileDataset:
    return make_places()


@pytest.fixture(scope="session")
def config() -> TokenFusionConfig:
    return TokenFusionConfig.preset(
        "tiny", MODALITIES, GRID, tokenizers=TOKENIZERS, dim=16, depth=2, heads=2, mlp_dim=32
    )


@pytest.fixture(scope="session")
def fitted(config, places) -> TokenFusion:
    torch.manual_seed(0)
    model = TokenFusion(config)
    model.tokenizer.fit(places)
    return model.eval()


@pytest.fixture
def batch(places) -> Callable[..., TileBatch]:
    """``batch(4)`` are the first four places; ``batch(4, ["height"])`` only their heights."""

    def make(count: int = 4, names: list[str] | None = None) -> TileBatch:
        some = collate([places[i] for i in range(count)], [m.name for m in MODALITIES])
        return some.select(names) if names else some

    return make
