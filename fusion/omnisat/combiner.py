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
from .config import Positions

__all__ = ["Combiner", "CrossBlock", "merged"]


class CrossBlock(AttentionBlock):
    """Learned queries, the same for all tiles, attend to the tokens of a tile; then a residual feed-forward.

    The attention has no residual: a query holds nothing of the tile.
    """

    def forward(
        self,
        tokens: Tensor,
        query: Tensor,
        key_position: Tensor | None,
        valid: Tensor | None,
        query_position: Tensor | None = None,
    ) -> Tensor:
        """tokens (B, L, D), query (1, S, D), positions (L,) and (S,), valid (B, L) -> (B, S, D).

        Without ``query_position`` the queries are at positions 0..S-1.
        """
        attended = self.attention(
            self.attention_norm(tokens),
            query=query,
            query_position=query_position,
            key_position=key_position,
            valid=valid,
        )
        out = self.collect(attended)
        return out + self.drop_path(self.feed_forward(self.feed_forward_norm(out)))

    def collect(self, attended: Tensor) -> Tensor:
        """What follows the attention. No drop-path: nothing of the tile would be left."""
        return self.dropout(attended)


def merged(tokens: Tensor, grid: tuple[int, int], scale: int) -> Tensor:
    """(..., P, D) of ``grid`` patches to (..., P / scale^2, D): the means of ``scale`` x ``scale`` neighbours.

    Raises:
        ValueError: the grid cannot be cut that way.
    """
    rows, columns = grid
    if scale < 1 or rows % scale or columns % scale:
        possible = [k for k in range(1, min(grid) + 1) if rows % k == 0 and columns % k == 0]
        raise ValueError(
            f"OmniSat: patch_scale {scale} does not divide a tile of {rows} x {columns} patches; "
            f"{', '.join(map(str, possible))} do"
        )
    if scale == 1:
        return tokens
    blocks = tokens.unflatten(-2, (rows // scale, scale, columns // scale, scale))  # (..., R, k, C, k, D)
    return blocks.mean((-2, -4)).flatten(-3, -2)


class Combiner(nn.Module):
    """Tokens of any number of modalities to one encoding per patch and one per tile.

    Position 0 is the tile as a whole: a learned summary token in the self-attention, and the same query as the
    patches', at that position, in the cross-attention. Its distance to everything is a bucket of its own.

    Args:
        grid: patches per tile (rows, columns).
        dim, depth, heads, mlp_dim: token width, self-attention blocks, heads, hidden width of the feed-forwards.
        dropout, attention_dropout: of branches and of attention weights.
        drop_path: of the last self-attention block, growing linearly from 0 in the first.
        positions: ``"relative"`` (the paper); ``"absolute"``: learned vectors of the patches are added to tokens and
            queries instead (table A-1); ``"none"``: the self-attention knows no place. The queries still do: without
            one they would be copies of each other, and so would be the encodings of all patches.
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
        positions: Positions = "relative",
    ) -> None:
        super().__init__()
        self.grid = grid
        near = euclidean_buckets(*grid, extra=1)  # (1+P, 1+P)
        alike = torch.zeros_like(near)  # one bucket: a bias that all keys share, which the softmax does not see
        self.summary = nn.Parameter(torch.empty(1, 1, dim).normal_(0, 0.02))
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        inner = near if positions == "relative" else alike
        self.blocks = nn.ModuleList(
            TransformerBlock(
                RelativeAttention(dim, heads, inner, dropout=attention_dropout), dim, mlp_dim, dropout, rate
            )
            for rate in torch.linspace(0, drop_path, depth, device="cpu").tolist()
        )
        outer = alike if positions == "absolute" else near
        cross = RelativeAttention(dim, heads, outer, cross=True, dropout=attention_dropout)
        self.cross = CrossBlock(cross, dim, mlp_dim, dropout, drop_path)
        if positions == "absolute":
            self.place = nn.Parameter(torch.empty(1, len(near), dim).normal_(0, 0.02))  # summary, then P patches
            self.query_place = nn.Parameter(torch.empty(1, len(near), dim).normal_(0, 0.02))
            nn.init.normal_(self.query, 0, 0.02)
        else:
            self._look_at_own_patch(own=int(near[1, 1]), others=len(near) - 1)
        for attention in (module for module in self.modules() if isinstance(module, RelativeAttention)):
            attention.table.requires_grad_(attention.table.shape[-1] > 1)
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

    def forward(self, tokens: Tensor, valid: Tensor, *, scale: int = 1, every_patch: bool = False) -> Tensor:
        """Combines the tokens of B tiles; those that are not valid are never attended to.

        Args:
            tokens: (B, M, P', D), P' = P / scale^2 tokens of each modality (:func:`merged`).
            valid: (B, M) or (B, M, P') bool.
            scale: patches per side that a token stands for.
            every_patch: encode each of the P patches, also where a token stands for several.

        Returns:
            (B, 1+P', D), or (B, 1+P, D) with ``every_patch``; the tile's summary first.
        """
        batch, modalities, patches, dim = tokens.shape
        position = self.positions(modalities, scale, tokens.device)  # (1 + M*P',)
        if valid.ndim == 2:
            valid = valid[..., None].expand(-1, -1, patches)
        valid = F.pad(valid.flatten(1), (1, 0), value=True)  # (B, 1 + M*P')
        query_scale = 1 if every_patch else scale
        query_position = self.positions(1, query_scale, tokens.device)  # (1 + Q,)
        query = self.query.expand(1, len(query_position), dim)  # the same vector everywhere
        summary: Tensor = self.summary
        if hasattr(self, "place"):
            tokens = tokens + self._places(self.place, scale)[:, None, 1:]
            summary = summary + self.place[:, :1]
            query = query + self._places(self.query_place, query_scale)
        x = torch.cat((summary.expand(batch, -1, -1).to(tokens.dtype), tokens.flatten(1, 2)), dim=1)
        for block in self.blocks:
            x = block(x, key_position=position, valid=valid)
        return self.cross(x, query, position, valid, None if query_scale == 1 else query_position)

    def _places(self, place: Tensor, scale: int) -> Tensor:
        """(1, 1+P, D) of every patch to (1, 1+P', D) of what tokens stand for."""
        return torch.cat((place[:, :1], merged(place[:, 1:], self.grid, scale)), dim=1)

    def positions(self, modalities: int, scale: int, device: torch.device) -> Tensor:
        """(1 + M*P',): 0, then for every modality the patch in the middle of what each token stands for, from 1.

        Kept, so that the op checks each such tensor only once.
        """
        key = (modalities, scale, device)
        if key not in self._positions:
            rows, columns = self.grid
            middle = (scale - 1) // 2
            with torch.inference_mode(False):  # the first call may be an evaluation, the next one training
                number = torch.arange(1, rows * columns + 1, device=device).view(rows, columns)
                place = number[middle::scale, middle::scale].flatten().repeat(modalities)
                self._positions[key] = F.pad(place, (1, 0))
        return self._positions[key]
