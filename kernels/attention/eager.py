"""Relative-position attention in chunked PyTorch: the fallback on every device.

Works on blocks of queries and recomputes their logits in the backward pass, so that no Lq x Lk map exists:
beyond inputs, output and gradients it needs O(B H L) and a constant work space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .dropout import keep_mask
from .inputs import Inputs, empty_like_heads, statistics_dtype

__all__ = ["backward", "forward", "sums_by_bucket"]

_LOG2_E = math.log2(math.e)
# Elements of one block of logits: small enough for the CPU's caches, large enough to occupy a GPU.
_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 25}


class _Blocks:
    """The operands in the precision of the statistics, and the logits of one block of queries at a time."""

    def __init__(self, x: Inputs) -> None:
        dtype, device = statistics_dtype(x.query.dtype), x.query.device
        self.query, self.key, self.value, self.table = (t.to(dtype) for t in (x.query, x.key, x.value, x.table))
        self.bucket, self.key_valid = x.bucket, x.key_valid
        if x.key_valid is not None:
            # Weights there are 0, and so is their product with anything but inf and NaN. So are those of queries of a
            # tile without a valid key.
            unused = ~x.key_valid[:, None, :, None]
            self.key, self.value = self.key.masked_fill(unused, 0.0), self.value.masked_fill(unused, 0.0)
            self.query = self.query.masked_fill(~x.key_valid.any(1)[:, None, None, None], 0.0)
        self.seed, self.dropout_p, self.scale = x.seed, x.dropout_p, x.scale
        self.buckets, self.contextual = x.buckets, x.contextual
        queries, keys = x.query.shape[2], x.key.shape[2]
        identity = torch.arange(max(queries, keys), device=device)
        self.rows_at = identity[:queries] if x.query_position is None else x.query_position.long()
        self.columns_at = identity[:keys] if x.key_position is None else x.key_position.long()

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
        scaled = self.scale * _LOG2_E * self.query[:, :, rows]
        logits = scaled @ self.key.transpose(-1, -2)
        if self.contextual:
            by_bucket = scaled @ self.table  # (B, H, r, K)
            logits += by_bucket.gather(-1, index.expand(*by_bucket.shape[:3], -1))
        else:
            logits += (_LOG2_E * self.table)[:, index]
        if self.key_valid is not None:
            logits.masked_fill_(~self.key_valid[:, None, None, :], float("-inf"))
        return logits

    def kept(self, rows: slice) -> Tensor | None:  # (B, H, r, Lk): 0 where dropped, else 1 / (1 - p); None: all kept
        if self.seed is None:
            return None
        batch, heads, queries, _ = self.query.shape
        row = torch.arange(batch * heads * queries, device=self.query.device).view(batch, heads, queries)
        keep = keep_mask(self.seed, row[:, :, rows], self.key.shape[2], self.dropout_p)
        return keep.to(self.query.dtype) / (1 - self.dropout_p)


def forward(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Output (B, H, Lq, D), and ``largest`` and ``weight`` (B, H, Lq) as registration.py defines them."""
    problem = _Blocks(x)
    output = empty_like_heads(x.query)
    largest = problem.query.new_zeros(x.query.shape[:3])
    weight = torch.full_like(largest, float("inf"))
    if x.key.shape[2] == 0:
        return output.zero_(), largest, weight
    for rows in problem.blocks():
        logits = problem.logits(rows, problem.index(rows))
        top = logits.amax(-1)
        nothing = top == float("-inf")
        largest[:, :, rows] = top.masked_fill_(nothing, 0.0)
        powers = logits.sub_(top[..., None]).exp2_()
        weight[:, :, rows] = powers.sum(-1).masked_fill_(nothing, float("inf"))
        kept = problem.kept(rows)
        if kept is not None:
            powers *= kept
        output[:, :, rows] = (powers @ problem.value / weight[:, :, rows, None]).to(output.dtype)
    return output, largest, weight


def backward(
    grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, x: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and table; with P the weights and dP = dO V^T: dS = P (dP - sum_j P dP)."""
    problem = _Blocks(x)
    grad_output = grad_output.to(weight.dtype)
    if x.key_valid is not None:  # of a tile without a valid key it may be anything, such as that of a norm of zeros
        grad_output = grad_output.masked_fill(~x.key_valid.any(1)[:, None, None, None], 0.0)
    grad_query = empty_like_heads(problem.query)
    grad_key, grad_value = torch.zeros_like(problem.key), torch.zeros_like(problem.value)
    grad_table = problem.table.new_zeros((x.key.shape[1], *x.table.shape[1:]))  # by head, folded below if shared
    for rows in problem.blocks():
        index = problem.index(rows)
        weights = problem.logits(rows, index).sub_(largest[:, :, rows, None]).exp2_()  # (B, H, r, Lk)
        weights /= weight[:, :, rows, None]
        grad_weights = grad_output[:, :, rows] @ problem.value.transpose(-1, -2)
        kept = problem.kept(rows)
        if kept is not None:
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
    if x.key_valid is not None:  # where a gradient that came in is not finite, either
        unused = ~x.key_valid[:, None, :, None]
        grad_key, grad_value = grad_key.masked_fill(unused, 0.0), grad_value.masked_fill(unused, 0.0)
    if x.table.shape[0] == 1:
        grad_table = grad_table.sum(0, keepdim=True)
    return (
        _with_heads_merged(grad_query, x.query),
        _with_heads_merged(grad_key, x.key),
        _with_heads_merged(grad_value, x.value),
        grad_table.to(x.table.dtype),
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
