"""Two views of every series of a tile: the dates that the model is given, and those that are hidden from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..data.tiles import TileBatch

__all__ = ["draw_hidden_dates", "split_dates"]


def draw_hidden_dates(valid: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Which of the valid dates of each tile are hidden: every other tile, by chance, a span of dates, else any dates.

    A span is what clouds or another growing season take away, and cannot be interpolated from the dates beside it.

    Args:
        valid: (B, L) bool, dates in order of time.
        share: of the n valid dates, round(share * n) are hidden; one at least is hidden and one is kept where n > 1.

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


def split_dates(batch: TileBatch, hidden: Mapping[str, Tensor]) -> tuple[TileBatch, TileBatch]:
    """The batch with the dates that are not hidden, and its series alone with those that are."""
    given = replace(batch, valid={n: v & ~hidden[n] if n in hidden else v for n, v in batch.valid.items()})
    return given, replace(batch.select(list(hidden)), valid=dict(hidden))
