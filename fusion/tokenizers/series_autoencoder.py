"""A learned tokenizer of series: patches of a series through an encoder, a quantizer and a decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels import VectorQuantizer
from ..kernels.quantize import Quantizer
from ..kernels.quantize.scaled import SCALE_BITS, Encoded, with_scale
from ..kernels.quantize.tokenizers import Tokenizer
from .learning import train_tokenizer

__all__ = ["PatchTokenizer"]


class _Block(nn.Module):
    """Two convolutions over neighbouring patches beside the identity; (N, H, P) -> (N, H, P)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GELU(), nn.Conv1d(hidden, hidden, 3, padding=1), nn.GELU(), nn.Conv1d(hidden, hidden, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class PatchTokenizer(Tokenizer[Encoded]):
    """Series to one code a patch of ``patch`` values, learned (the VQ-VAE of TOTEM, Talukder et al. 2024).

    Every variable of every place is a series of its own, normalised by its mean and deviation, which are kept as side
    information. A patch without any observed value has code -1 and decodes to NaN.

    Args:
        quantizer: the bottleneck: :class:`VectorQuantizer` (default: 256 codes of dimension 64 with restarts),
            :class:`FiniteScalarQuantizer`, :class:`ResidualVectorQuantizer` or :class:`ProductVectorQuantizer`.
        patch: values a patch.
        hidden: channels of encoder and decoder.
        blocks: residual blocks of each.
    """

    def __init__(
        self, quantizer: Quantizer | None = None, *, patch: int = 8, hidden: int = 64, blocks: int = 2
    ) -> None:
        super().__init__()
        if patch < 1 or hidden < 1 or blocks < 0:
            raise ValueError(
                f"PatchTokenizer: patch, hidden >= 1 and blocks >= 0, got patch={patch}, hidden={hidden}, "
                f"blocks={blocks}"
            )
        self.quantizer: Quantizer = quantizer or VectorQuantizer(64, 256, restart_below=0.1)
        self.patch = patch
        self.encoder = nn.Sequential(
            nn.Conv1d(2, hidden, patch, stride=patch),  # the values, and which of them were observed
            *(_Block(hidden) for _ in range(blocks)),
            nn.Conv1d(hidden, self.quantizer.dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(self.quantizer.dim, hidden, 1),
            *(_Block(hidden) for _ in range(blocks)),
            nn.ConvTranspose1d(hidden, 1, patch, stride=patch),
        )

    @property
    def codebook_size(self) -> int:
        return self.quantizer.codebook_size

    def tokens(self, length: int) -> int:
        """P, number of patches of a series of ``length`` values."""
        return -(-length // self.patch)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Series (..., T) -> reconstruction (..., T), codes (..., P) or (..., P, Q), loss ().

        The loss is the mean square error of observed normalised values plus the quantizer's own loss.
        """
        normalised, scale = self._normalise(values)
        quantized, codes, loss = self.quantizer(self._latents(normalised))
        decoded = self.decode_vectors(quantized)[..., : values.shape[-1]]
        seen = normalised.isfinite()
        error = torch.where(seen & decoded.isfinite(), decoded - normalised.nan_to_num(0), 0)
        loss = error.square().sum() / seen.sum().clamp_min(1) + loss.sum()
        reconstruction = decoded * scale[..., 1:] + scale[..., :1]
        return reconstruction.reshape(values.shape), self._unflatten(codes, values.shape), loss

    def fit(
        self, values: Tensor, *, steps: int = 600, batch_size: int = 64, lr: float = 2e-3, seed: int = 0
    ) -> PatchTokenizer:
        """Trains with AdamW on ``steps`` batches of series drawn from (B, C, T), then switches to evaluation.

        Raises ValueError if no series has a finite value.
        """
        series = values.detach().reshape(-1, values.shape[-1])  # (N, T)
        series = series[series.isfinite().any(1)]
        if series.shape[0] == 0:
            raise ValueError(f"PatchTokenizer.fit: series {tuple(values.shape)} have no finite value")
        return train_tokenizer(self, series, steps=steps, batch_size=batch_size, lr=lr, seed=seed)

    @torch.no_grad()
    def encode(self, values: Tensor) -> Encoded:
        """Series (..., T) -> codes (..., P) or (..., P, Q), P = ceil(T / patch); mean and deviation (..., 2)."""
        normalised, scale = self._normalise(values)
        codes = self.quantizer.encode(self._latents(normalised))
        return Encoded(self._unflatten(codes, values.shape), scale.reshape(*values.shape[:-1], 2))

    @torch.no_grad()
    def decode(self, codes: Tensor | Encoded, scale: Tensor | None = None, length: int | None = None) -> Tensor:
        """Codes and scales as :meth:`encode` gives them -> float32 series (..., length), by default P * patch."""
        codes, scale = with_scale(codes, scale)
        leading = scale.shape[:-1]
        quantized = self.quantizer.decode(codes.reshape(-1, *codes.shape[len(leading) :]))  # (N, P, D)
        decoded = self.decode_vectors(quantized)[..., :length]
        flat = scale.reshape(-1, 2)
        return (decoded * flat[:, 1:] + flat[:, :1]).reshape(*leading, decoded.shape[-1])

    def decode_vectors(self, quantized: Tensor) -> Tensor:
        """Vectors of the codebook's space (N, P, D) -> normalised series (N, P * patch), NaN where a vector is."""
        missing = quantized.isnan().any(2)  # (N, P)
        clean = torch.where(missing[..., None], 0, quantized)
        decoded = self.decoder(clean.transpose(1, 2))[:, 0]
        return decoded.masked_fill(missing.repeat_interleave(self.patch, 1), torch.nan)

    def reconstruct(self, values: Tensor) -> Tensor:
        return self.decode(self.encode(values), length=values.shape[-1])

    def rate(self, length: int) -> float:
        return (self.tokens(length) * self.quantizer.bits + 2 * SCALE_BITS) / length

    def _normalise(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Series (..., T) -> (N, T) with mean 0 and deviation 1, NaN where missing; mean and deviation (N, 2)."""
        if not values.is_floating_point() or values.ndim == 0:
            raise TypeError(f"PatchTokenizer: series must be floating point (..., T), got {values.dtype}")
        series = values.reshape(-1, values.shape[-1]).float()
        series = torch.where(series.isfinite(), series, torch.nan)
        mean = series.nanmean(1, keepdim=True)
        deviation = (series - mean).square().nanmean(1, keepdim=True).sqrt()
        scale = torch.cat([mean, torch.where(deviation > 0, deviation, 1)], 1)
        return (series - scale[:, :1]) / scale[:, 1:], scale

    def _latents(self, normalised: Tensor) -> Tensor:
        """(N, T) -> (N, P, D), NaN for patches that hold no value."""
        short = -normalised.shape[1] % self.patch
        padded = nn.functional.pad(normalised, (0, short), value=torch.nan)
        seen = padded.isfinite()
        latents = self.encoder(torch.stack([padded.nan_to_num(0), seen.float()], 1)).transpose(1, 2)
        occupied = seen.unflatten(1, (-1, self.patch)).any(2)  # (N, P)
        return torch.where(occupied[..., None], latents, torch.nan)

    def _unflatten(self, codes: Tensor, shape: torch.Size) -> Tensor:
        return codes.reshape(*shape[:-1], *codes.shape[1:])
