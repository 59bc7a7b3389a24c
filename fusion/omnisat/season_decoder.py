"""A decoder of series in which patches differ in their course over the year, not in their level alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import encode_days

__all__ = ["SeasonDecoder"]


class SeasonDecoder(nn.Module):
    """A token f and the code e(t) of a day to the values of that day: W gelu((A f) * (B e(t)) + C f + D e(t) + b) + c.

    The paper's decoder is linear in f + e(t), so it can say no more than an offset of the patch plus one curve that all
    patches share. The product lets a token choose its curve.
    """

    def __init__(self, dim: int, channels: int, period: float = 367.0) -> None:
        super().__init__()
        self.dim, self.period = dim, period
        self.by_token, self.by_day = nn.Linear(dim, 2 * dim), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, channels)

    def forward(self, tokens: Tensor, days: Tensor, tile: Tensor) -> Tensor:
        """Decodes tokens of several tiles, each on the dates of its tile.

        Args:
            tokens: (R, D). days: (B, K) of every tile. tile: (R,) the tile of each token.

        Returns:
            (R, K, C) predicted values, standardised as the encoder sees them.
        """
        code = encode_days(days, self.dim, period=self.period).to(tokens.dtype)  # (B, K, D)
        scale, shift = self.by_token(tokens)[:, None].chunk(2, -1)  # (R, 1, D) each
        by_day = self.by_day(code)[tile]  # (R, K, 2D)
        course, common = by_day.chunk(2, -1)  # (R, K, D) each
        out: Tensor = self.out(F.gelu(scale * course + shift + common))
        return out
