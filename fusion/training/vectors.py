"""One vector a tile from what a model says of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from fusion.data import TileBatch

from .systems import config_of

__all__ = ["Pool", "joined", "pools_of", "tile_vectors", "token_means"]

Pool = Literal["mean", "summary", "both", "tokens"]

_OF_ENCODINGS = ("mean", "summary", "both")  # every system has these; the others are of tokens of single modalities


def pools_of(model: nn.Module) -> tuple[Pool, ...]:
    """What may stand for a tile of a model."""
    every: tuple[Pool, ...] = get_args(Pool)
    return tuple(pool for pool in every if pool in _OF_ENCODINGS or hasattr(model, "encode"))


def tile_vectors(model: nn.Module, batch: TileBatch, pool: Pool, modalities: Sequence[str]) -> Tensor:
    """(B, D): the mean of the patches of each tile, its summary, both, or the means of each modality's tokens."""
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


def joined(summary: Tensor, patches: Tensor, pool: str) -> Tensor:
    """(B, D) of summaries (B, D) and patches (B, P, D)."""
    if pool == "summary":
        return summary
    return patches.mean(1) if pool == "mean" else torch.cat([summary, patches.mean(1)], 1)
