"""Nearest codes in one Triton kernel as a user would write it: tiles of products, and a running minimum.

The method of flash-kmeans' assignment step (https://github.com/svg-project/flash-kmeans): no N x K matrix, distances as
|c|^2 - 2 x.c, products in the type of the inputs (float32: tf32, as there), the smallest distance and its code kept
while the codes pass by. Unlike ours it subtracts no centre and does not rank near ties again in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusion.kernels._triton.device import interpreting

__all__ = ["fastest", "search"]

# Rows and codes of a tile, warps, stages: the fastest of these is taken.
TILES = ((128, 64, 4, 3), (128, 128, 8, 3), (64, 128, 4, 3))


@triton.jit
def search_kernel(p_x, p_codes, p_norm, p_nearest, rows, size, D: tl.constexpr, BLOCK_D: tl.constexpr,
                  ROWS: tl.constexpr, CODES: tl.constexpr):  # fmt: skip
    o_n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, BLOCK_D)
    m_x = (o_n < rows)[:, None] & (o_d < D)[None, :]
    b_x = tl.load(p_x + o_n[:, None] * D + o_d[None, :], mask=m_x, other=0.0)
    b_best = tl.full([ROWS], float("inf"), tl.float32)
    b_code = tl.zeros([ROWS], tl.int32)
    for first in range(0, size, CODES):
        o_k = first + tl.arange(0, CODES)
        m_c = (o_d < D)[:, None] & (o_k < size)[None, :]
        b_c = tl.load(p_codes + o_k[None, :] * D + o_d[:, None], mask=m_c, other=0.0)
        b_norm = tl.load(p_norm + o_k, mask=o_k < size, other=float("inf"))
        b_distance = b_norm[None, :] - 2 * tl.dot(b_x, b_c)
        b_least = tl.min(b_distance, 1)
        b_where = tl.argmin(b_distance, 1).to(tl.int32)
        m_less = b_least < b_best
        b_best = tl.where(m_less, b_least, b_best)
        b_code = tl.where(m_less, first + b_where, b_code)
    tl.store(p_nearest + o_n, b_code.to(tl.int64), mask=o_n < rows)


def search(x: Tensor, codebook: Tensor, tile: tuple[int, int, int, int]) -> Tensor:
    """x (N, D), codebook (K, D) -> (N,) int64."""
    rows, codes, warps, stages = tile
    nearest = torch.empty(len(x), dtype=torch.int64, device=x.device)
    norm = codebook.float().square().sum(1)
    dim = codebook.shape[1]
    search_kernel[(triton.cdiv(len(x), rows),)](
        *(x, codebook, norm, nearest, len(x), len(codebook)),
        **{"D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)), "ROWS": rows, "CODES": codes},
        **{"num_warps": warps, "num_stages": stages},
    )
    return nearest


def fastest(x: Tensor, codebook: Tensor) -> Callable[[], Tensor]:
    """The search with whichever tile takes the least time here."""
    if interpreting():
        return lambda: search(x, codebook, (16, 16, 1, 1))
    from triton.testing import do_bench

    times = {}
    for tile in TILES:
        try:
            times[tile] = do_bench(lambda tile=tile: search(x, codebook, tile), warmup=5, rep=20, return_mode="median")
        except triton.runtime.errors.OutOfResources:
            continue
    best = min(times, key=times.__getitem__)
    return lambda: search(x, codebook, best)
