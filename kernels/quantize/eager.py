"""Quantization in chunked PyTorch: correct on every device and in every float dtype, memory O(N + K).

Arithmetic is float32 at least, whatever the inputs' dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import working_dtype
from ..modules import widest
from . import reference

__all__ = [
    "bin_decode",
    "bin_encode",
    "check_codes",
    "check_edges",
    "code_statistics",
    "contiguous_rows",
    "finite_scalar_quantize",
    "finite_scalar_quantize_backward",
    "nearest_code",
    "prepare",
    "quantize_rows",
    "quantize_rows_backward",
]

# Scores held at once. 4 MiB in float32: in the L2 and L3 caches of a CPU, and enough rows to fill a GPU.
SCORES = {"cpu": 1 << 20, "cuda": 1 << 24}


def contiguous_rows(x: Tensor) -> Tensor:
    """(N, D) with contiguous rows, as the compiled backends take it; copied only where it has none."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def prepare(codebook: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (D,), codes (K, D) and bias (K,), such that the nearest code of x maximises (x - centre).c_k + bias_k.

    ``l2``: ``||x - c||^2`` is least where ``x.c - ||c||^2/2`` is greatest. With a common offset (temperatures in
    kelvin, pressures in pascal) both terms grow and their difference drowns in rounding, so the codebook's centre is
    taken from x and c. ``cosine``: |x| does not matter, and taking one vector from all unit codes adds the same to
    every score of x, so here only the codes are centred.

    Codes and bias are divided by a power of two near the largest of the codes, which changes no digit of a score and
    no order, but keeps the squares of codes of 1e19 from overflowing, and those of 1e-30 from vanishing.
    """
    if metric == "cosine":
        wide = codebook.to(widest(codebook.device))
        unit = torch.nn.functional.normalize(wide, dim=1, eps=torch.finfo(codebook.dtype).tiny)
        codes = (unit - _centre(unit)).to(codebook.dtype)
        return codebook.new_zeros(codebook.shape[1]), codes, codebook.new_zeros(codebook.shape[0])
    unit = _unit(codebook)
    scaled = codebook / unit
    centre = _centre(scaled)
    codes = scaled - centre
    return centre * unit, codes, codes.square().sum(1).mul_(-0.5).mul_(unit)


def _unit(codebook: Tensor) -> Tensor:
    """A power of two, (), of which all codes together are at most one in each row: no sum over D overflows."""
    most = int(0.78 * math.log2(torch.finfo(codebook.dtype).max))  # else the unit itself might
    exponent = torch.frexp(codebook.abs().amax()).exponent + math.ceil(math.log2(codebook.shape[1]))
    return torch.ldexp(codebook.new_ones(()), exponent.clamp(-most, most))


def _centre(codebook: Tensor) -> Tensor:
    """The mean code, rounded to a multiple of a power of two near the spread; (K, D) -> (D,).

    Rounded, it is exact to subtract from data on a grid: what ties before ties after.
    """
    spread, mean = torch.std_mean(codebook, dim=0, correction=0)
    step = torch.ldexp(torch.ones_like(spread), torch.frexp(spread).exponent)
    return torch.where(spread > 0, (mean / step).round() * step, mean)


def nearest_code(x: Tensor, codebook: Tensor, metric: str) -> Tensor:
    dtype = working_dtype(x, codebook)
    centre, codes, bias = prepare(codebook.to(dtype), metric)
    result = torch.empty(x.shape[0], dtype=torch.int64, device=x.device)
    rows = max(1, SCORES.get(x.device.type, 1 << 20) // codes.shape[0])
    for start in range(0, x.shape[0], rows):
        block = x[start : start + rows].to(dtype) - centre  # (R, D)
        best = torch.addmm(bias, block, codes.T).argmax(1)  # (R,)
        # Without the two lines below a NaN would be read as the greatest score, and inf as a direction.
        best = torch.where(block.isfinite().all(1), best, 0)
        result[start : start + rows] = torch.where(block.isnan().any(1), -1, best)
    return torch.where(codebook.isfinite().all(), result, -1)  # nothing is nearest where a code is not finite


def quantize_rows(x: Tensor, codebook: Tensor, codes: Tensor, gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    """The codes (N, D) in x's dtype, the mean square of x minus them over finite rows, and the number of those."""
    quantized = codebook[codes.clamp_min(0)].to(x.dtype)
    finite = x.isfinite().all(1) & (codes >= 0)
    error = torch.where(finite[:, None], x.to(working_dtype(x)) - quantized, 0).square().sum()
    count = finite.sum()
    missing = (codes < 0)[:, None]
    commitment = error / (count * x.shape[1]).clamp_min(1)
    if x.shape[0]:  # a mean of nothing; 0 would look like the best there is
        commitment = commitment.masked_fill(count == 0, math.nan)
    return quantized.masked_fill_(missing, math.nan), commitment, count


