"""Small places with a known relation, and tiny models of them, for the tests of this folder.

Temperature falls with elevation, and the greener the photo, the smaller its yearly swing; noise matters to nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from fusion.data import Modality, TileBatch, TileDataset, collate
from fusion.data.arrays import ArrayTiles
from fusion.token_fusion import MaskedPrediction, TokenFusion, TokenFusionConfig

RELIEF = Modality("relief", "image", ("elevation",), 20.0, 2, "m")
PHOTO = Modality("photo", "image", ("red", "green"), 20.0, 2, "8 bit")
NOISE = Modality("noise", "image", ("static",), 20.0, 2)
TEMPERATURE = Modality("temperature", "series", ("mean",), 40.0, 1, "degC")
MODALITIES = (RELIEF, PHOTO, NOISE, TEMPERATURE)
DAYS = np.arange(0, 360, 5)

TOKENIZERS = {
    "relief": {"kind": "scalar", "bins": 16},
    "photo": {"kind": "bins", "bins": 8},
    "noise": {"kind": "scalar", "bins": 16},
    "temperature": {"kind": "bins", "start": 0, "step": 20, "length": 18, "bins": 48},
}


@lru_cache
def places(count: int = 192, seed: int = 0) -> TileDataset:
    rng = np.random.default_rng(seed)
    elevation, green = rng.uniform(0, 1000, count), rng.uniform(0, 250, count)
    season = -np.cos(2 * np.pi * (DAYS - 15) / 365.25)
    series = 12 - 0.01 * elevation[:, None] + (10 - 0.024 * green[:, None]) * season + rng.normal(0, 0.3, (count, 72))
    flat = np.ones((count, 1, 4, 4))
    photo = np.stack([rng.uniform(0, 250, (count, 4, 4)), green[:, None, None] + rng.normal(0, 3, (count, 4, 4))], 1)
    return ArrayTiles(
        MODALITIES,
        {
            "relief": flat * elevation[:, None, None, None],
            "photo": photo,
            "noise": flat * rng.uniform(0, 1, (count, 1, 1, 1)),
            "temperature": np.broadcast_to(series[:, :, None, None, None], (count, 72, 1, 2, 2)),
        },
        {"temperature": DAYS},
        grid=(2, 2),
        names=[f"place {i}" for i in range(count)],
        task="regression",
        classes=["elevation"],
        labels=elevation[:, None].astype(np.float32),
        splits={"train": range(count * 3 // 4), "test": range(count * 3 // 4, count)},
    )


def batch(count: int = 6, first: int = 0) -> TileBatch:
    data = places()
    return collate([data[i] for i in range(first, first + count)], [m.name for m in MODALITIES])


@lru_cache
def fitted() -> TokenFusion:
    """Weights as they begin, tokenizers fitted: enough where nothing need be known."""
    torch.manual_seed(0)
    config = TokenFusionConfig(MODALITIES, (2, 2), TOKENIZERS, dim=32, depth=2, heads=2, mlp_dim=64, dropout=0.0)
    model = TokenFusion(config)
    model.tokenizer.fit(places().split("train"))
    return model.eval()


@lru_cache
def trained(steps: int = 250) -> TokenFusion:
    """The same model after a few seconds of training."""
    model = TokenFusion(fitted().config)
    model.load_state_dict(fitted().state_dict())
    data = places().split("train")
    tokens = model.tokenize(collate([data[i] for i in range(len(data))]))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    objective: Any = MaskedPrediction()
    generator = torch.Generator().manual_seed(0)
    from fusion.token_fusion.objective import draw_masks

    model.train()
    for _ in range(steps):
        some = tokens.rows(torch.randperm(len(tokens), generator=generator)[:48])
        visible, targets = draw_masks(some, some.layout, generator=generator)
        optimizer.zero_grad()
        objective.score(model, some, visible, targets).total.backward()
        optimizer.step()
        decay.step()
    return model.eval()
