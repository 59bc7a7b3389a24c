"""Relative-position attention against what a user would write otherwise.

Peers: ``plain``, the formula in PyTorch with its Lq x Lk maps; ``compile``, torch.compile of it; ``sdpa with mask``,
the bias gathered into a mask for torch's fused attention; ``sdpa without bias``, another function, but the price of
the bias; ``flex``, FlexAttention with the bias as a score modification (a GPU only: it has no backward on a CPU).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.compat.irpe import rpe_index
from fusion.kernels import euclidean_buckets, relative_attention

from .harness import compare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS, DIM, BUCKETS = 16, 16, 8
# B, modalities, grid side, whether the queries are learned (one for each position, shared by the tiles).
SIZES = {
    "treesatai self": (128, 3, 6, False),
    "treesatai cross": (128, 3, 6, True),
    "flair self": (64, 2, 10, False),
    "pastis self": (1, 3, 32, False),
    "pastis cross": (1, 3, 32, True),
}
PEERS = ("plain", "compile", "sdpa with mask", "sdpa without bias") + (("flex",) if DEVICE == "cuda" else ())


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

    @classmethod
    def of(cls, size: str, dtype: torch.dtype) -> Inputs:
        batch, modalities, side, learned = SIZES[size]
        torch.manual_seed(0)
        patches = 1 + torch.arange(side * side)
        key_position = torch.cat([torch.zeros(1, dtype=torch.long), patches.repeat(modalities)])
        query_position = key_position[: 1 + side * side] if learned else key_position
        bucket = euclidean_buckets(side, side)

        def heads(batch: int, length: int) -> Tensor:  # as a projection leaves them: tokens, then heads, in memory
            return torch.randn(batch, length, HEADS, DIM).to(DEVICE, dtype).transpose(1, 2).requires_grad_()

        index = bucket[query_position[:, None], key_position]
        return cls(
            heads(1 if learned else batch, len(query_position)),
            heads(batch, len(key_position)),
            heads(batch, len(key_position)),
            torch.randn(1, DIM, BUCKETS, device=DEVICE).requires_grad_(),
            *(t.to(DEVICE) for t in (bucket, query_position, key_position, index)),
        )

    def parameters(self) -> list[Tensor]:
        return [self.query, self.key, self.value, self.table]


def fused(x: Inputs) -> Tensor:
    positions = {"query_position": x.query_position, "key_position": x.key_position}
    return relative_attention(x.query, x.key, x.value, table=x.table, bucket=x.bucket, **positions)


def _bias(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    by_bucket = query * DIM**-0.5 @ table.to(query.dtype)  # (B, H, Lq, K)
    return by_bucket.gather(3, index.expand(*by_bucket.shape[:2], -1, -1))


def plain_formula(query: Tensor, key: Tensor, value: Tensor, table: Tensor, index: Tensor) -> Tensor:
    logits = query * DIM**-0.5 @ key.transpose(-1, -2) + _bias(query, table, index)
    return logits.softmax(-1) @ value


@functools.cache
def compiled_formula() -> Callable[..., Tensor]:
    return torch.compile(plain_formula)


@functools.cache
def compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def flex(x: Inputs) -> Tensor:
    query = x.query.expand(len(x.key), -1, -1, -1)
    by_bucket = query * DIM**-0.5 @ x.table.to(query.dtype)

    def add_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + by_bucket[b, h, i, x.index[i, j]]

    return compiled_flex()(query, x.key, x.value, score_mod=add_bias)


def sdpa_with_mask(x: Inputs) -> Tensor:
    query = x.query.expand(len(x.key), -1, -1, -1)
    return F.scaled_dot_product_attention(query, x.key, x.value, attn_mask=_bias(query, x.table, x.index))


ATTENTIONS: dict[str, Callable[[Inputs], Tensor]] = {
    "fusion": fused,
    "plain": lambda x: plain_formula(x.query, x.key, x.value, x.table, x.index),
    "compile": lambda x: compiled_formula()(x.query, x.key, x.value, x.table, x.index),
    "sdpa with mask": sdpa_with_mask,
    "sdpa without bias": lambda x: F.scaled_dot_product_attention(
        x.query.expand(len(x.key), -1, -1, -1), x.key, x.value
    ),
    "flex": flex,
}


def step(name: str, size: str, dtype: torch.dtype, what: str) -> Callable[[], None]:
    """One forward pass, one backward pass, or both."""
    inputs = Inputs.of(size, dtype)
    attention = ATTENTIONS[name]
    if what == "forward":
        return torch.no_grad()(lambda: attention(inputs))
    gradient = torch.randn_like(attention(inputs))
    wanted = [p for p in inputs.parameters() if name != "sdpa without bias" or p is not inputs.table]
    if what == "backward":
        output = attention(inputs)
        return lambda: torch.autograd.grad(output, wanted, gradient, retain_graph=True)
    return lambda: torch.autograd.grad(attention(inputs), wanted, gradient)


def _compare(benchmark, size: str, dtype: torch.dtype, what: str, peers: tuple[str, ...]) -> dict:
    batch, modalities, side, learned = SIZES[size]
    keys = 1 + modalities * side * side
    queries = 1 + side * side if learned else keys
    products = {"forward": 2, "backward": 5, "both": 7}[what]
    benchmark.group = f"relative_attention {size} {what} {dtype}"
    return compare(
        benchmark,
        "relative_attention",
        {
            **{"size": size, "shape": [batch, HEADS, queries, keys, DIM]},
            **{"dtype": str(dtype).removeprefix("torch."), "pass": what},
        },
        {name: functools.partial(step, name, size, dtype, what) for name in ("fusion", *peers)},
        operations=2 * products * batch * HEADS * queries * keys * DIM,
        seconds=6.0 if size.startswith("pastis") else 2.0,  # 3 rounds would be at the mercy of a busy machine
        memory=what == "both",
    )


@pytest.mark.parametrize("what", ["forward", "backward", "both"])
@pytest.mark.parametrize("size", SIZES)
def test_combiner_sizes_float32(benchmark, size: str, what: str) -> None:
    rows = _compare(benchmark, size, torch.float32, what, PEERS if what == "both" else ("plain", "sdpa without bias"))
    if rows and what == "both":
        others = [row["ratio"] for name, row in rows.items() if name not in ("fusion", "sdpa without bias")]
        assert min(others) >= 1, "a peer is faster"
    if rows and what == "both" and size == "pastis self" and DEVICE == "cpu":
        assert rows["plain"]["ratio"] >= 5
        assert rows["sdpa without bias"]["ratio"] >= 1 / 1.2
        results = 5 * 4 * HEADS * 3073 * DIM  # output and gradients are part of the peak
        assert rows["fusion"]["peak_bytes"] - results <= 64 << 20


@pytest.mark.parametrize("size", SIZES)
def test_combiner_sizes_bfloat16(benchmark, size: str) -> None:
    _compare(benchmark, size, torch.bfloat16, "both", ("plain", "sdpa without bias", *PEERS[4:]))


def _index_step(name: str) -> Callable[[], None]:
    """The original's index operator, forward and backward, at a size of its own benchmark: (32, 16, 109, 8)."""
    torch.manual_seed(0)
    values = torch.randn(32, HEADS, 109, BUCKETS, device=DEVICE, requires_grad=True)
    index = torch.randint(BUCKETS, (109, 109), device=DEVICE)
    gradient = torch.randn(32, HEADS, 109, 109, device=DEVICE)

    def gathered() -> Tensor:
        return values.gather(3, index.expand(32, HEADS, -1, -1))

    run = {"fusion": lambda: rpe_index(values, index), "torch.gather": gathered}[name]
    return lambda: torch.autograd.grad(run(), values, gradient)


def test_index_operator(benchmark) -> None:
    benchmark.group = "rpe_index"
    names = ("fusion", "torch.gather")
    case = {"shape": [32, HEADS, 109, 109, BUCKETS], "dtype": "float32", "pass": "both"}
    compare(benchmark, "rpe_index", case, {name: functools.partial(_index_step, name) for name in names}, memory=False)
