"""What all quantizers of vectors share."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Quantizer"]


class Quantizer(nn.Module):
    """Vectors (..., D) to codes and back. ``forward`` returns quantized (..., D), codes and loss; NaN is code -1.

    Attributes:
        dim: D, size of a vector.
        codebook_size: K, number of codes.
        bits: of information in the codes of one vector.
    """

    dim: int
    codebook_size: int
    bits: float

    def encode(self, x: Tensor) -> Tensor:
        """(..., D) -> codes (...), or (..., Q) from a quantizer made of Q smaller ones."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """codes as :meth:`encode` gives them -> (..., D), NaN for -1."""
        raise NotImplementedError
