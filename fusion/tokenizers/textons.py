"""Image patches to codes of texture: what a least-squares autoencoder blurs away, and vegetation is told apart by."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from ..data.modality import Modality
from ..kernels import VectorQuantizer
from .image_patches import LearnedPatchCodec

__all__ = ["PatchTextons"]

_FAINT = 0.05  # of a band's standard deviation; contrasts below it count as none


class PatchTextons(LearnedPatchCodec):
    """One of K textons a patch: clusters of colour and contrast, after Leung and Malik (IJCV 2001).

    A patch is described by the mean of every band, and by the logarithms of its standard deviation and of its mean
    absolute differences along rows and along columns. Where crowns or rows lie within a patch is of no account, how
    strong and how fine they are is. The codes are the nearest of K centres found by k-means. A decoded patch has the
    mean colour of its texton and no texture: textons are for conditioning on images rather than for drawing them.

    Args:
        modality: bands, patch size, and the mean and std that values are standardised with.
        codes: K.
    """

    centre: Tensor  # (4 C,) of the features
    scale: Tensor

    def __init__(self, modality: Modality, codes: int = 256) -> None:
        super().__init__(modality, codes)
        features = 4 * modality.channels
        self.quantizer = VectorQuantizer(features, codes)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def fit(self, patches: Tensor, *, steps: int = 0, seed: int = 0) -> Self:
        """Finds the centres in (R, C, h, w); there are no ``steps`` to it."""
        features = self._features(patches)
        self.centre.copy_(features.mean(0))
        spread = features.std(0, correction=0)
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))
        self.quantizer.seed = seed
        self.quantizer.start((features - self.centre) / self.scale)
        return self

    def encode(self, patches: Tensor) -> Tensor:
        """(R, C, h, w) -> codes (R,)."""
        return self.quantizer.encode((self._features(patches) - self.centre) / self.scale)

    def decode(self, codes: Tensor) -> Tensor:
        """(R,) -> patches (R, C, h, w) of the textons' mean colours."""
        features = self.quantizer.decode(codes) * self.scale + self.centre
        colour = features[:, : len(self.mean), None, None] * self.std + self.mean
        return colour.expand(-1, *self.shape)

    def _features(self, patches: Tensor) -> Tensor:
        """(R, C, h, w) -> (R, 4 C): colours first."""
        x = self.standardised(patches)
        rows, columns = (
            x.diff(dim=axis).abs().flatten(2).mean(2) if self.shape[1] > 1 else torch.zeros_like(x[..., 0, 0])
            for axis in (2, 3)
        )
        contrast = torch.cat([x.flatten(2).std(2, correction=0), rows, columns], 1)
        return torch.cat([x.flatten(2).mean(2), torch.log(contrast + _FAINT)], 1)
