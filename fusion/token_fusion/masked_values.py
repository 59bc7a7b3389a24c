"""A second objective: two views of a tile say each other's codes and values, and are told from other tiles' views."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..data.tiles import TileBatch
from ..kernels import patch_info_nce
from .cross_entropy import masked_cross_entropy, most_likely
from .model import TokenFusion
from .objective import Losses
from .tokens import Layout, Tokens
from .views import draw_views

__all__ = ["MaskedValues"]


class MaskedValues(nn.Module):
    """Learns what a tile looks like on dates, and in modalities, that the model was not given.

    Where :class:`~fusion.token_fusion.objective.MaskedPrediction` hides tokens and asks for their codes, this one

    * cuts each tile into two views by spans of dates, by any dates, or by modality
      (:func:`~fusion.token_fusion.views.draw_views`); each is given once, and asked for what the other holds. Single
      pixels and single sensors have something to learn, too;
    * asks for the standardised values of codes that have one (bins), through a linear layer a modality: a squared error
      knows how far off a guess is, and its targets are not cut into bins' neighbourhoods;
    * contrasts the summary of one view with that of the other, against those of other tiles (NT-Xent, Chen et al.
      2020): dates with dates of one sensor, and modalities with modalities.

    Args:
        layout: of the model's tokens. dim: width of its states.
        code_weight, value_weight, contrastive_weight: of the three terms; one that is 0 is not computed.
        whole: share of the tiles that are cut between modalities.
        spread: see :class:`~fusion.token_fusion.objective.MaskedPrediction`.
        temperature: of the contrast.

    Raises:
        ValueError: a negative weight, all of them 0, or a layout of a single token, of which nothing could be hidden.
    """

    def __init__(
        self,
        layout: Layout,
        dim: int,
        *,
        code_weight: float = 1.0,
        value_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        whole: float = 0.25,
        spread: float = 1.0,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        weights = (code_weight, value_weight, contrastive_weight)
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"MaskedValues: weights must not be negative, nor all of them 0, got {weights}")
        if not 0 <= whole <= 1:
            raise ValueError(f"MaskedValues: whole is a share of the tiles in [0, 1], not {whole}")
        if len(layout) == 1:
            raise ValueError(
                f"MaskedValues: a tile is one token ({layout.names[0]}), so nothing can be hidden or compared; "
                "give further bands, dates, patches or modalities"
            )
        self.code_weight, self.value_weight, self.contrastive_weight = weights
        self.whole, self.spread, self.temperature = whole, spread, temperature
        self.values = nn.ModuleDict({name: nn.Linear(dim, layout.channels(name)) for name in layout.names})

    def forward(
        self, model: TokenFusion, batch: TileBatch, generator: torch.Generator | None = None, *, accuracy: bool = False
    ) -> Losses:
        """Draws views (from ``generator``, default: torch's own) and scores what each says of the other."""
        return self.of_tokens(model, model.tokenize(batch), generator, accuracy=accuracy)

    def of_tokens(
        self, model: TokenFusion, tokens: Tokens, generator: torch.Generator | None = None, *, accuracy: bool = False
    ) -> Losses:
        """As :meth:`forward`, for tokens that are at hand."""
        return self.score(model, tokens, *draw_views(tokens, self.whole, generator=generator), accuracy=accuracy)

    def score(
        self, model: TokenFusion, tokens: Tokens, first: Tensor, second: Tensor, *, accuracy: bool = False
    ) -> Losses:
        """The losses of two views (B, N) of the tokens; each is asked for what the other shows."""
        slots = (first | second).any(0).nonzero()[:, 0]  # what no tile has is not computed
        passes = [(model.hidden(tokens, view, slots), other) for view, other in ((first, second), (second, first))]
        states = torch.cat([found for found, _ in passes])  # (2B, S, D)
        asked = torch.cat([other for _, other in passes])[:, slots]  # (2B, S)
        losses = Losses(states.sum() * 0, {}, {}, {})
        if self.code_weight or self.value_weight:
            self._predict(model, tokens, slots, states, asked, losses, accuracy)
        if self.contrastive_weight:
            shown = torch.stack([first, second])[:, :, slots]  # (2, B, S)
            summary = model.pooled(states.unflatten(0, (2, -1)), shown, slots)  # (2, B, D)
            contrast = patch_info_nce(
                summary[:, :, None], valid=shown.any(2), temperature=self.temperature, exclude="self"
            )
            losses.total = losses.total + self.contrastive_weight * cast(Tensor, contrast)
        return losses

    def _predict(
        self,
        model: TokenFusion,
        tokens: Tokens,
        slots: Tensor,
        states: Tensor,
        asked: Tensor,
        losses: Losses,
        accuracy: bool,
    ) -> None:
        """Adds the errors of the tokens asked for, (2B, S), to the losses: the mean over all of them."""
        layout, count = tokens.layout, asked.sum().clamp_min(1)
        channels, codes = layout.channel.to(slots.device)[slots], tokens.codes[:, slots].repeat(2, 1)
        for name, part in layout.slices.items():
            inside = (slots >= part.start) & (slots < part.stop)
            here = asked[:, inside]  # (2B, S_m)
            if not bool(here.any()):
                continue
            rows, code = states[:, inside][here], codes[:, inside][here]  # (R, D), (R,)
            channel = channels[inside].expand(here.shape)[here]
            tokenizer, table, error = model.tokenizer.part(name), model.codes[name], rows.new_zeros(len(rows))
            ordinal = tokenizer.ordinal.to(code.device)[channel]
            if self.code_weight:
                scores = model.to_scores(rows)
                found = masked_cross_entropy(scores, table, channel, code, self.spread * ordinal.float())
                error = error + self.code_weight * found
                if accuracy:
                    losses.accuracy[name] = (most_likely(scores, table, channel) == code).float().mean()
            if self.value_weight:
                wanted = tokenizer.code_values().to(rows)[channel, code]
                guess = self.values[name](rows).gather(1, channel[:, None])[:, 0]
                error = error + self.value_weight * (guess - wanted).square() * ordinal
            losses.total = losses.total + error.sum() / count
            losses.by_modality[name], losses.counts[name] = error.detach().mean(), len(code)
