"""Two views of a tile: its observed tokens in two parts, each of which is to say what the other holds."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers import draw_hidden_dates
from .tokens import Layout, Tokens

__all__ = ["draw_views"]


def draw_views(
    tokens: Tokens, whole: float = 0.25, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Puts every observed token into one of two views, (B, N) bool each.

    A share ``whole`` of the tiles is cut between modalities. The others are cut between dates, all modalities alike:
    half of them give a span of dates to the first view (a span is what clouds take away, and cannot be interpolated
    from the dates beside it), half give any dates. Tokens without a date are cut between patches; all tokens of one
    modality and patch stay together. What cannot be cut so (one modality, one date) is cut token by token, so that
    both views have something wherever two tokens were observed.

    Args:
        whole: share of the tiles, in [0, 1].
        generator: of the random numbers, on the CPU; default: torch's own.

    Raises:
        ValueError: ``whole`` is no share.
    """
    if not 0 <= whole <= 1:
        raise ValueError(f"draw_views: whole is a share of the tiles in [0, 1], not {whole}")
    layout, seen = tokens.layout, tokens.observed.cpu()
    share = 0.25 + 0.5 * _random(len(seen), 1, generator)  # (B, 1) of what is cut that the first view gets
    places, place = torch.stack([layout.modality, layout.position]).unique(dim=1, return_inverse=True)
    by_place = (_random(len(seen), places.shape[1], generator) < share)[:, place]
    first = torch.where(layout.time.isfinite(), _by_date(seen, layout, share, generator), by_place)
    between = _random(len(seen), 1, generator) < whole
    first = torch.where(between, _by_modality(seen, layout, generator), first)
    uncut = (seen & first).any(1, keepdim=True) != (seen & ~first).any(1, keepdim=True)
    first = torch.where(uncut, _rank(seen, generator) < (seen.sum(1, keepdim=True) + 1) // 2, first)
    home = tokens.codes.device
    return (seen & first).to(home), (seen & ~first).to(home)


def _by_date(seen: Tensor, layout: Layout, share: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, N) bool: the share of the dates of each tile, one at least and not all, in a span or anywhere."""
    dated = layout.time.isfinite()
    day, date = layout.time.nan_to_num(-1e9).unique(return_inverse=True)  # (L,) in order of time, (N,)
    there = (seen & dated).float() @ torch.nn.functional.one_hot(date, len(day)).float() > 0  # (B, L)
    return draw_hidden_dates(there, share, generator)[:, date]


def _by_modality(seen: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
    """(B, N) bool: any number of the modalities that a tile has, one at least and not all."""
    has = torch.stack([seen[:, part].any(1) for part in layout.slices.values()], 1)  # (B, M)
    most = 1 + (_random(len(seen), 1, generator) * (has.sum(1, keepdim=True) - 1)).long()
    return (_rank(has, generator) < most)[:, layout.modality]


def _rank(among: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, n) a random order, 0, 1, ..., of those ``among`` (B, n), behind which come all others."""
    return torch.rand(among.shape, generator=generator).masked_fill(~among, 2).argsort(1).argsort(1)


def _random(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(rows, columns, generator=generator)
