"""One vector a tile from what a model says of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from fusion.data import TileBatch

from .systems import config_of

__all__ = [
    "BY_MODALITY",
    "PARTS",
    "Pool",
    "every_token",
    "joined",
    "pools_of",
    "season_means",
    "tile_vectors",
    "token_means",
]

Pool = Literal["mean", "summary", "both", "tokens", "seasons", "months"]
PARTS: dict[str, int] = {"seasons": 4, "months": 12}  # of the year, of pools that keep them apart

BY_MODALITY = ("tokens", *PARTS)  # pools of single modalities, before they are combined


def pools_of(model: nn.Module) -> tuple[Pool, ...]:
    """What may stand for a tile of a model; tokens, and parts of the year of its series, only where it has any."""
    series = any(m.kind == "series" for m in config_of(model).modalities) and hasattr(model, "encode_seasons")
    every: tuple[Pool, ...] = get_args(Pool)
    without = () if hasattr(model, "encode") else ("tokens",)
    return tuple(pool for pool in every if pool not in without and (series or pool not in PARTS))


def tile_vectors(model: nn.Module, batch: TileBatch, pool: Pool, modalities: Sequence[str]) -> Tensor:
    """(B, D): the mean of the patches of each tile, its summary, both, or the means of each modality's tokens, of the
    whole year or of each part of it."""
    if pool in PARTS:
        return season_means(model, batch, modalities, PARTS[pool])
    if pool == "tokens":
        return token_means(model, batch, modalities)
    encoded = model(batch)
    return joined(encoded.summary, encoded.patches, pool)


def token_means(model: nn.Module, batch: TileBatch, modalities: Sequence[str]) -> Tensor:
    """(B, M*D): of each modality the mean of its tokens, 0 where a tile does not have it."""
    seen = cast(Any, model).encode(batch)
    mean = seen.tokens.mean(2).masked_fill(~seen.valid[..., None], 0)  # (M, B, D)
    found, absent = dict(zip(seen.names, mean, strict=True)), torch.zeros_like(mean[0])
    names = [m.name for m in config_of(model).modalities if m.name in modalities]
    return torch.cat([found.get(name, absent) for name in names], dim=1)


def season_means(model: nn.Module, batch: TileBatch, modalities: Sequence[str], parts: int) -> Tensor:
    """(B, M*S*D): as :func:`token_means`, for each of S ``parts`` of the year."""
    names, tokens, valid = cast(Any, model).encode_seasons(batch, parts)
    means = tokens.mean(3).transpose(1, 2).flatten(2).masked_fill(~valid[..., None], 0)  # (M, B, S*D)
    found, absent = dict(zip(names, means, strict=True)), torch.zeros_like(means[0])
    known = [m.name for m in config_of(model).modalities if m.name in modalities]
    return torch.cat([found.get(name, absent) for name in known], dim=1)


def joined(summary: Tensor, patches: Tensor, pool: str) -> Tensor:
    """(B, D) of summaries (B, D) and patches (B, P, D)."""
    if pool == "summary":
        return summary
    return patches.mean(1) if pool == "mean" else torch.cat([summary, patches.mean(1)], 1)


def every_token(model: nn.Module, batch: TileBatch) -> tuple[Tensor, Tensor]:
    """All that a model has of a tile: tokens (B, N, D), and which of them there are (B, N) bool.

    A model that keeps more than its encoding offers ``every_token(batch)``; of others it is summary and patches.
    """
    if hasattr(model, "every_token"):
        return cast("tuple[Tensor, Tensor]", cast(Any, model).every_token(batch))
    encoded = model(batch)
    tokens = torch.cat([encoded.summary[:, None], encoded.patches], 1)
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
