"""The modality combining network (paper 3.1, figure 3c; equations 1 and 2).

Self-attention connects the tokens of all modalities, then one learned query per patch collects what the
modalities say about it. The only notion of place is the relative position of two patches on the ground, whatever
their modality: tokens of the same patch in two modalities have distance zero.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import RelativeAttention, euclidean_buckets
from ..layers import AttentionBlock, TransformerBlock

__all__ = ["Combiner", "CrossBlock"]


class CrossBlock(AttentionBlock):
    """Learned queries, the same for all tiles, attend to the tokens of a tile; then a residual feed-forward.

    The attention has no residual: a query holds nothing of the tile.
    """

    def forward(self, tokens: Tensor, query: Tensor, key_position: Tensor | None, valid: Tensor | None) -> Tensor:
        """tokens (B, L, D), query (1, S, D) at positions 0..S-1, key_position (L,), valid (B, L) -> (B, S, D)."""
        attended = self.attention(self.attention_norm(tokens), query=query, key_position=key_position, valid=valid)
        out = self.collect(attended)
        return out + self.drop_path(self.feed_forward(self.feed_forward_norm(out)))

    def collect(self, attended: Tensor) -> Tensor:
        """What follows the attention. No drop-path: nothing of the tile would be left."""
        return self.dropout(attended)


class Combiner(nn.Module):
    """Tokens of any number of modalities to one encoding per patch and one per tile.

    Position 0 is the tile as a whole: a learned summary token in the self-attention, and the same query as the
    patches', at that position, in the cross-attention. Its distance to everything is a bucket of its own.

    Args:
        grid: patches per tile (rows, columns).
        dim, depth, heads, mlp_dim: token width, self-attention blocks, heads, hidden width of the feed-forwards.
        dropout, attention_dropout: of branches and of attention weights.
        drop_path: of the last self-attention block, growing linearly from 0 in the first.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        dim: int = 256,
        *,
        depth: int = 6,
        heads: int = 16,
        mlp_dim: int = 1024,
        dropout: float = 0.2,
        attention_dropout: float = 0.2,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        bucket = euclidean_buckets(*grid, extra=1)  # (1+P, 1+P)
        self.summary = nn.Parameter(torch.empty(1, 1, dim).normal_(0, 0.02))
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                RelativeAttention(dim, heads, bucket, dropout=attention_dropout), dim, mlp_dim, dropout, rate
            )
            for rate in torch.linspace(0, drop_path, depth).tolist()
        )
        cross = RelativeAttention(dim, heads, bucket, cross=True, dropout=attention_dropout)
        self.cross = CrossBlock(cross, dim, mlp_dim, dropout, drop_path)
        self._look_at_own_patch(own=int(bucket[1, 1]), others=len(bucket) - 1)
        self._positions: dict[tuple[int, int, torch.device], Tensor] = {}

    @torch.no_grad()
    def _look_at_own_patch(self, own: int, others: int) -> None:
        """Starts the cross-attention so that a patch's query gives half of its attention to its own patch.

        The queries are copies of one vector and only the position table tells them apart. From a table of zeros,
        as in self-attention, they all say the same for many epochs.
        """
        attention = cast(RelativeAttention, self.cross.attention)
        direction = torch.randn(attention.table.shape[1])  # (D/H,), the same in every head
        self.query.copy_(direction.repeat(attention.heads))
        bias = math.log(others) * math.sqrt(len(direction))  # the op divides by sqrt(D/H)
        attention.table[..., own] = direction * bias / direction.square().sum()

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens (B, M, P, D), valid (B, M) bool -> (B, 1+P, D), the tile's summary first.

        Tokens of a modality that a tile does not have are never attended to.
        """
        batch, modalities, patches, dim = tokens.shape
        position = self.positions(modalities, patches, tokens.device)
        valid = F.pad(valid.repeat_interleave(patches, dim=1), (1, 0), value=True)  # (B, 1 + M*P)
        x = torch.cat((self.summary.expand(batch, -1, -1).to(tokens.dtype), tokens.flatten(1, 2)), dim=1)
        for block in self.blocks:
            x = block(x, key_position=position, valid=valid)
        query = self.query.expand(1, 1 + patches, dim)
        return self.cross(x, query, position, valid)

    def positions(self, modalities: int, patches: int, device: torch.device) -> Tensor:
        """(1 + M*P,): 0, 1..P, 1..P, ... Kept, so that the op checks each such tensor only once."""
        key = (modalities, patches, device)
        if key not in self._positions:
            with torch.inference_mode(False):  # the first call may be an evaluation, the next one training
                place = torch.arange(1, patches + 1, device=device).repeat(modalities)
                self._positions[key] = F.pad(place, (1, 0))
        return self._positions[key]
