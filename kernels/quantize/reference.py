"""The definitions, as plainly as they can be written: N x K distances, no chunks, any float dtype.

Every other backend is tested against these functions in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "bin_decode",
    "bin_encode",
    "code_decode",
    "code_statistics",
    "finite_scalar_bound",
    "finite_scalar_quantize",
    "nearest_code",
    "rotate",
    "vector_quantize",
]


def nearest_code(x: Tensor, codebook: Tensor, *, metric: str = "l2") -> Tensor:
    """``argmin_k ||x_n - c_k||`` or ``argmax_k cos(x_n, c_k)``, lowest index on ties; (..., D), (K, D) -> (...).

    A row that holds a NaN is a missing value and gets -1. Where every distance is infinite all codes tie: 0. With a
    code that is not finite nothing is nearest: -1 for all rows.
    """
    if metric == "cosine":
        similarity = _unit(x) @ _unit(codebook).T  # (..., K)
        codes = torch.where(similarity.isnan(), -math.inf, similarity).argmax(-1)
    else:
        distance = (x[..., None, :] - codebook).square().sum(-1)  # (..., K)
        codes = distance.argmin(-1)
    return torch.where(x.isnan().any(-1) | ~codebook.isfinite().all(), -1, codes)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)


def rotate(x: Tensor, quantized: Tensor) -> Tensor:
    """The rotation trick (Fifty et al. 2024, Eq. 4): ``quantized`` as a rotation and scaling of ``x``; (N, D).

    With ``e = x/|x|``, ``q = quantized/|quantized|`` and ``w = (e + q)/|e + q|`` the result is
    ``|quantized|/|x| (x - 2 w (w.x) + 2 q (e.x))``. It equals ``quantized``; the gradient with respect to ``x``
    treats rotation and scale as constants. Where x is 0 no rotation exists and the gradient is passed through.
    """
    e, q = _unit(x.detach()), _unit(quantized.detach())
    w = _unit(e + q)
    length = x.detach().norm(dim=-1, keepdim=True)
    scale = quantized.detach().norm(dim=-1, keepdim=True) / torch.where(length > 0, length, 1)
    rotated = scale * (x - 2 * w * (w * x).sum(-1, keepdim=True) + 2 * q * (e * x).sum(-1, keepdim=True))
    return torch.where(length > 0, rotated, x - x.detach() + quantized.detach())


def vector_quantize(
    x: Tensor, codebook: Tensor, *, metric: str = "l2", gradient: str = "straight-through"
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest codes, ``x + sg(q - x)`` or its rotation, and ``mean ||x - sg(q)||^2 / D`` over finite rows; (..., D).

    Rows of which none is finite have no mean: NaN. No rows at all: 0.
    """
    codes = nearest_code(x.detach(), codebook.detach(), metric=metric)  # (...)
    finite = x.isfinite().all(-1) & (codes >= 0)
    chosen = codebook.detach()[codes.clamp_min(0)]  # (..., D)
    quantized = torch.where((codes < 0)[..., None], math.nan, chosen)
    learns = x[finite], chosen[finite]
    through = rotate(*learns) if gradient == "rotation" else learns[0] + (learns[1] - learns[0]).detach()
    quantized = quantized.masked_scatter(finite[..., None], through)
    commitment = (learns[0] - learns[1]).square().sum() / max(1, learns[0].numel())
    return quantized, codes, commitment if finite.any() or not finite.numel() else commitment + math.nan


def code_statistics(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How many finite rows each code was given, and their sum; (..., D), (...) -> (K,), (K, D)."""
    used = (codes >= 0) & x.isfinite().all(-1)
    one_hot = torch.nn.functional.one_hot(codes[used], size).to(x.dtype)  # (N, K)
    return one_hot.sum(0), one_hot.T @ x[used]


def finite_scalar_bound(z: Tensor, levels: Sequence[int], form: str = "tanh") -> tuple[Tensor, Tensor, Tensor]:
    """``z`` squashed onto the grid before rounding, the grid's lowest level and its unit: each (..., D) or (D,).

    ``tanh``: Mentzer et al. 2023, Listing 1 (levels around zero, eps 1e-3). ``sigmoid``: TerraMind (levels 0..L-1).
    """
    size = torch.tensor(levels, dtype=z.dtype, device=z.device)  # (D,)
    if form == "sigmoid":
        return torch.sigmoid(z) * (size - 1), torch.zeros_like(size), size - 1
    half = (size - 1) * (1 - 1e-3) / 2
    offset = torch.where(size % 2 == 0, 0.5, 0.0).to(z.dtype)
    bound = torch.tanh(z + torch.tan(offset / half)) * half - offset
    return bound, -(size / 2).floor(), (size / 2).floor()


def finite_scalar_quantize(z: Tensor, levels: Sequence[int], *, form: str = "tanh") -> tuple[Tensor, Tensor]:
    """``round(bound(z))`` over its unit, straight-through, and ``sum_j level_j prod_{i<j} L_i``; (..., D) -> (...)."""
    bound, lowest, unit = finite_scalar_bound(z, levels, form)
    rounded = bound + (bound.round() - bound).detach()
    place = torch.tensor([math.prod(levels[:j]) for j in range(len(levels))], device=z.device)  # (D,)
    missing = z.isnan().any(-1)
    level = (bound.detach().round() - lowest).nan_to_num(0).long()
    codes = torch.where(missing, -1, (level * place).sum(-1))
    return torch.where(missing[..., None], math.nan, rounded / unit), codes


def bin_encode(values: Tensor, edges: Tensor) -> Tensor:
    """Code k where ``edges[k] <= v < edges[k+1]``, clamped to 0..K-1; NaN -> -1. Any shape, (K+1,) -> int64."""
    below = (values[..., None] >= edges[1:-1]).sum(-1)
    return torch.where(values.isnan(), -1, below)


def bin_decode(codes: Tensor, centres: Tensor) -> Tensor:
    """``centres[codes]``, NaN where the code is -1. Any shape, (K,) -> the centres' dtype."""
    return torch.where(codes < 0, math.nan, centres[codes.clamp_min(0)])


def code_decode(codes: Tensor, codebook: Tensor) -> Tensor:
    """``codebook[codes]``, NaN where the code is -1; (...), (K, D) -> (..., D)."""
    return torch.where((codes < 0)[..., None], math.nan, codebook[codes.clamp_min(0)])
