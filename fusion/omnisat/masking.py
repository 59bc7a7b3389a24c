"""Which tokens of a tile are masked in pretraining."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["MaskedTokens", "Masking", "draw_masked", "drop_modalities"]

Masking = Literal["token", "modality"]
MaskedTokens = Literal["replace", "drop"]


def draw_masked(
    tiles: int,
    modalities: int,
    patches: int,
    ratio: float,
    generator: torch.Generator | None = None,
    masking: Masking = "token",
    valid: Tensor | None = None,
) -> Tensor:
    """(M, B, P) bool: which tokens to mask.

    Drawn on the CPU, so that the numbers of masked patches are known without waiting for a GPU.

    Args:
        ratio: ``"token"``: share of the M*P tokens of each tile, drawn jointly; one is kept at least. ``"modality"``:
            share of the valid modalities of each tile, rounded, that are masked as a whole; one is masked and one
            kept at least (a tile with one modality keeps it).
        valid: (M, B) bool on the CPU, which tiles have which modality; all of them by default.
    """
    if masking == "modality":
        there = torch.ones(modalities, tiles, dtype=torch.bool) if valid is None else valid
        count = there.sum(0)  # (B,)
        wanted = (ratio * count).round().clamp_min(1).minimum(count - 1)
        order = torch.rand(modalities, tiles, generator=generator).masked_fill(~there, 2).argsort(0).argsort(0)
        return (order < wanted)[..., None].expand(-1, -1, patches).clone()
    tokens = modalities * patches
    ranked = torch.rand(tiles, tokens, generator=generator).argsort(1)
    masked = torch.ones(tiles, tokens, dtype=torch.bool)
    masked.scatter_(1, ranked[:, : max(1, int((1 - ratio) * tokens))], False)
    return masked.view(tiles, modalities, patches).transpose(0, 1)


def drop_modalities(valid: Tensor, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """(M, B) bool ``valid`` less modalities that are left out, each with this probability; one of a tile stays."""
    if not probability:
        return valid
    chance = torch.rand(valid.shape, generator=generator).to(valid.device).masked_fill(~valid, -1)
    stays = chance == chance.amax(0, keepdim=True)  # the one that is least likely to go
    return valid & ((chance > probability) | stays)
