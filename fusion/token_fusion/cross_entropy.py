"""Cross-entropy of codes against a tied table, without ever holding the scores of all tokens for all codes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..layers.autocast import differentiable_once, without_autocast

__all__ = ["masked_cross_entropy", "most_likely"]

BLOCK = 1 << 20  # scores that exist at a time


def _blocks(channel: Tensor, codes: int) -> Iterator[tuple[int, Tensor]]:
    """Rows of one channel at a time, few enough that their scores for ``codes`` codes stay within :data:`BLOCK`."""
    for c in channel.unique().tolist():
        for rows in (channel == c).nonzero()[:, 0].split(max(1, BLOCK // codes)):
            yield c, rows


def _targets(codes: Tensor, spread: Tensor, reach: int, size: int) -> tuple[Tensor, Tensor]:
    """Codes (r, 2*reach+1) around each row's own, and the weight of each in its target; weights sum to 1."""
    offset = torch.arange(-reach, reach + 1, device=codes.device)
    near = codes[:, None] + offset
    weight = torch.exp(-0.5 * (offset / spread.clamp_min(1e-3)[:, None]).square())
    weight = weight.masked_fill((near < 0) | (near >= size), 0)
    return near.clamp(0, size - 1), weight / weight.sum(1, keepdim=True)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, channel: Tensor, codes: Tensor, spread: Tensor) -> Tensor:
        ctx.reach = math.ceil(3 * float(spread.max())) if len(spread) else 0
        loss, total = hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
        for c, rows in _blocks(channel, table.shape[1]):
            scores = hidden[rows] @ table[c].T  # (r, K)
            near, weight = _targets(codes[rows], spread[rows], ctx.reach, table.shape[1])
            total[rows] = scores.logsumexp(1)
            loss[rows] = total[rows] - (weight.to(scores.dtype) * scores.gather(1, near)).sum(1)
        ctx.save_for_backward(hidden, table, channel, codes, spread, total)
        return loss

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, table, channel, codes, spread, total = ctx.saved_tensors
        grad_hidden, grad_table = torch.empty_like(hidden), torch.zeros_like(table)
        for c, rows in _blocks(channel, table.shape[1]):
            own = hidden[rows]
            slope = torch.addmm(-total[rows, None], own, table[c].T).exp_()  # (r, K): the softmax
            near, weight = _targets(codes[rows], spread[rows], ctx.reach, table.shape[1])
            slope.scatter_add_(1, near, -weight.to(slope.dtype))
            slope *= grad[rows, None]
            grad_hidden[rows] = slope @ table[c]
            grad_table[c].addmm_(slope.T, own)
        return grad_hidden, grad_table, None, None, None


def masked_cross_entropy(
    hidden: Tensor, table: Tensor, channel: Tensor, codes: Tensor, spread: float | Tensor = 0.0
) -> Tensor:
    """Cross-entropy of every masked token, with scores ``hidden[r] . table[channel[r], k]`` for the codes k.

    Scores are made for a block of rows, used and forgotten, and made again in the backward pass: beyond its inputs
    and their gradients the function needs O(R) memory, however many tokens or codes there are. Sums of probabilities
    are float32, also under autocast.

    Args:
        hidden: (R, D) of the masked tokens alone.
        table: (C, K, D).
        channel: (R,) int64 in 0..C-1.
        codes: (R,) int64 in 0..K-1.
        spread: standard deviation, in codes, of a normal distribution around the true code that is the target; 0:
            that code alone. A number, or (R,). For bins, where neighbours mean nearly the same.

    Returns:
        (R,) losses, differentiable once in ``hidden`` and ``table``.

    Raises:
        ValueError: shapes that do not fit, or codes or channels out of range.
    """
    fits = hidden.ndim == 2 and table.ndim == 3 and hidden.shape[1] == table.shape[2]
    if not fits or channel.shape != hidden.shape[:1] or codes.shape != hidden.shape[:1]:
        raise ValueError(
            "masked_cross_entropy: hidden (R, D), table (C, K, D), channel (R,) and codes (R,) wanted, got "
            f"{tuple(hidden.shape)}, {tuple(table.shape)}, {tuple(channel.shape)}, {tuple(codes.shape)}"
        )
    for name, index, size in (("channel", channel, table.shape[0]), ("codes", codes, table.shape[1])):
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= size):
            raise ValueError(
                f"masked_cross_entropy: {name} must be in 0..{size - 1}, got {int(index.min())}..{int(index.max())}"
            )
    spread = torch.as_tensor(spread, dtype=torch.float32, device=hidden.device).expand(len(hidden))
    with without_autocast(hidden.device.type):
        return _CrossEntropy.apply(hidden.to(table.dtype), table, channel, codes, spread)


@torch.no_grad()
def most_likely(hidden: Tensor, table: Tensor, channel: Tensor) -> Tensor:
    """(R,) the codes of highest score, within the same memory."""
    best = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
    for c, rows in _blocks(channel, table.shape[1]):
        best[rows] = (hidden[rows].to(table.dtype) @ table[c].T).argmax(1)
    return best
