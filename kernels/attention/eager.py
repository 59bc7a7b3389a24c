"""Relative-position attention in chunked PyTorch: the fallback on every device.

Works on blocks of queries and recomputes their logits in the backward pass, so that no Lq x Lk map exists:
beyond inputs, output and gradients it needs O(B H L) and a constant work space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .dropout import keep_mask

__all__ = ["backward", "empty_like_heads", "forward", "statistics_dtype", "sums_by_bucket"]

_LOG2E = math.log2(math.e)
# Elements of one block of logits: small enough for the CPU's caches, large enough to occupy a GPU.
_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 25}


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Softmax statistics and sums are float32 for half precisions."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def empty_like_heads(tensor: Tensor) -> Tensor:
    """Empty (B, H, L, D) laid out as (B, L, H, D) in memory, so that merging the heads is a view."""
    b, h, length, d = tensor.shape
    return tensor.new_empty_strided((b, h, length, d), (length * h * d, d, h * d, 1))


@dataclass
class _Blocks:
    """The operands in the precision of the statistics, and the logits of one block of queries at a time."""

    query: Tensor  # (B, H, Lq, D)
    key: Tensor  # (B, H, Lk, D)
    value: Tensor  # (B, H, Lk, D)
    table: Tensor  # (1|H, D, K) or (1|H, K)
    bucket: Tensor  # (S, S)
    query_position: Tensor | None
    key_position: Tensor | None
    key_valid: Tensor | None
    seed: Tensor | None
    dropout_p: float
    scale: float

    def __post_init__(self) -> None:
        dtype = statistics_dtype(self.query.dtype)
        self.query, self.key, self.value, self.table = (
            t.to(dtype) for t in (self.query, self.key, self.value, self.table)
        )
        device, (queries, keys) = self.query.device, (self.query.shape[2], self.key.shape[2])
        identity = torch.arange(max(queries, keys), device=device)
        self.rows_at = identity[:queries] if self.query_position is None else self.query_position.long()
        self.columns_at = identity[:keys] if self.key_position is None else self.key_position.long()

    @property
    def buckets(self) -> int:
        return self.table.shape[-1]

    @property
    def contextual(self) -> bool:
        return self.table.dim() == 3

    def blocks(self) -> Iterator[slice]:
        """Blocks of queries whose logits, and one-hot buckets, stay within the work space."""
        batch, heads, queries, _ = self.query.shape
        row = self.key.shape[2] * max(batch * heads, self.buckets)
        step = max(1, _BLOCK.get(self.query.device.type, 1 << 20) // max(row, 1))
        for start in range(0, queries, step):
            yield slice(start, min(start + step, queries))

    def index(self, rows: slice) -> Tensor:  # (r, Lk)
        return self.bucket[self.rows_at[rows, None], self.columns_at].long()

    def logits(self, rows: slice, index: Tensor) -> Tensor:  # (B, H, r, Lk)
        """Logits in units of ln 2, -inf at invalid keys."""
        scaled = self.scale * _LOG2E * self.query[:, :, rows]
        logits = scaled @ self.key.transpose(-1, -2)
        if self.contextual:
            by_bucket = scaled @ self.table  # (B, H, r, K)
            logits += by_bucket.gather(-1, index.expand(*by_bucket.shape[:3], -1))
        else:
            logits += (_LOG2E * self.table)[:, index]
        if self.key_valid is not None:
            logits.masked_fill_(~self.key_valid[:, None, None, :], float("-inf"))
        return logits

    def kept(self, rows: slice) -> Tensor:  # (B, H, r, Lk): 0 where dropped, else 1 / (1 - p)
        batch, heads, queries, _ = self.query.shape
        row = torch.arange(batch * heads * queries, device=self.query.device).view(batch, heads, queries)
        keep = keep_mask(self.seed, row[:, :, rows], self.key.shape[2], self.dropout_p)
        return keep.to(self.query.dtype) / (1 - self.dropout_p)


def forward(query: Tensor, key: Tensor, value: Tensor, *arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Output (B, H, Lq, D), and ``largest`` and ``weight`` (B, H, Lq) as op.py defines them."""
    problem = _Blocks(query, key, value, *arguments)
    output = empty_like_heads(query)
    largest = problem.query.new_zeros(query.shape[:3])
    weight = torch.full_like(largest, float("inf"))
    if key.shape[2] == 0:
        return output.zero_(), largest, weight
    for rows in problem.blocks():
        logits = problem.logits(rows, problem.index(rows))
        top = logits.amax(-1)
        nothing = top == float("-inf")
        largest[:, :, rows] = top.masked_fill_(nothing, 0.0)
        powers = logits.sub_(top[..., None]).exp2_()
        weight[:, :, rows] = powers.sum(-1).masked_fill_(nothing, float("inf"))
        if problem.dropout_p > 0:
            powers *= problem.kept(rows)
        output[:, :, rows] = (powers @ problem.value / weight[:, :, rows, None]).to(output.dtype)
    return output, largest, weight


