"""Multi-head attention with relative positions, as a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from ..modules import has_values, moved
from .op import relative_attention

__all__ = ["RelativeAttention"]


class RelativeAttention(nn.Module):
    """Projections around :func:`relative_attention`: self-attention, or cross-attention from given queries.

    Self-attention (``cross=False``) projects its input to queries, keys and values. Cross-attention projects
    its input to keys and values only and takes the queries as they are, of batch 1 for learned queries that
    all tiles share. The position table starts at zero, as in iRPE: a new layer is plain attention.

    Args:
        dim: width of the tokens, a multiple of ``heads``.
        heads: number of heads H.
        bucket: (S, S) integer, the bucket of a pair of positions. The layer keeps it beside its buffers: it moves with
            the layer, but is not averaged with weights, not broadcast, and not lost on the way over ``meta``.
        mode: ``"contextual"`` (iRPE on keys) or ``"bias"`` (Swin, T5).
        shared: one position table for all heads, as in iRPE; False: one for each head.
        cross: attend from given queries instead of from the input itself.
        bias: whether the input projection has a bias; the output projection always has.
        dropout: share of attention weights dropped in training.

    Source: Wu et al., ICCV 2021; Astruc et al., OmniSat, ECCV 2024.
    """

    bucket: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        bucket: Tensor,
        *,
        mode: str = "contextual",
        shared: bool = True,
        cross: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"RelativeAttention: dim={dim} is not a multiple of heads={heads}")
        if mode not in ("contextual", "bias"):
            raise ValueError(f"RelativeAttention: mode={mode!r}; one of 'contextual', 'bias'")
        self.heads, self.mode, self.cross, self.dropout = heads, mode, cross, dropout
        self.project_in = nn.Linear(dim, (2 if cross else 3) * dim, bias=bias)
        self.project_out = nn.Linear(dim, dim)
        if not has_values(bucket):
            raise ValueError(
                f"RelativeAttention: bucket {tuple(bucket.shape)} on {bucket.device} holds no values to count buckets "
                "by; make it on a real device, as euclidean_buckets does, and outside FakeTensorMode"
            )
        buckets = int(bucket.max()) + 1
        size = (dim // heads, buckets) if mode == "contextual" else (buckets,)
        self.table = nn.Parameter(torch.zeros(1 if shared else heads, *size))
        self.bucket = bucket
        self._elsewhere: dict[torch.device, Tensor] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.bucket, self._elsewhere = moved(self.bucket, fn), {}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _bucket_on(self, device: torch.device) -> Tensor:
        """The bucket table on ``device``: another one than the layer's for ``meta`` and under ``nn.DataParallel``."""
        if self.bucket.device == device:
            return self.bucket
        if device not in self._elsewhere:
            self._elsewhere[device] = self.bucket.to(device)
        return self._elsewhere[device]

    def forward(
        self,
        tokens: Tensor,
        *,
        query: Tensor | None = None,
        query_position: Tensor | None = None,
        key_position: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Attends to ``tokens``.

        Args:
            tokens: (B, Lk, dim).
            query: (1|B, Lq, dim), for cross-attention and only there; used without projection.
            query_position, key_position: (Lq,), (Lk,) position of each token in ``bucket``. None: token i is at
                position i; in self-attention ``query_position`` follows ``key_position``.
            valid: (B, Lk) bool, which tokens are attended to.

        Returns:
            (B, Lq, dim); Lq = Lk in self-attention.
        """
        if (query is not None) != self.cross:
            given = "was given" if query is not None else "is missing"
            raise ValueError(f"RelativeAttention: query {given}, but the layer was made with cross={self.cross}")
        projected = self.project_in(tokens).unflatten(-1, (-1, self.heads, tokens.shape[-1] // self.heads))
        *own, key, value = projected.permute(2, 0, 3, 1, 4)  # each (B, H, Lk, D)
        if query is not None:
            own = [torch.unflatten(query, -1, (self.heads, -1)).transpose(1, 2).to(key.dtype)]  # (1|B, H, Lq, D)
        elif query_position is None:
            query_position = key_position
        attended = relative_attention(
            own[0],
            key,
            value,
            table=self.table,
            bucket=self._bucket_on(tokens.device),
            query_position=query_position,
            key_position=key_position,
            mode=self.mode,
            key_valid=valid,
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B, H, Lq, D)
        output: Tensor = self.project_out(attended.transpose(1, 2).flatten(2))
        return output

    def extra_repr(self) -> str:
        kind = "cross" if self.cross else "self"
        table = tuple(self.table.shape)
        return f"{kind}, heads={self.heads}, mode={self.mode!r}, table={table}, dropout={self.dropout}"
