"""Nearest-neighbour search, binning and training steps against what a user would use otherwise.

Search: ``plain``, torch.cdist and argmin; ``compile``, torch.compile of it; ``addmm``, blocks of rows by one matrix
product with the codes' norms as its bias, and argmax; ``tiled``, one Triton kernel that multiplies tiles and keeps the
minimum (tiled_search.py); ``faiss``, IndexFlatL2 (CPU); ``vqp``, vector-quantize-pytorch. Bins: ``bucketize`` (torch)
and ``digitize`` (NumPy); ``copy``, as many bytes read and written. Training: one-hot sums as commonly written.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from fusion.kernels import VectorQuantizer, bin_decode, bin_encode, finite_scalar_quantize, nearest_code
from fusion.kernels.quantize import code_statistics

from .common import DEVICE, Step, compiled, ours

__all__ = ["bins", "decode", "look_up", "scalars", "statistics", "training", "vectors"]

CHUNK = 1 << 27  # scores of one block of rows in ``addmm``: half a gigabyte of float32


def vectors(rows: int, size: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (torch.randn(n, dim, device=DEVICE).to(dtype) for n in (rows, size))  # type: ignore[return-value]


# ----------------------------------------------------------------------------------------------------- look-up


def plain_look_up(x: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(x.float(), codebook.float()).argmin(1)  # it takes no 16-bit types on a GPU


def by_products(x: Tensor, codebook: Tensor) -> Tensor:
    """argmax of x.c - |c|^2 / 2, some rows at a time."""
    bias = -codebook.square().sum(1) / 2
    rows = max(1, CHUNK // len(codebook))
    return torch.cat([torch.addmm(bias, part, codebook.T).argmax(1) for part in x.split(rows)])


def look_up(contender: str, rows: int, size: int, dim: int, dtype: torch.dtype = torch.float32) -> Step:
    x, codebook = vectors(rows, size, dim, dtype)
    if contender == "faiss":
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatL2(dim)
        index.add(codebook.numpy())
        array = x.numpy()
        return lambda: index.search(array, 1)
    if contender == "vqp":
        from vector_quantize_pytorch import VectorQuantize

        module = VectorQuantize(dim, size, rotation_trick=False).to(DEVICE, dtype).eval()
        return torch.no_grad()(lambda: module(x[None]))
    if contender == "tiled":
        from .tiled_search import fastest

        return fastest(x, codebook)
    if contender == "compile":
        return lambda: compiled(plain_look_up)(x, codebook)
    function = {"plain": plain_look_up, "addmm": by_products}.get(contender, nearest_code)
    return ours(contender, lambda: function(x, codebook))


# ----------------------------------------------------------------------------------------------- training step


class PlainQuantizer(nn.Module):
    """An EMA codebook as commonly written: distances, one-hot sums, straight-through."""

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook.clone())
        self.register_buffer("counts", torch.ones(len(codebook), device=codebook.device))
        self.register_buffer("sums", codebook.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            codes = torch.cdist(x, self.codebook).argmin(1)
            one_hot = nn.functional.one_hot(codes, len(self.codebook)).to(x.dtype)
            quantized = one_hot @ self.codebook
            self.counts.mul_(0.8).add_(one_hot.sum(0), alpha=0.2)
            self.sums.mul_(0.8).add_(one_hot.T @ x, alpha=0.2)
            self.codebook.copy_(self.sums / self.counts.clamp_min(1e-5)[:, None])
        return x + (quantized - x).detach(), codes, (x - quantized).square().mean()


def training(contender: str, rows: int, size: int, dim: int) -> Step:
    """Look-up, statistics, commitment and gradient of one batch in float32."""
    x, codebook = vectors(rows, size, dim)
    x.requires_grad_()
    if contender == "vqp":
        from vector_quantize_pytorch import VectorQuantize

        module: nn.Module = VectorQuantize(dim, size, rotation_trick=False).to(DEVICE).train()
    elif contender in ("plain", "compile"):
        module = PlainQuantizer(codebook)
        module = compiled(module) if contender == "compile" else module
    else:
        module = VectorQuantizer(dim, size, decay=0.8, commitment=1.0).to(DEVICE).train()
        module.start(codebook)
    values = x[None] if contender == "vqp" else x

    def step() -> tuple[Tensor, ...]:
        quantized, _, loss = module(values)
        return torch.autograd.grad(quantized.sum() + loss.sum(), x)

    return ours(contender, step)


def statistics(contender: str, rows: int, size: int, dim: int) -> Step:
    """How many vectors each code has, and their sum."""
    x, _ = vectors(rows, size, dim)
    codes = torch.randint(size, (rows,), device=DEVICE)

    def by_index() -> tuple[Tensor, Tensor]:
        counts = torch.zeros(size, device=DEVICE).index_add_(0, codes, torch.ones(rows, device=DEVICE))
        return counts, torch.zeros(size, dim, device=DEVICE).index_add_(0, codes, x)

    return by_index if contender == "plain" else ours(contender, lambda: code_statistics(x, codes, size))


# --------------------------------------------------------------------------------------------- bins and scalars


def bins(contender: str, count: int, uniform: bool) -> Step:
    torch.manual_seed(0)
    values = torch.randn(count, device=DEVICE)
    edges = torch.linspace(-3, 3, 257, device=DEVICE) if uniform else torch.randn(257, device=DEVICE).sort().values
    if contender == "digitize":
        array, inner = values.numpy(), edges[1:-1].numpy()
        return lambda: np.digitize(array, inner)
    if contender == "bucketize":
        return lambda: torch.bucketize(values, edges[1:-1], right=True)
    if contender == "copy":  # as many bytes read and written, and nothing computed
        return lambda: values.to(torch.int64)
    return ours(contender, lambda: bin_encode(values, edges))


def decode(contender: str, count: int) -> Step:
    codes, centres = torch.randint(0, 256, (count,), device=DEVICE), torch.randn(256, device=DEVICE)
    return (lambda: centres[codes]) if contender == "plain" else ours(contender, lambda: bin_decode(codes, centres))


LEVELS = (8, 8, 8, 6, 5)


def plain_scalars(z: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Mentzer et al. 2023, appendix A.1, as it stands there."""
    half = (levels - 1) * (1 + 1e-3) / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0)
    bound = (z + (offset / half).atanh()).tanh() * half - offset
    width = levels // 2
    quantized = bound.round() / width
    basis = torch.cat([levels.new_ones(1), levels[:-1]]).cumprod(0)
    return quantized, ((quantized * width + width) * basis).sum(-1).long()


def scalars(contender: str, rows: int) -> Step:
    torch.manual_seed(0)
    z = torch.randn(rows, len(LEVELS), device=DEVICE)
    if contender == "vqp":
        from vector_quantize_pytorch import FSQ

        module = FSQ(list(LEVELS)).to(DEVICE)
        return torch.no_grad()(lambda: module(z[None]))
    if contender in ("plain", "compile"):
        function = plain_scalars if contender == "plain" else compiled(plain_scalars)
        return functools.partial(function, z, torch.tensor(LEVELS, device=DEVICE))
    return ours(contender, lambda: finite_scalar_quantize(z, list(LEVELS)))
