"""Quantization look-ups and training steps against what a user would use otherwise.

Peers: ``plain``, PyTorch as usually written (cdist and argmin, gather, one-hot sums); ``compile``, torch.compile of
it; ``faiss``, IndexFlatL2 on the CPU (search only); ``vqp``, vector-quantize-pytorch; ``digitize`` (NumPy) and
``bucketize`` (torch) for bins, ``copy`` for as many bytes read and written.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.kernels import VectorQuantizer, bin_decode, bin_encode, finite_scalar_quantize, nearest_code

from .harness import compare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Step = Callable[[], Any]
LARGEST_MATRIX = 2 << 30  # bytes of distances beyond which the peers that hold them are left out


def installed(*peers: str) -> tuple[str, ...]:
    modules = {"faiss": "faiss", "vqp": "vector_quantize_pytorch"}
    if DEVICE == "cuda":
        peers = tuple(p for p in peers if p not in ("faiss", "digitize"))
    return tuple(p for p in peers if p not in modules or importlib.util.find_spec(modules[p]))


def vectors(rows: int, size: int, dim: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, dim, device=DEVICE), torch.randn(size, dim, device=DEVICE)


# ----------------------------------------------------------------------------------------------------- look-up


def plain_look_up(x: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(x, codebook).argmin(1)


@functools.cache
def compiled_look_up() -> Callable[..., Tensor]:
    return torch.compile(plain_look_up)


def look_up(contender: str, rows: int, size: int, dim: int) -> Step:
    x, codebook = vectors(rows, size, dim)
    if contender == "faiss":
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatL2(dim)
        index.add(codebook.numpy())
        array = x.numpy()
        return lambda: index.search(array, 1)
    if contender == "vqp":
        from vector_quantize_pytorch import VectorQuantize

        module = VectorQuantize(dim, size, rotation_trick=False).to(DEVICE).eval()
        return torch.no_grad()(lambda: module(x[None]))
    function = {"fusion": nearest_code, "plain": plain_look_up}.get(contender) or compiled_look_up()
    return lambda: function(x, codebook)


CODES, DIMS = (256, 1024, 8192, 16_384), (8, 32, 64, 256)
# (N, K, D): every D with every K; for a million vectors the smaller codebooks, and the largest once.
LOOK_UPS = [
    *((rows, size, dim) for rows in (16_384, 131_072) for size in CODES for dim in DIMS),
    *((1_000_000, size, dim) for size in (256, 1024) for dim in DIMS),
    (1_000_000, 16_384, 32),
]


@pytest.mark.parametrize("shape", LOOK_UPS, ids=lambda s: "x".join(map(str, s)))
def test_look_up(benchmark: Any, shape: tuple[int, int, int]) -> None:
    count, size, dim = shape
    held = installed("plain", "compile", "vqp") if 4 * count * size <= LARGEST_MATRIX else ()
    if size != 1024:
        held = tuple(p for p in held if p == "plain")
    contenders = {name: functools.partial(look_up, name, *shape) for name in ("fusion", *held, *installed("faiss"))}
    benchmark.group = f"nearest_code {shape}"
    case = {"what": "look-up", "N": count, "K": size, "D": dim, "dtype": "float32"}
    memory = shape in ((131_072, 8192, 64), (16_384, 8192, 64), (16_384, 1024, 64))
    rows = compare(
        benchmark, "quantize", case, contenders, operations=2 * count * size * dim, seconds=1.0, memory=memory
    )
    if rows and DEVICE == "cpu":
        assert min(row["ratio"] for row in rows.values()) >= 1, "a peer is faster"


# ----------------------------------------------------------------------------------------------- training step


class PlainQuantizer(torch.nn.Module):
    """An EMA codebook as commonly written: distances, one-hot sums, straight-through."""

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook.clone())
        self.register_buffer("counts", torch.ones(len(codebook), device=codebook.device))
        self.register_buffer("sums", codebook.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            codes = torch.cdist(x, self.codebook).argmin(1)
            one_hot = torch.nn.functional.one_hot(codes, len(self.codebook)).to(x.dtype)
            quantized = one_hot @ self.codebook
            self.counts.mul_(0.8).add_(one_hot.sum(0), alpha=0.2)
            self.sums.mul_(0.8).add_(one_hot.T @ x, alpha=0.2)
            self.codebook.copy_(self.sums / self.counts.clamp_min(1e-5)[:, None])
        return x + (quantized - x).detach(), codes, (x - quantized).square().mean()


def training(contender: str, rows: int, size: int, dim: int) -> Step:
    x, codebook = vectors(rows, size, dim)
    x.requires_grad_()
    if contender == "fusion":
        module = VectorQuantizer(dim, size, decay=0.8, commitment=1.0).to(DEVICE).train()
        module.start(codebook)
    elif contender == "vqp":
        from vector_quantize_pytorch import VectorQuantize

        module = VectorQuantize(dim, size, rotation_trick=False).to(DEVICE).train()
    else:
        module = PlainQuantizer(codebook)
        module = torch.compile(module) if contender == "compile" else module
    values = x[None] if contender == "vqp" else x

    def step() -> None:
        x.grad = None
        quantized, _, loss = module(values)
        (quantized.sum() + loss).backward()

    return step


@pytest.mark.parametrize("shape", [(16_384, 1024, 64), (131_072, 1024, 32)], ids=lambda s: "x".join(map(str, s)))
def test_training_step(benchmark: Any, shape: tuple[int, int, int]) -> None:
    rows, size, dim = shape
    contenders = {
        name: functools.partial(training, name, *shape) for name in ("fusion", *installed("plain", "compile", "vqp"))
    }
    benchmark.group = f"vector quantizer, training step {shape}"
    case = {"what": "training step", "N": rows, "K": size, "D": dim, "dtype": "float32"}
    compare(benchmark, "quantize", case, contenders, seconds=2.0)


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
    return lambda: bin_encode(values, edges)


@pytest.mark.parametrize("uniform", [True, False], ids=["uniform", "quantile"])
def test_bins(benchmark: Any, uniform: bool) -> None:
    count = int(os.environ.get("FUSION_BENCH_VALUES", 100_000_000))
    contenders = {
        name: functools.partial(bins, name, count, uniform)
        for name in ("fusion", *installed("bucketize", "digitize", "copy"))
    }
    benchmark.group = f"bin_encode, {'equal' if uniform else 'unequal'} bins"
    case = {"what": f"{'equal' if uniform else 'unequal'} bins", "values": count, "bins": 256, "dtype": "float32"}
    compare(benchmark, "quantize", case, contenders, seconds=1.0, memory=False)


def decode(contender: str, count: int) -> Step:
    codes, centres = torch.randint(0, 256, (count,), device=DEVICE), torch.randn(256, device=DEVICE)
    return (lambda: centres[codes]) if contender == "plain" else (lambda: bin_decode(codes, centres))


def test_decode(benchmark: Any) -> None:
    contenders = {name: functools.partial(decode, name, 10_000_000) for name in ("fusion", "plain")}
    benchmark.group = "bin_decode"
    compare(benchmark, "quantize", {"what": "decode", "values": 10_000_000}, contenders, seconds=1.0, memory=False)


def scalars(contender: str, rows: int) -> Step:
    torch.manual_seed(0)
    z, levels = torch.randn(rows, 5, device=DEVICE), [8, 8, 8, 6, 5]
    if contender == "vqp":
        from vector_quantize_pytorch import FSQ

        module = FSQ(levels).to(DEVICE)
        return torch.no_grad()(lambda: module(z[None]))
    return lambda: finite_scalar_quantize(z, levels)


def test_finite_scalars(benchmark: Any) -> None:
    contenders = {name: functools.partial(scalars, name, 1_000_000) for name in ("fusion", *installed("vqp"))}
    benchmark.group = "finite_scalar_quantize"
    case = {"what": "finite scalars", "N": 1_000_000, "levels": [8, 8, 8, 6, 5], "dtype": "float32"}
    compare(benchmark, "quantize", case, contenders, seconds=1.0)
