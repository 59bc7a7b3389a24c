"""Patch InfoNCE against what a user would write otherwise.

Peers: ``plain``, the loss in PyTorch on the whole N x N matrix; ``compile``, torch.compile of it; ``chunked``, the
strongest simple form: blocks of rows, recomputed in backward (torch.utils.checkpoint), so that no N x N matrix lives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fusion.kernels import patch_info_nce

from .harness import compare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (M, B, P, D) of a batch on one GPU in the paper.
SIZES = {
    "treesatai": (3, 128, 36, 256),
    "flair": (2, 64, 100, 256),
    "pastis": (3, 4, 1024, 256),
}
TEMPERATURE = 0.1


def plain(tokens: Tensor) -> Tensor:
    m, b, p, d = tokens.shape
    f = F.normalize(tokens.reshape(-1, d), dim=1)  # (N, D)
    similarity = f @ f.T / TEMPERATURE  # (N, N)
    index = torch.arange(len(f), device=f.device)
    block = index // p
    positives = torch.stack([similarity[index, (index + k * b * p) % len(f)] for k in range(1, m)], 1)
    negatives = similarity.masked_fill(block[:, None] == block, -torch.inf)
    return (negatives.float().logsumexp(1) - positives.float().logsumexp(1)).mean()


def chunked(tokens: Tensor, rows: int = 512) -> Tensor:
    m, b, p, d = tokens.shape
    f = F.normalize(tokens.reshape(-1, d), dim=1)  # (N, D)
    index = torch.arange(len(f), device=f.device)

    def some(f: Tensor, here: Tensor) -> Tensor:
        similarity = f[here] @ f.T / TEMPERATURE  # (rows, N)
        positives = torch.stack(
            [similarity.gather(1, ((here + k * b * p) % len(f))[:, None])[:, 0] for k in range(1, m)], 1
        )
        negatives = similarity.masked_fill((here // p)[:, None] == index // p, -torch.inf)
        return (negatives.float().logsumexp(1) - positives.float().logsumexp(1)).sum()

    return sum(checkpoint(some, f, here, use_reentrant=False) for here in index.split(rows)) / len(f)


@functools.cache
def compiled() -> Callable[[Tensor], Tensor]:
    return torch.compile(plain)


LOSSES = {"fusion": patch_info_nce, "plain": plain, "compile": None, "chunked": chunked}


def step(loss: str, shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Callable[[], None]:
    """One forward pass, one backward pass, or both, on tokens whose modalities agree somewhat."""
    torch.manual_seed(0)
    tokens = (torch.randn(shape) + torch.randn(shape[1:])).to(DEVICE, dtype).requires_grad_()
    function = LOSSES[loss] or compiled()

    def forward() -> Tensor:
        return function(tokens)

    def both() -> None:
        tokens.grad = None
        forward().backward()

    if what == "both":
        return both
    if what == "forward":
        return torch.no_grad()(forward)
    value = forward()
    return lambda: torch.autograd.grad(value, tokens, retain_graph=True)


def _contenders(shape: tuple[int, ...], dtype: torch.dtype, what: str, peers: tuple[str, ...]) -> dict:
    return {name: functools.partial(step, name, shape, dtype, what) for name in ("fusion", *peers)}


def _case(shape: tuple[int, ...], dtype: torch.dtype, what: str) -> dict:
    return {"shape": list(shape), "dtype": str(dtype).removeprefix("torch."), "pass": what}


def _operations(shape: tuple[int, ...], what: str) -> float:
    """Of the symmetric form on a CPU (half the matrix), of the row-owner form on a GPU."""
    tokens, features = shape[0] * shape[1] * shape[2], shape[3]
    passes = {"forward": (1, 2), "backward": (3, 4), "both": (4, 6)}[what]
    return passes[DEVICE == "cuda"] * tokens**2 * features


@pytest.mark.parametrize("what", ["forward", "backward", "both"])
@pytest.mark.parametrize("size", SIZES)
def test_paper_sizes_float32(benchmark, size: str, what: str) -> None:
    shape = SIZES[size]
    peers = ("plain", "compile", "chunked") if what == "both" else ("plain",)
    benchmark.group = f"patch_info_nce {size} {what} float32"
    rows = compare(
        benchmark,
        "patch_info_nce",
        _case(shape, torch.float32, what),
        _contenders(shape, torch.float32, what, peers),
        operations=_operations(shape, what),
        memory=what == "both",
    )
    if rows and what == "both":
        assert min(row["ratio"] for row in rows.values()) >= 1, "a peer is faster"


def test_bfloat16(benchmark) -> None:
    """On a CPU against ourselves in float32; on a GPU against the peers too, and the matrix units' measured rate."""
    shape = SIZES["treesatai"]
    contenders = _contenders(shape, torch.bfloat16, "both", ("plain", "compile") if DEVICE == "cuda" else ())
    contenders["fusion float32"] = functools.partial(step, "fusion", shape, torch.float32, "both")
    case = _case(shape, torch.bfloat16, "both")
    if DEVICE == "cuda":
        case["matmul_tflops"] = _matmul_tflops()
    rows = compare(
        benchmark, "patch_info_nce", case, contenders, operations=_operations(shape, "both"), memory=DEVICE == "cuda"
    )
    if rows and DEVICE == "cuda":
        share = rows["fusion"]["tflops"] / case["matmul_tflops"]
        print(f"{share:.0%} of the bfloat16 rate of an 8192 x 8192 product")


def _matmul_tflops() -> float:
    from triton.testing import do_bench

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return round(2 * 8192**3 / do_bench(lambda: a @ a) / 1e9, 1)


@pytest.mark.parametrize("tiles", [1, 2, 4, 8, 16, 32, 64, 256])
def test_growth_with_the_batch(benchmark, tiles: int) -> None:
    """Time grows as N^2, memory as N. Plain PyTorch only where its matrix is below 1 GB."""
    shape = (3, tiles, 36, 256)
    rows = compare(
        benchmark,
        "patch_info_nce",
        _case(shape, torch.float32, "both"),
        _contenders(shape, torch.float32, "both", ("plain",) if tiles <= 64 else ()),
        operations=_operations(shape, "both"),
        seconds=1.0,
        memory=tiles >= 8,
    )
    if rows and tiles >= 8:
        assert min(row["ratio"] for row in rows.values()) >= 1, "plain PyTorch is faster"
