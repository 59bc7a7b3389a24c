"""Series to learned codes of their patches."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.modality import Modality
from ..kernels.quantize import Quantizer
from .calendar import Calendar
from .relative import RelativeTokenizer
from .series_autoencoder import PatchTokenizer

__all__ = ["RelativePatches"]


class RelativePatches(RelativeTokenizer):
    """Learned codes of patches of ``patch`` values of the standardised series (TOTEM)."""

    inner: PatchTokenizer

    def __init__(
        self, modality: Modality, calendar: Calendar, quantizer: Quantizer, *, patch: int = 8, hidden: int = 64
    ) -> None:
        inner = PatchTokenizer(quantizer, patch=patch, hidden=hidden)
        time = calendar.times(inner.tokens(calendar.length), patch)
        super().__init__(modality, calendar, inner, 2, time, ordinal=False)

    def _fit_codes(self, values: Tensor, *, steps: int, seed: int) -> None:
        self.inner.fit(values, steps=steps, seed=seed)

    def _relative(self, codes: Tensor) -> Tensor:
        return self._decoded(self.inner.quantizer.decode(codes))

    def _expected(self, probabilities: Tensor) -> Tensor:
        codes = torch.arange(self.inner.codebook_size, device=probabilities.device)
        return self._decoded(probabilities @ self.inner.quantizer.decode(codes).to(probabilities.dtype))

    def _decoded(self, vectors: Tensor) -> Tensor:
        """(B, C, n, D) -> (B, C, T)."""
        decoded = self.inner.decode_vectors(vectors.flatten(0, 1))
        return decoded.unflatten(0, vectors.shape[:2])[..., : self.calendar.length]