def backward(
    grad_output: Tensor,
    output: Tensor,
    largest: Tensor,
    weight: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    *arguments,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and table; with P the weights and dP = dO V^T: dS = P (dP - sum_j P dP)."""
    problem = _Blocks(query, key, value, table, *arguments)
    grad_output = grad_output.to(weight.dtype)
    grad_query = empty_like_heads(problem.query)
    grad_key, grad_value = torch.zeros_like(problem.key), torch.zeros_like(problem.value)
    grad_table = problem.table.new_zeros((key.shape[1], *table.shape[1:]))  # by head, folded below if shared
    for rows in problem.blocks():
        index = problem.index(rows)
        weights = problem.logits(rows, index).sub_(largest[:, :, rows, None]).exp2_()  # (B, H, r, Lk)
        weights /= weight[:, :, rows, None]
        grad_weights = grad_output[:, :, rows] @ problem.value.transpose(-1, -2)
        if problem.dropout_p > 0:
            kept = problem.kept(rows)
            grad_value += (weights * kept).transpose(-1, -2) @ grad_output[:, :, rows]
            grad_weights *= kept
        else:
            grad_value += weights.transpose(-1, -2) @ grad_output[:, :, rows]
        # sum(dO O) is the same number, but only this one makes a row add up to zero to the last bit or so.
        grad_weights -= (weights * grad_weights).sum(-1, keepdim=True)
        grad_logits = weights.mul_(grad_weights)
        scaled = problem.scale * problem.query[:, :, rows]
        grad_key += grad_logits.transpose(-1, -2) @ scaled
        block = grad_logits @ problem.key
        sums = sums_by_bucket(grad_logits, index, problem.buckets)  # (B, H, r, K)
        if problem.contextual:
            block += sums @ problem.table.transpose(-1, -2)
            grad_table += torch.einsum("bhrd,bhrk->hdk", scaled, sums)
        else:
            grad_table += sums.sum((0, 2))
        grad_query[:, :, rows] = problem.scale * block
    if table.shape[0] == 1:
        grad_table = grad_table.sum(0, keepdim=True)
    return (
        _with_heads_merged(grad_query, query),
        _with_heads_merged(grad_key, key),
        _with_heads_merged(grad_value, value),
        grad_table.to(table.dtype),
    )


def sums_by_bucket(grad_logits: Tensor, index: Tensor, buckets: int) -> Tensor:
    """Sums (B, H, r, Lk) over the keys of each bucket; a product with one-hot rows, since scatter_add on a
    GPU adds in no fixed order."""
    batch, heads, rows, keys = grad_logits.shape
    one_hot = (index[..., None] == torch.arange(buckets, device=index.device)).to(grad_logits.dtype)  # (r, Lk, K)
    by_row = grad_logits.reshape(batch * heads, rows, keys).transpose(0, 1)  # (r, B H, Lk)
    return (by_row @ one_hot).transpose(0, 1).reshape(batch, heads, rows, buckets)


def _with_heads_merged(gradient: Tensor, like: Tensor) -> Tensor:
    return empty_like_heads(like).copy_(gradient)
