"""Small models of every system, and batches of random tiles for them."""

from __future__ import annotations

import math

import torch

from fusion.data import Modality, TileBatch
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.token_fusion import TokenFusion, TokenFusionConfig

from ..arrays.ground import AERIAL, GRID, S2
from ..token_fusion.small_places import GRID as SMALL_GRID
from ..token_fusion.small_places import MODALITIES, TOKENIZERS, make_places
from .outside import Given

SIZES = {"dim": 16, "mlp_dim": 32, "heads": 2, "depth": 1}


def omnisat(*modalities: Modality) -> OmniSat:
    torch.manual_seed(0)
    config = OmniSatConfig.preset("tiny", modalities or (S2, AERIAL), GRID, series_heads=2, **SIZES)
    return OmniSat(config).eval()


def token_fusion(**tokenizers: dict) -> TokenFusion:
    """Of height (image), photo (image) and weather (series), with their tokenizers fitted."""
    torch.manual_seed(0)
    settings = {**TOKENIZERS, **tokenizers}
    model = TokenFusion(TokenFusionConfig.preset("tiny", MODALITIES, SMALL_GRID, tokenizers=settings, **SIZES))
    model.tokenizer.fit(make_places())
    return model.eval()


def given(modalities: tuple[Modality, ...], grid: tuple[int, int], tiles: int, dates: int, seed: int = 0) -> Given:
    """Random tiles: some dates are not valid, and the first of several tiles lacks the last modality."""
    rng = torch.Generator().manual_seed(seed)
    values, days, valid = {}, {}, {}
    for m in modalities:
        shape = (tiles, *((dates,) if m.kind == "series" else ()), m.channels, *(side * m.patch_size for side in grid))
        mean, std = (torch.tensor(s or (d,) * m.channels)[:, None, None] for s, d in ((m.mean, 10.0), (m.std, 5.0)))
        values[m.name] = torch.randn(shape, generator=rng) * std + mean
        valid[m.name] = torch.ones(shape[: 2 if m.kind == "series" else 1], dtype=torch.bool)
        if m.kind == "series":
            days[m.name] = torch.randint(0, 180, (tiles, dates), generator=rng)
            valid[m.name][:, 1::3] = False
    if tiles > 1:
        valid[modalities[-1].name][0] = False
        values[modalities[-1].name][0] = math.nan
    return values, days, valid


def batch(tensors: Given) -> TileBatch:
    """The same as readers give it, without gaps."""
    values, days, valid = tensors
    return TileBatch({name: one.nan_to_num(0.0) for name, one in values.items()}, days, valid)
