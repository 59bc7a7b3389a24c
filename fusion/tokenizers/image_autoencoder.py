"""A small learned tokenizer of image patches: a quantized autoencoder."""

from __future__ import annotations

import math
from typing import Self

from torch import Tensor, nn

from ..data.modality import Modality
from ..kernels.quantize import Quantizer
from .image_patches import LearnedPatchCodec
from .learning import train_tokenizer

__all__ = ["PatchAutoencoder"]


class PatchAutoencoder(LearnedPatchCodec):
    """Encoder, bottleneck, decoder (VQ-VAE, van den Oord et al. 2017), on the standardised pixels of a patch.

    Args:
        modality: bands, patch size, and the mean and std that pixels are standardised with.
        quantizer: the bottleneck.
        hidden: width of the two hidden layers of the perceptrons that encode and decode.
    """

    def __init__(self, modality: Modality, quantizer: Quantizer, *, hidden: int = 128) -> None:
        super().__init__(modality, quantizer.codebook_size)
        self.quantizer = quantizer
        pixels = math.prod(self.shape)
        self.encoder = _perceptron(pixels, hidden, quantizer.dim)
        self.decoder = _perceptron(quantizer.dim, hidden, pixels)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, C, h, w) -> reconstruction, codes (R,), loss (): the square error of standardised pixels and the
        quantizer's own loss."""
        pixels = self._pixels(patches)
        quantized, codes, loss = self.quantizer(self.encoder(pixels))
        decoded = self.decoder(quantized)
        return self._patches(decoded), codes, nn.functional.mse_loss(decoded, pixels) + loss

    def fit(self, patches: Tensor, *, steps: int, seed: int) -> Self:
        return train_tokenizer(self, patches, steps=steps, batch_size=256, seed=seed)

    def encode(self, patches: Tensor) -> Tensor:
        return self.quantizer.encode(self.encoder(self._pixels(patches)))

    def decode(self, codes: Tensor) -> Tensor:
        return self._patches(self.decoder(self.quantizer.decode(codes)))

    def _pixels(self, patches: Tensor) -> Tensor:
        return self.standardised(patches).flatten(1)

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
