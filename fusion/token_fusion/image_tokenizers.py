"""Images to tokens: learned codes of patches, or bins of the mean of a patch or of the whole tile."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..kernels import FiniteScalarQuantizer, VectorQuantizer
from ..kernels.quantize import train_tokenizer
from .modality_tokenizer import BinTokenizer, ModalityTokenizer, grid_places

__all__ = ["ImageBins", "ImagePatches", "PatchAutoencoder"]


def observed_image(batch: TileBatch, name: str) -> Tensor:
    """(B, C, H, W) float32, NaN where a tile does not have it."""
    valid = batch.valid[name].reshape(-1, 1, 1, 1)
    return torch.where(valid, batch.values[name].float(), math.nan)


class ImageBins(BinTokenizer):
    """One token a band and patch: its mean, in bins. With ``whole`` one token a band: the mean of the tile."""

    def __init__(
        self,
        modality: Modality,
        grid: tuple[int, int],
        *,
        whole: bool = False,
        rule: str = "uniform",
        count: int = 256,
        margin: float = 0.05,
    ) -> None:
        places = grid_places(modality.channels, 0 if whole else grid[0] * grid[1])
        super().__init__(modality, places, () if whole else grid, rule=rule, count=count, margin=margin)

    def values(self, batch: TileBatch) -> Tensor:
        image = observed_image(batch, self.modality.name)
        if not self.shape:
            return image.mean((2, 3))
        rows, columns = self.shape
        return rearrange(image, "b c (r h) (s w) -> b c r s (h w)", r=rows, s=columns).mean(-1)


class ImagePatches(ModalityTokenizer):
    """One token a patch, from a tokenizer of patches: the package's own or anybody else's.

    Args:
        tokenizer: has ``codebook_size``, ``encode(patches (R, C, h, w)) -> (R,)`` and ``decode((R,)) -> patches``, in
            physical values; ``learn(patches, steps=, seed=)`` if it is to be trained.
    """

    SAMPLE = 1 << 15  # patches that training sees
    CHUNK = 1 << 10  # codes that are decoded at a time for an expectation

    def __init__(self, modality: Modality, grid: tuple[int, int], tokenizer: nn.Module) -> None:
        super().__init__(modality, grid_places(1, grid[0] * grid[1]), tokenizer.codebook_size, ordinal=False)
        self.grid, self.tokenizer = grid, tokenizer

    def values(self, batch: TileBatch) -> Tensor:
        return observed_image(batch, self.modality.name)

    def learn(self, values: Tensor, *, steps: int, seed: int) -> None:
        if not hasattr(self.tokenizer, "learn"):
            return  # comes trained
        patches = self._cut(values[values.isfinite().all((1, 2, 3))])
        drawn = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))[: self.SAMPLE]
        self.tokenizer.learn(patches[drawn], steps=steps, seed=seed)

    @torch.no_grad()
    def encode(self, values: Tensor) -> Tensor:
        patches = self._cut(values)
        seen = patches.isfinite().all((1, 2, 3))
        codes = self.tokenizer.encode(patches.nan_to_num(0.0))
        return torch.where(seen, codes, -1).view(len(values), -1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        flat = codes.flatten()
        patches = self.tokenizer.decode(flat.clamp_min(0))
        return self._join(torch.where((flat >= 0)[:, None, None, None], patches, math.nan))

    def expected(self, probabilities: Tensor) -> Tensor:
        """The mean image: code by code decoded and weighted. The least squares guess, smoother than any one code."""
        flat = probabilities.flatten(0, 1)  # (R, K)
        total = 0
        for codes in torch.arange(self.codebook_size, device=flat.device).split(self.CHUNK):
            patches = self.tokenizer.decode(codes)  # (k, C, h, w)
            total = total + torch.tensordot(flat[:, codes], patches.to(flat.dtype), 1)
        return self._join(total)

    def _cut(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B*P, C, h, w), patches in raster order."""
        rows, columns = self.grid
        return rearrange(image, "b c (r h) (s w) -> (b r s) c h w", r=rows, s=columns)

    def _join(self, patches: Tensor) -> Tensor:
        rows, columns = self.grid
        return rearrange(patches, "(b r s) c h w -> b c (r h) (s w)", r=rows, s=columns)


class PatchAutoencoder(nn.Module):
    """A small learned tokenizer of image patches: encoder, bottleneck, decoder (VQ-VAE, van den Oord et al. 2017).

    Encoder and decoder are perceptrons on the standardised pixels of a patch.

    Args:
        modality: bands, patch size, and the mean and std that pixels are standardised with.
        quantizer: the bottleneck.
        hidden: width of the two hidden layers of encoder and decoder.
    """

    def __init__(
        self, modality: Modality, quantizer: VectorQuantizer | FiniteScalarQuantizer, *, hidden: int = 128
    ) -> None:
        super().__init__()
        self.quantizer, self.codebook_size = quantizer, quantizer.codebook_size
        self.shape = (modality.channels, modality.patch_size, modality.patch_size)
        pixels = math.prod(self.shape)
        self.encoder = _perceptron(pixels, hidden, quantizer.dim)
        self.decoder = _perceptron(quantizer.dim, hidden, pixels)
        mean = torch.tensor(modality.mean or (0.0,) * modality.channels)
        std = torch.tensor(modality.std or (1.0,) * modality.channels).clamp_min(1e-12)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, C, h, w) -> reconstruction, codes (R,), loss (): the square error of standardised pixels and the
        quantizer's own loss."""
        pixels = self._pixels(patches)
        quantized, codes, loss = self.quantizer(self.encoder(pixels))
        decoded = self.decoder(quantized)
        return self._patches(decoded), codes, nn.functional.mse_loss(decoded, pixels) + loss

    def learn(self, patches: Tensor, *, steps: int, seed: int) -> None:
        """Trains on (R, C, h, w)."""
        train_tokenizer(self, patches, steps=steps, batch=256, seed=seed)

    def encode(self, patches: Tensor) -> Tensor:
        return self.quantizer.encode(self.encoder(self._pixels(patches)))

    def decode(self, codes: Tensor) -> Tensor:
        return self._patches(self.decoder(self.quantizer.decode(codes)))

    def _pixels(self, patches: Tensor) -> Tensor:
        return ((patches - self.mean) / self.std).flatten(1)

    def _patches(self, pixels: Tensor) -> Tensor:
        return pixels.view(-1, *self.shape) * self.std + self.mean


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, outputs),
    )
