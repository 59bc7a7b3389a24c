"""Modalities that say the same in all patches of a tile: weather, or pixels that are coarser than the tile.

Patch against patch they have nothing to compare: the patch in another modality would be attracted by one of the copies
and repelled by the others, which are equal. And what is masked in one patch stands unmasked in the next.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .tokens import Tokens

__all__ = ["compared", "counted_once", "masked_as_one", "same_in_all_patches", "tell"]


def same_in_all_patches(seen: Tokens, patches: int) -> Tensor:
    """(M, B) bool: valid tiles of several patches whose values in a modality are equal in all of them, to the bit."""
    if patches < 2:  # a single patch is compared with those of other tiles
        return torch.zeros_like(seen.valid)
    found = []
    for name in seen.names:
        values = seen.patches[name]  # (B*P, C, s, s) or (B, P, L, C*s*s)
        values = values.reshape(seen.valid.shape[1], patches, -1)
        alike = (values[:, 1] == values[:, 0]).all(1)
        # Of most data no tile's first two patches are equal. A CPU sees that at once; a GPU would be waited for.
        if values.device.type != "cpu" or torch.compiler.is_compiling() or alike.any():
            alike = (values == values[:, :1]).flatten(1).all(1)
        found.append(alike)
    return torch.stack(found) & seen.valid


def compared(seen: Tokens, alike: Tensor) -> Tensor:
    """(M, B) bool: which tiles of which modality take part in the contrast, as anchors and as negatives."""
    return seen.valid & ~alike


def masked_as_one(hidden: Tensor, alike: Tensor) -> Tensor:
    """(M, B, P) bool with the patches of a modality that is alike masked together, as the first one was drawn."""
    return torch.where(alike[..., None], hidden[..., :1], hidden)


def counted_once(alike: Tensor, rows: Tensor, patches: int) -> Tensor:
    """(R,) bool: which rows of one modality, numbers in B*P, count in the reconstruction: of a tile whose patches are
    alike, (B,), its first."""
    return ~alike[rows // patches] | (rows % patches == 0)


def tell(seen: Tokens, alike: Tensor) -> None:
    """Warns of the modalities that are alike in all of their tiles."""
    whole = (alike == seen.valid).all(1) & seen.valid.any(1)
    names = [name for name, one in zip(seen.names, whole.tolist(), strict=True) if one]
    if names:
        warnings.warn(
            f"OmniSat: {', '.join(names)}: the same values in all patches of a tile (weather, or coarser than a tile): "
            "attended to, but not contrasted patch by patch, and masked and reconstructed once a tile",
            stacklevel=3,
        )
