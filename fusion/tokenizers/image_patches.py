"""Image patches to one code each, by any tokenizer of patches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol, Self

import torch
from einops import rearrange
from torch import Tensor

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..layers.constants import Constants
from ..layers.statistics import band_statistics
from .base import ModalityTokenizer, grid_places

__all__ = ["ImagePatches", "LearnedPatchCodec", "PatchCodec", "observed_image"]


def observed_image(batch: TileBatch, name: str) -> Tensor:
    """(B, C, H, W) float32, NaN where a tile does not have it."""
    valid = batch.valid[name].reshape(-1, 1, 1, 1)
    return torch.where(valid, batch.values[name].float(), math.nan)


class PatchCodec(Protocol):
    """A module that turns patches, in physical values, into codes and back; the package's own or anybody else's."""

    codebook_size: int

    def encode(self, patches: Tensor) -> Tensor:
        """(R, C, h, w) -> codes (R,) int64."""

    def decode(self, codes: Tensor) -> Tensor:
        """(R,) -> patches (R, C, h, w)."""


class LearnedPatchCodec(Constants, ABC):
    """A :class:`PatchCodec` that is fitted to patches, standardised by the modality's mean and std.

    Args:
        modality: bands, patch size, mean and std.
        codebook_size: K.
    """

    mean: Tensor  # (C, 1, 1)
    std: Tensor

    def __init__(self, modality: Modality, codebook_size: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.shape = (modality.channels, modality.patch_size, modality.patch_size)
        self.register_constant("mean", lambda: band_statistics(modality)[0])
        self.register_constant("std", lambda: band_statistics(modality)[1])

    @abstractmethod
    def fit(self, patches: Tensor, *, steps: int, seed: int) -> Self:
        """Learns from patches (R, C, h, w); ``steps`` are of training by gradient."""

    @abstractmethod
    def encode(self, patches: Tensor) -> Tensor:
        """(R, C, h, w) -> codes (R,) int64."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """(R,) -> patches (R, C, h, w)."""

    def standardised(self, patches: Tensor) -> Tensor:
        return (patches - self.mean) / self.std


class ImagePatches(ModalityTokenizer):
    """One token a patch."""

    SAMPLE = 1 << 15  # patches that training sees
    CHUNK = 1 << 10  # codes that are decoded at a time for an expectation

    def __init__(self, modality: Modality, grid: tuple[int, int], tokenizer: PatchCodec) -> None:
        super().__init__(modality, grid_places(1, grid[0] * grid[1]), tokenizer.codebook_size, ordinal=False)
        self.grid, self.tokenizer = grid, tokenizer

    def values(self, batch: TileBatch) -> Tensor:
        return observed_image(batch, self.modality.name)

    @torch.no_grad()
    def encode(self, values: Tensor) -> Tensor:
        patches = self._cut(values)
        seen = patches.isfinite().all((1, 2, 3))
        codes = self.tokenizer.encode(patches.nan_to_num(0.0))
        return torch.where(seen, codes, -1).unflatten(0, (-1, self.grid[0] * self.grid[1]))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        flat = codes.flatten()
        patches = self.tokenizer.decode(flat.clamp_min(0))
        return self._join(torch.where((flat >= 0)[:, None, None, None], patches, math.nan))

    def expected(self, probabilities: Tensor) -> Tensor:
        """The mean image: code by code decoded and weighted. The least squares guess, smoother than any one code."""
        flat = probabilities.flatten(0, 1)  # (R, K)
        total = flat.new_zeros(())
        for codes in torch.arange(self.codebook_size, device=flat.device).split(self.CHUNK):
            patches = self.tokenizer.decode(codes)  # (k, C, h, w)
            total = total + torch.tensordot(flat[:, codes], patches.to(flat.dtype), 1)
        return self._join(total)

    def _fit(self, values: Tensor, *, steps: int, seed: int) -> None:
        if not isinstance(self.tokenizer, LearnedPatchCodec):
            return  # comes trained
        patches = self._cut(values[values.isfinite().all((1, 2, 3))])
        drawn = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))[: self.SAMPLE]
        self.tokenizer.fit(patches[drawn], steps=steps, seed=seed)

    def _cut(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B*P, C, h, w), patches in raster order."""
        rows, columns = self.grid
        return rearrange(image, "b c (r h) (s w) -> (b r s) c h w", r=rows, s=columns)

    def _join(self, patches: Tensor) -> Tensor:
        rows, columns = self.grid
        return rearrange(patches, "(b r s) c h w -> b c (r h) (s w)", r=rows, s=columns)
