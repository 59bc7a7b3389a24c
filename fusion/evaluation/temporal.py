"""A quantity from series of embeddings, such as the gross primary production (GPP) of flux sites.

Peters et al. 2025 regress GPP on the embeddings of the dates up to it with a temporal transformer. Their
released model gets no positions in the run it reports, so it cannot tell one order of dates from another; this one
knows how many days before or after the target each date lies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fusion.layers import encode_days
from fusion.training.in_memory import descend

__all__ = ["TemporalRegressor", "fit_regressor"]


class TemporalRegressor(nn.Module):
    """Series of embeddings to one value: transformer over dates, read out at the target's date.

    A linear path from the target date's own embedding runs beside it, so that with little data the transformer only
    has to add what the other dates tell.
    """

    def __init__(self, features: int, *, dim: int = 32, depth: int = 2, heads: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.lift = nn.Linear(features, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        hidden, last = nn.Linear(dim, dim), nn.Linear(dim, 1)
        self.head = nn.Sequential(nn.LayerNorm(dim), hidden, nn.GELU(), nn.Dropout(dropout), last)
        self.direct = nn.Linear(features, 1)
        nn.init.zeros_(last.weight)

    def forward(self, series: Tensor, days: Tensor, valid: Tensor) -> Tensor:
        """
        Args:
            series: (B, T, features), T odd; the target belongs to the middle date.
            days: (B, T) int.
            valid: (B, T) bool, the middle date among them.

        Returns:
            (B,) standardised values.
        """
        middle = series.shape[1] // 2
        offset = days - days[:, middle, None]
        x = self.lift(series) + encode_days(offset, self.lift.out_features).to(series)  # (B, T, dim)
        x = self.transformer(x, src_key_padding_mask=~valid)
        return (self.head(x[:, middle]) + self.direct(series[:, middle])).squeeze(-1)


def fit_regressor(
    series: Tensor,
    days: Tensor,
    valid: Tensor,
    target: Tensor,
    *,
    steps: int = 400,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    batch_size: int = 1024,
    seed: int = 0,
    **model: Any,
) -> TemporalRegressor:
    """Trains on standardised targets (B,) with squared error below one and absolute error beyond (Huber).

    Args:
        series, days, valid: as :class:`TemporalRegressor` takes them.
        model: its arguments.
    """

    def loss(step: int) -> Tensor:
        rows = slice(None) if len(target) <= batch_size else torch.randint(len(target), (batch_size,))
        return nn.functional.smooth_l1_loss(regressor(series[rows], days[rows], valid[rows]), target[rows])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        regressor = TemporalRegressor(series.shape[-1], **model)
        descend(regressor, loss, steps=steps, lr=lr, weight_decay=weight_decay)
    return regressor.eval()