def quantize_rows_backward(
    grad: Tensor, grad_commitment: Tensor, x: Tensor, quantized: Tensor, finite: Tensor, gradient: str
) -> Tensor:
    dtype = working_dtype(x)
    usable = x.isfinite().all(1, keepdim=True)
    x, q, g = (torch.where(usable, t, 0).to(dtype) for t in (x, quantized, grad))
    pull = grad_commitment.to(dtype) * 2 / (finite * x.shape[1]).clamp_min(1) * (x - q)
    if gradient == "rotation":
        g = _rotate_back(g, x, q)
    return torch.where(usable, g + pull, 0).to(grad.dtype)


def _rotate_back(g: Tensor, x: Tensor, q: Tensor) -> Tensor:
    """The transpose of ``reference.rotate``'s linear map from x to q, applied to g; (N, D)."""
    length = x.norm(dim=1, keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    e, u = (torch.nn.functional.normalize(t, dim=1, eps=tiny) for t in (x, q))
    w = torch.nn.functional.normalize(e + u, dim=1, eps=tiny)
    scale = q.norm(dim=1, keepdim=True) / torch.where(length > 0, length, 1)
    turned = scale * (g - 2 * w * (w * g).sum(1, keepdim=True) + 2 * e * (u * g).sum(1, keepdim=True))
    return torch.where(length > 0, turned, g)


def code_statistics(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    dtype = working_dtype(x)
    counts = torch.zeros(size + 1, dtype=torch.int64, device=x.device)
    sums = torch.zeros(size + 1, x.shape[1], dtype=dtype, device=x.device)  # (K + 1, D)
    rows = max(1, SCORES.get(x.device.type, 1 << 20) // max(1, x.shape[1]))
    for block, slot in zip(torch.split(x, rows), torch.split(codes, rows), strict=True):
        slot = torch.where((slot >= 0) & block.isfinite().all(1), slot, size)  # what does not count goes last
        given = torch.bincount(slot, minlength=size + 1)
        counts += given
        block = block.to(dtype)
        if x.is_cuda:  # sorted and summed segment by segment: atomic additions come in another order every time
            ordered = block[slot.argsort(stable=True)]
            sums += torch.segment_reduce(ordered, "sum", lengths=given, unsafe=True, initial=0)
        else:
            sums.index_add_(0, slot, block)
    return counts[:size].to(dtype), sums[:size]


def finite_scalar_quantize(z: Tensor, levels: Sequence[int], form: str) -> tuple[Tensor, Tensor]:
    quantized, codes = reference.finite_scalar_quantize(z.to(working_dtype(z)), levels, form=form)
    return quantized.to(z.dtype), codes


def finite_scalar_quantize_backward(grad: Tensor, z: Tensor, levels: Sequence[int], form: str) -> Tensor:
    """``grad * d bound/dz / unit``: rounding counts as the identity. Rows with a NaN get zero."""
    wide = z.to(working_dtype(z))
    size = torch.tensor(levels, dtype=wide.dtype, device=z.device)  # (D,)
    if form == "sigmoid":
        s = torch.sigmoid(wide)
        slope = s * (1 - s)  # the factor L - 1 cancels against the unit
    else:
        half = (size - 1) * (1 - 1e-3) / 2
        shift = torch.where(size % 2 == 0, torch.tan(0.5 / half), 0.0)
        slope = (1 - torch.tanh(wide + shift).square()) * half / (size / 2).floor()
    slope = torch.where(wide.isnan().any(-1, keepdim=True), 0.0, slope)
    return torch.where(slope == 0, 0.0, grad.to(wide.dtype) * slope).to(z.dtype)


def bin_encode(values: Tensor, edges: Tensor) -> Tensor:
    check_edges(edges)
    dtype = torch.promote_types(values.dtype, edges.dtype)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    values, inner = values.to(dtype), edges.to(dtype)[1:-1].contiguous()
    codes = torch.bucketize(values.contiguous(), inner, right=True)
    return codes.masked_fill_(values.isnan(), -1)


def check_edges(edges: Tensor) -> None:
    """On the CPU only: reading a GPU tensor would make every call wait."""
    if not edges.is_cuda and not bool((edges[1:] > edges[:-1]).all()):
        at = int((~(edges[1:] > edges[:-1])).nonzero()[0])
        raise ValueError(
            f"bin_encode: edges must increase strictly, but edges[{at}]={float(edges[at])!r} and "
            f"edges[{at + 1}]={float(edges[at + 1])!r}"
        )


def check_codes(low: int, high: int, shape: torch.Size) -> None:
    if low < -1 or high >= shape[0]:
        raise ValueError(f"bin_decode: codes must be in -1..{shape[0] - 1} (centres {tuple(shape)}), got {low}..{high}")


def bin_decode(codes: Tensor, centres: Tensor) -> Tensor:
    if not codes.is_cuda and codes.numel():
        check_codes(int(codes.min()), int(codes.max()), centres.shape)
    known = (codes >= 0) & (codes < centres.shape[0])
    values = centres[torch.where(known, codes, 0)]
    return values.masked_fill_(~known.view(codes.shape + (1,) * (centres.ndim - 1)), math.nan)
