"""Quantizers made of smaller ones: residual layers, parts of a vector, and scalars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..arguments import working_dtype
from ..modules import has_values
from .checks import check_float
from .codebooks import VectorQuantizer
from .op import FORMS, check_levels, finite_scalar_quantize, pass_gradient
from .quantizer import Quantizer

__all__ = ["FiniteScalarQuantizer", "ProductVectorQuantizer", "ResidualVectorQuantizer"]


class ResidualVectorQuantizer(Quantizer):
    """Each layer quantizes what the layers before it left over (Zeghidour et al. 2021, Algorithm 1).

    Args:
        dim, codes: of every layer.
        layers: Q, number of layers.
        options: of every :class:`VectorQuantizer`. With ``metric="cosine"`` remainders make no sense: ValueError.
    """

    def __init__(self, dim: int, codes: int, layers: int, **options: Any) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"ResidualVectorQuantizer: layers must be at least 1, got {layers}")
        if options.get("metric", "l2") != "l2":
            raise ValueError("ResidualVectorQuantizer: a remainder has a length, so metric must be 'l2'")
        seed = options.pop("seed", 0)
        self.layers = nn.ModuleList(VectorQuantizer(dim, codes, seed=seed + i, **options) for i in range(layers))
        self.dim, self.codebook_size, self.gradient = dim, codes, self._each()[0].gradient
        self.bits = layers * math.log2(codes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> quantized (..., D), codes (..., Q), loss (Q,), one value a layer, to be summed."""
        check_float("ResidualVectorQuantizer", x=x)
        left = x.to(working_dtype(x))  # remainders shrink layer by layer, bfloat16 would lose them
        total, codes, losses = torch.zeros_like(left), [], []
        for layer in self.layers:
            quantized, code, loss = layer(left)
            left, total = left - quantized.detach(), total + quantized.detach()
            codes.append(code)
            losses.append(loss)
        finite = x.isfinite().all(-1, keepdim=True)
        total = total.to(x.dtype)
        carried = pass_gradient(torch.where(finite, x, 0), torch.where(finite, total, 0), self.gradient)
        return torch.where(finite, carried, total), torch.stack(codes, -1), torch.stack(losses)

    def encode(self, x: Tensor) -> Tensor:
        """(..., D) -> codes (..., Q)."""
        check_float("ResidualVectorQuantizer", x=x)
        left, codes = x.to(working_dtype(x)), []
        for layer in self._each():
            codes.append(layer.encode(left))
            left = left - layer.decode(codes[-1])
        return torch.stack(codes, -1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (..., q), q <= Q: the first layers alone give a coarser answer -> (..., D)."""
        parts = [layer.decode(code) for layer, code in zip(self._each(), codes.unbind(-1), strict=False)]
        return reduce(torch.add, parts)

    def _each(self) -> list[VectorQuantizer]:
        return cast(list[VectorQuantizer], list(self.layers))


class ProductVectorQuantizer(Quantizer):
    """Cuts a vector into parts of equal size, each with a codebook of its own (Jegou et al. 2011).

    Args:
        dim: D, a multiple of ``parts``.
        codes: K, of every part.
        parts: M.
        options: of every part's :class:`VectorQuantizer`.
    """

    def __init__(self, dim: int, codes: int, parts: int, **options: Any) -> None:
        super().__init__()
        if parts < 1 or dim % parts:
            raise ValueError(f"ProductVectorQuantizer: dim={dim} is not a multiple of parts={parts}")
        seed = options.pop("seed", 0)
        self.parts = nn.ModuleList(VectorQuantizer(dim // parts, codes, seed=seed + i, **options) for i in range(parts))
        self.dim, self.codebook_size = dim, codes
        self.bits = parts * math.log2(codes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> quantized (..., D), codes (..., M), loss (M,), one value a part, to be summed."""
        check_float("ProductVectorQuantizer", x=x)
        parts = zip(self.parts, x.chunk(len(self.parts), -1), strict=True)
        quantized, codes, losses = zip(*(quantizer(part) for quantizer, part in parts), strict=True)
        return torch.cat(quantized, -1), torch.stack(codes, -1), torch.stack(losses)

    def encode(self, x: Tensor) -> Tensor:
        """(..., D) -> codes (..., M)."""
        check_float("ProductVectorQuantizer", x=x)
        parts = zip(self._each(), x.chunk(len(self.parts), -1), strict=True)
        return torch.stack([quantizer.encode(part) for quantizer, part in parts], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (..., M) -> (..., D)."""
        parts = zip(self._each(), codes.unbind(-1), strict=True)
        return torch.cat([quantizer.decode(code) for quantizer, code in parts], -1)

    def _each(self) -> list[VectorQuantizer]:
        return cast(list[VectorQuantizer], list(self.parts))


class FiniteScalarQuantizer(Quantizer):
    """:func:`finite_scalar_quantize` with the interface of the learning quantizers. It has nothing to learn.

    Args:
        levels: D integers >= 2, for instance [8, 5, 5, 5] for 1,000 codes or [8, 8, 8, 6, 5] for 15,360.
        form: ``"tanh"`` or ``"sigmoid"``.
    """

    def __init__(self, levels: Sequence[int], *, form: str = "tanh") -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"FiniteScalarQuantizer: form={form!r} is not one of {', '.join(FORMS)}")
        self.levels, self.form = check_levels("FiniteScalarQuantizer", levels), form
        self.dim, self.codebook_size = len(self.levels), math.prod(self.levels)
        self.bits = math.log2(self.codebook_size)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, form={self.form}"

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> quantized (..., D), codes (...), loss (): always zero."""
        quantized, codes = finite_scalar_quantize(z, self.levels, form=self.form)
        return quantized, codes, z.new_zeros(())

    def encode(self, z: Tensor) -> Tensor:
        """(..., D) -> codes (...)."""
        return finite_scalar_quantize(z.detach(), self.levels, form=self.form)[1]

    def decode(self, codes: Tensor) -> Tensor:
        """codes (...) -> (..., D) float32, NaN for -1. Computed digit by digit: no table of all codes is built."""
        if codes.numel() and has_values(codes) and (int(codes.min()) < -1 or int(codes.max()) >= self.codebook_size):
            raise ValueError(
                f"FiniteScalarQuantizer: codes must be in -1..{self.codebook_size - 1}, "
                f"got {int(codes.min())}..{int(codes.max())}"
            )
        digits, rest = [], codes.clamp_min(0)
        for count in self.levels:
            digits.append(rest % count)
            rest = rest // count
        level = torch.stack(digits, -1).float()  # (..., D)
        size = torch.tensor(self.levels, dtype=torch.float32, device=codes.device)
        half = (size / 2).floor()
        values = level / (size - 1) if self.form == "sigmoid" else (level - half) / half
        return torch.where((codes < 0)[..., None], torch.nan, values)
