"""Which dates of a series are hidden from a model in pretraining."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_hidden_dates"]


def draw_hidden_dates(valid: Tensor, share: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Which of the valid dates of each tile are hidden: every other tile, by chance, a span of dates, else any dates.

    A span is what clouds or another growing season take away, and cannot be interpolated from the dates beside it.

    Args:
        valid: (B, L) bool, dates in order of time.
        share: of the n valid dates, round(share * n) are hidden; one at least is hidden and one is kept where n > 1.
            One for all tiles, or (B, 1).

    Returns:
        (B, L) bool. A tile with one date or none hides nothing.
    """
    tiles, length = valid.shape
    device = valid.device
    span = (torch.rand(tiles, 1, generator=generator) < 0.5).to(device)
    start = torch.rand(tiles, 1, generator=generator).to(device)
    order = torch.rand(tiles, length, generator=generator).to(device)
    count = valid.sum(1, keepdim=True)  # (B, 1)
    rank = valid.cumsum(1) - 1  # (B, L) number of the date among the valid ones
    in_span = (rank - (start * count).long()) % count.clamp_min(1)  # a span that passes the end goes on at the start
    shuffled = order.masked_fill(~valid, 2).argsort(1).argsort(1)
    wanted = (share * count).round().long().clamp_min(1).minimum(count - 1)
    return valid & (torch.where(span, in_span, shuffled) < wanted)
