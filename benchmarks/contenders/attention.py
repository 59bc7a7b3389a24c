"""Relative-position attention against what a user would write otherwise.

``plain``: the formula in PyTorch with its Lq x Lk maps; ``compile``: torch.compile of it; ``sdpa with mask``: the bias
gathered into a mask for torch's fused attention; ``sdpa without bias``: another function, but the price of the bias;
``flex``: FlexAttention with the bias as a score modification (on a GPU only: it has no backward pass on a CPU).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.kernels import euclidean_buckets, relative_attention

from .common import DEVICE, Step, compiled, ours

__all__ = ["BUCKETS", "DIM", "HEADS", "PEERS", "SIZES", "Inputs", "heads", "lengths", "operations", "step"]

HEADS, DIM, BUCKETS = 16, 16, 8
# B, modalities, grid side, whether the queries are learned (one for each position, shared by the tiles).
SIZES = {
    "treesatai self": (128, 3, 6, False),
    "treesatai cross": (128, 3, 6, True),
    "flair self": (64, 2, 10, False),
    "pastis self": (4 if DEVICE == "cuda" else 1, 3, 32, False),
    "pastis cross": (4 if DEVICE == "cuda" else 1, 3, 32, True),
    "tiny self": (1, 2, 2, False),
    "tiny cross": (1, 2, 2, True),
}
PEERS = ("plain", "compile", "sdpa with mask", "sdpa without bias") + (("flex",) if DEVICE == "cuda" else ())


def lengths(size: str) -> tuple[int, int, int]:
    """B, Lq, Lk."""
    batch, modalities, side, learned = SIZES[size]
    keys = 1 + modalities * side * side
    return batch, 1 + side * side if learned else keys, keys


def heads(size: str) -> int:
    return 1 if "tiny" in size else HEADS


@dataclass
class Inputs:
    query: Tensor  # (1|B, H, Lq, D)
    key: Tensor  # (B, H, Lk, D)
    value: Tensor  # (B, H, Lk, D)
    table: Tensor  # (1, D, K)
    bucket: Tensor  # (S, S)
    query_position: Tensor  # (Lq,)
    key_position: Tensor  # (Lk,)
    index: Tensor  # (Lq, Lk), the bucket of each pair: what peers keep of the layout
    valid: Tensor | None  # (B, Lk)
    dropout: float

    @classmethod
    def of(
        cls, size: str, dtype: torch.dtype, masked: bool = False, dropout: float = 0.0, euclidean: bool = True
    ) -> Inputs:
        """``euclidean=False``: a table with one odd entry, whose buckets no formula gives."""
        batch, modalities, side, learned = SIZES[size]
        torch.manual_seed(0)
        patches = 1 + torch.arange(side * side)
        key_position = torch.cat([torch.zeros(1, dtype=torch.long), patches.repeat(modalities)])
        query_position = key_position[: 1 + side * side] if learned else key_position
        bucket = euclidean_buckets(side, side)
        bucket[1, 2] = bucket[1, 2] if euclidean else bucket[1, 1]

        def operand(batch: int, length: int) -> Tensor:  # as a projection leaves it: tokens, then heads, in memory
            return (
                torch.randn(batch, length, heads(size), DIM, device=DEVICE).to(dtype).transpose(1, 2).requires_grad_()
            )

        index = bucket[query_position[:, None], key_position]
        valid = torch.rand(batch, len(key_position), device=DEVICE) > 0.3 if masked else None
        if valid is not None:
            valid[:, 0] = True
        return cls(
            operand(1 if learned else batch, len(query_position)),
            operand(batch, len(key_position)),
            operand(batch, len(key_position)),
            torch.randn(1, DIM, BUCKETS, device=DEVICE).requires_grad_(),
            *(t.to(DEVICE) for t in (bucket, query_position, key_position, index)),
            valid,
            dropout,
        )

    def parameters(self) -> list[Tensor]:
        return [self.query, self.key, self.value, self.table]

    def expanded(self) -> Tensor:
        """The queries of every tile."""
        return self.query.expand(len(self.key), -1, -1, -1)


def fused(x: Inputs) -> Tensor:
    options: dict[str, Any] = {"query_position": x.query_position, "key_position": x.key_position}
    options |= {"key_valid": x.valid, "dropout_p": x.dropout}
    return relative_attention(x.query, x.key, x.value, table=x.table, bucket=x.bucket, **options)


def _bias(query: Tensor, table: Tensor, index: Tensor, valid: Tensor | None) -> Tensor:
    by_bucket = query * DIM**-0.5 @ table.to(query.dtype)  # (B, H, Lq, K)
    bias = by_bucket.gather(3, index.expand(*by_bucket.shape[:2], -1, -1))
    return bias if valid is None else bias.masked_fill(~valid[:, None, None], -torch.inf)


def plain_formula(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, index: Tensor, valid: Tensor | None, dropout: float
) -> Tensor:
    logits = query * DIM**-0.5 @ key.transpose(-1, -2) + _bias(query, table, index, valid)
    weights = logits.softmax(-1)
    return (F.dropout(weights, dropout) if dropout else weights) @ value


def plain(x: Inputs, formula: Callable[..., Tensor] = plain_formula) -> Tensor:
    return formula(x.expanded(), x.key, x.value, x.table, x.index, x.valid, x.dropout)


def flex(x: Inputs) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    by_bucket = x.expanded() * DIM**-0.5 @ x.table.to(x.query.dtype)

    def add_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + by_bucket[b, h, i, x.index[i, j]]

    return compiled(flex_attention)(x.expanded(), x.key, x.value, score_mod=add_bias)


def sdpa_with_mask(x: Inputs) -> Tensor:
    mask = _bias(x.expanded(), x.table, x.index, x.valid)
    return F.scaled_dot_product_attention(x.expanded(), x.key, x.value, attn_mask=mask, dropout_p=x.dropout)


def sdpa_without_bias(x: Inputs) -> Tensor:
    return F.scaled_dot_product_attention(x.expanded(), x.key, x.value, dropout_p=x.dropout)


ATTENTIONS: dict[str, Callable[[Inputs], Tensor]] = {
    "plain": plain,
    "compile": lambda x: plain(x, compiled(plain_formula)),
    "sdpa with mask": sdpa_with_mask,
    "sdpa without bias": sdpa_without_bias,
    "flex": flex,
}


def step(contender: str, size: str, dtype: torch.dtype, what: str, **options: Any) -> Step:
    """One forward pass, one backward pass, or both. ``options`` of :meth:`Inputs.of`."""
    inputs = Inputs.of(size, dtype, **options)
    attention = ATTENTIONS.get(contender, fused)
    if what == "forward":
        return ours(contender, torch.no_grad()(lambda: attention(inputs)))
    output = ours(contender, lambda: attention(inputs))()
    gradient = torch.randn_like(output)
    wanted = [p for p in inputs.parameters() if contender != "sdpa without bias" or p is not inputs.table]
    if what == "backward":
        return ours(contender, lambda: torch.autograd.grad(output, wanted, gradient, retain_graph=True))
    return ours(contender, lambda: torch.autograd.grad(attention(inputs), wanted, gradient))


def operations(size: str, what: str) -> float:
    """Two products of Lq x Lk x D a head forward, five backward."""
    batch, queries, keys = lengths(size)
    return 2 * {"forward": 2, "backward": 5, "both": 7}[what] * batch * heads(size) * queries * keys * DIM
