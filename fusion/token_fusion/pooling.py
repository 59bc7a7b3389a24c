"""What a head sees of a tile: means of its tokens' states by modality and part of the year, and its values."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..data.year import part_of_year
from .model import TokenFusion
from .tokens import Layout, Tokens

__all__ = ["Pooled", "TokenFeatures", "token_groups"]

Pooled = Literal["summary", "modalities", "seasons", "months", "dates", "none"]
_PARTS = {"modalities": 1, "seasons": 4, "months": 12}  # of the year


def token_groups(layout: Layout, pooled: Pooled) -> Tensor:
    """(N,) numbers 0, 1, ... in the order of the model: tokens of one modality and one part of the year share one.

    Tokens without a date are a part of their own. With ``"dates"`` every date is.
    """
    if pooled == "dates":
        part = layout.time.nan_to_num(-1.0)
    else:
        part = part_of_year(layout.time, _PARTS[pooled]).nan_to_num(-1.0)
    return torch.stack([layout.modality.float(), part]).unique(dim=1, return_inverse=True)[1]


class TokenFeatures(nn.Module):
    """Tokens of B tiles -> (B, F), NaN where nothing of a group, or of its modality, was observed.

    Averaged over the year, states no longer say when something was so, and it is when plants grow and are cut by which
    crops differ.

    Args:
        model: whose states they are; not a submodule.
        pooled: ``"summary"``, or the mean state of each modality over the year, in each of 4 ``"seasons"``, 12
            ``"months"``, or on each of its ``"dates"``; ``"none"``: of no state. A part of the year in which a tile
            has nothing of a modality takes its mean over the year.
        values: also what the ordinal tokens (bins) themselves stand for, standardised.

    Attributes:
        width: F.

    Raises:
        ValueError: an unknown ``pooled``, or nothing at all to see.
    """

    def __init__(self, model: TokenFusion, pooled: Pooled = "summary", values: bool = False) -> None:
        super().__init__()
        layout = model.tokenizer.layout
        if pooled not in get_args(Pooled):
            raise ValueError(f"TokenFeatures: pooled is one of {', '.join(get_args(Pooled))}, not {pooled!r}")
        ordinal = torch.cat(
            [model.tokenizer.part(name).ordinal[layout.channel[part]] for name, part in layout.slices.items()]
        )  # (N,)
        if pooled == "none" and not (values and bool(ordinal.any())):
            raise ValueError("TokenFeatures: neither states nor values of bins; give pooled, or values with bins")
        self.pooled, self.values = pooled, values
        grouped = pooled not in ("summary", "none")
        self.group = token_groups(layout, pooled) if grouped else torch.zeros(len(layout), dtype=torch.int64)
        self.ordinal = ordinal.nonzero()[:, 0] if values else ordinal.new_zeros(0, dtype=torch.int64)
        states = 0 if pooled == "none" else (int(self.group.max()) + 1) * model.config.dim
        self.width = states + len(self.ordinal)

    def forward(self, model: TokenFusion, tokens: Tokens) -> Tensor:
        parts = []
        if self.pooled != "none":
            seen = tokens.observed
            slots = seen.any(0).nonzero()[:, 0]  # what no tile has is not computed
            parts.append(self.of_states(model, model.hidden(tokens, seen, slots), seen[:, slots], slots))
        if self.values:
            parts.append(self._of_values(model, tokens))
        return torch.cat(parts, 1)

    def of_states(self, model: TokenFusion, states: Tensor, shown: Tensor, slots: Tensor) -> Tensor:
        """The part of the features that are means of the states (B, S, D) of the tokens ``slots`` (S,), as far as they
        are ``shown`` (B, S)."""
        if self.pooled == "summary":
            return model.pooled(states, shown, slots)
        home = states.device
        group, modality = self.group.to(home), model.tokenizer.layout.modality.to(home)
        own = _means(states, shown, group[slots], int(group.max()) + 1)  # (B, G, D)
        year = _means(states, shown, modality[slots], len(model.config.modalities))  # (B, M, D)
        of = modality.new_zeros(own.shape[1]).scatter(0, group, modality)  # (G,) modality of each group
        return torch.where(own.isnan(), year[:, of], own).flatten(1)

    def _of_values(self, model: TokenFusion, tokens: Tokens) -> Tensor:
        found = []
        for name, part in tokens.layout.slices.items():
            table = model.tokenizer.part(name).code_values().to(tokens.codes.device)  # (C, K)
            codes, channel = tokens.codes[:, part], tokens.layout.channel[part].to(tokens.codes.device)
            found.append(table[channel, codes.clamp_min(0)].masked_fill(codes < 0, torch.nan))
        return torch.cat(found, 1)[:, self.ordinal.to(tokens.codes.device)]


def _means(states: Tensor, shown: Tensor, group: Tensor, groups: int) -> Tensor:
    """(B, G, D) mean of the states (B, S, D) shown (B, S) of each group (S,), NaN where there is none."""
    onto = nn.functional.one_hot(group, groups).to(states.dtype)  # (S, G)
    weight = shown.to(states.dtype)
    count = (weight @ onto)[..., None]  # (B, G, 1)
    means = torch.einsum("bsd,sg->bgd", states * weight[..., None], onto) / count.clamp_min(1)
    return means.masked_fill(count == 0, torch.nan)
