"""What codebooks are found by: rows drawn and statistics summed alike on every rank, and k-means."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..modules import widest
from .op import code_statistics, nearest_code

__all__ = ["draw_rows", "joint_statistics", "kmeans"]

SAMPLE_PER_CODE = 256  # more rows than this a code do not move k-means visibly, and cost time


def uniform(count: int, seed: int, step: Tensor) -> Tensor:
    """``count`` numbers in [0, 1) that depend on ``seed`` and ``step`` only; (count,), float64 where there is such.

    Counter-based (the finaliser of splitmix64) and not from a generator: the same on every rank and device, resumed
    with the checkpoint that holds ``step``, and traceable by torch.compile.
    """
    h = torch.arange(count, device=step.device) + step * 0x1000003 + (seed * 0x5DEECE66D) % (1 << 62)
    h = h * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        # Shifting an int64 right copies its sign; the mask makes it the unsigned shift of the original.
        h = (h ^ ((h >> shift) & ((1 << (64 - shift)) - 1))) * factor
    bits = 53 if widest(step.device) == torch.float64 else 24  # that the dtype holds, so that 1 is never reached
    return ((h >> (64 - bits)) & ((1 << bits) - 1)).to(widest(step.device)) / (1 << bits)


def ranks(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """This process's rank and the number of ranks in ``group`` (default: all, or just this one)."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def joint_sum(group: dist.ProcessGroup | None, *tensors: Tensor) -> list[Tensor]:
    """The tensors summed over all ranks, in one collective that every rank enters whatever its data."""
    if ranks(group)[1] == 1:
        return list(tensors)
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat, group=group)
    parts = flat.split_with_sizes([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]


def joint_statistics(x: Tensor, codes: Tensor, size: int, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """:func:`code_statistics` of the rows of all ranks; (N, D), (N,) -> (K,), (K, D)."""
    counts, sums = joint_sum(group, *code_statistics(x, codes, size))
    return counts, sums


def draw_rows(x: Tensor, count: int, seed: int, step: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """``count`` rows drawn with replacement from the rows of all ranks; (N, D) -> (count, D), usable (count,).

    Every rank gets the same rows and none waits for another's data. A row that is not finite, or drawn where no
    rank has any row, is not usable (and zero).
    """
    rank, world = ranks(group)
    here = torch.zeros(world, dtype=widest(x.device), device=x.device)
    here[rank] = x.shape[0]
    (rows,) = joint_sum(group, here)  # (W,)
    place = uniform(count, seed, step) * rows.sum()  # in the joined batch
    ends = rows.cumsum(0)
    owner = torch.bucketize(place, ends, right=True).clamp_max(world - 1)
    local = (place - (ends - rows)[owner]).long().clamp(0, max(0, x.shape[0] - 1))
    if x.shape[0] == 0:
        drawn = x.new_zeros(count, x.shape[1])
        mine = torch.zeros(count, dtype=torch.bool, device=x.device)
    else:
        drawn = x[local]
        mine = (owner == rank) & drawn.isfinite().all(1)
    drawn = torch.where(mine[:, None], drawn, 0)
    drawn, usable = joint_sum(group, drawn, mine.to(drawn.dtype))
    return drawn, usable > 0


def kmeans(
    x: Tensor,
    size: int,
    *,
    metric: str = "l2",
    iterations: int = 10,
    seed: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Lloyd's k-means from drawn rows; (N, D) -> (K, D) float32 or float64, the same on every rank.

    At most 256 rows a code are used, evenly spaced. A code that no row chooses is drawn anew. Rows that are not
    finite do not count; codes stay zero if no rank has a finite row.
    """
    x = x.detach()
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    limit = SAMPLE_PER_CODE * size
    if x.shape[0] > limit:
        x = x[torch.linspace(0, x.shape[0] - 1, limit, device=x.device).long()]
    step = torch.zeros((), dtype=torch.int64, device=x.device)
    codebook, _ = draw_rows(x, size, seed, step, group)
    for _ in range(iterations):
        step = step + 1
        codes = nearest_code(x, codebook, metric=metric)
        counts, sums = joint_statistics(x, codes, size, group)
        drawn, usable = draw_rows(x, size, seed, step, group)
        moved = torch.where((counts > 0)[:, None], sums / counts.clamp_min(1)[:, None], codebook)
        codebook = torch.where(((counts == 0) & usable)[:, None], drawn, moved)
        if metric == "cosine":
            codebook = torch.nn.functional.normalize(codebook, dim=1)
    return codebook
