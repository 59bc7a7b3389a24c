"""Maps of a tile at several resolutions, for heads that label pixels.

Beside the encodings of patches there is what the encoders know of their inside: the maps of an image encoder before
each of its poolings, and of a series whose patches have several pixels its mean over dates, weighted by attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import OmniSatConfig
from .image import pyramid
from .tokens import Tokens

__all__ = ["Level", "level_maps", "levels"]


@dataclass(frozen=True)
class Level:
    """One map: of which modality, pixels per side of a patch, channels."""

    modality: str
    side: int
    channels: int


def levels(config: OmniSatConfig) -> list[Level]:
    """The maps beyond the patch grid, coarse to fine; the same for every batch, whatever it lacks."""
    found = []
    for modality in config.modalities:
        if modality.kind == "image":
            sides = pyramid(modality.patch_size)[1][1:-1]  # of the blocks' maps; the last is the token
            found += [Level(modality.name, side, config.dim) for side in sides]
        elif modality.patch_size > 1:
            found.append(Level(modality.name, modality.patch_size, modality.channels))
    return sorted(found, key=lambda level: level.side)


def level_maps(config: OmniSatConfig, seen: Tokens) -> list[Tensor]:
    """(B, C, rows * side, columns * side) of every level; 0 where a tile does not have its modality."""
    rows, columns = config.grid
    out = []
    for level in levels(config):
        if level.modality not in seen.names:
            shape = (seen.tokens.shape[1], level.channels, rows * level.side, columns * level.side)
            out.append(seen.tokens.new_zeros(shape))
            continue
        if level.modality in seen.maps:
            maps = next(m for m in seen.maps[level.modality] if m.shape[-1] == level.side)  # (B*P, D, side, side)
        else:
            attention = seen.attention[level.modality].to(seen.patches[level.modality].dtype)
            mean = torch.einsum("bplc,bl->bpc", seen.patches[level.modality], attention)
            maps = mean.flatten(0, 1).unflatten(1, (level.channels, level.side, level.side))
        whole = maps.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        valid = seen.valid[seen.names.index(level.modality)]  # (B,)
        out.append(whole.masked_fill(~valid[:, None, None, None], 0))
    return out
