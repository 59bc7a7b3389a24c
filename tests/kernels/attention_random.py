"""Small random cases of attention, with what plain PyTorch makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fusion.kernels import relative_attention
from fusion.kernels.attention import reference

from .attention_cases import unit

__all__ = ["HALF", "Case"]

HALF = (torch.bfloat16, torch.float16)


@dataclass
class Case:
    """Random inputs in float64 for one call."""

    batch: int = 2
    heads: int = 3
    queries: int = 37
    keys: int = 37
    dim: int = 16
    buckets: int = 8
    mode: str = "contextual"
    shared: bool = True
    masked: bool = False
    dropout: float = 0.0
    broadcast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        size = (1 if self.shared else self.heads, self.dim, self.buckets)
        self.table = self._normal(*(size if self.mode == "contextual" else size[::2]))
        self.query = self._normal(1 if self.broadcast else self.batch, self.heads, self.queries, self.dim)
        self.key = self._normal(self.batch, self.heads, self.keys, self.dim)
        self.value = self._normal(self.batch, self.heads, self.keys, self.dim)
        self.grad_output = self._normal(self.batch, self.heads, self.queries, self.dim)
        positions = max(self.queries, self.keys)
        # Neighbouring positions share buckets, most pairs the last one, as on a grid.
        distance = (torch.arange(positions)[:, None] - torch.arange(positions)).abs()
        self.bucket = distance.clamp(max=self.buckets - 1)
        self.positions = {
            "query_position": torch.randint(positions, (self.queries,), generator=self.generator),
            "key_position": torch.arange(self.keys) % max(1, self.keys // 2),  # two modalities share positions
        }
        self.key_valid = None
        if self.masked:
            self.key_valid = torch.rand(self.batch, self.keys, generator=self.generator) > 0.4
            self.key_valid[0], self.key_valid[-1] = True, False

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def run(self, dtype: torch.dtype, attention=relative_attention) -> dict[str, Tensor]:
        """Output and gradients; half precision keeps a float32 table, as parameters do."""
        inputs = [t.detach().to(dtype).requires_grad_() for t in (self.query, self.key, self.value)]
        table = self.table.detach().to(torch.float32 if dtype in HALF else dtype).requires_grad_()
        torch.manual_seed(self.seed)
        arguments = dict(table=table, bucket=self.bucket, mode=self.mode, key_valid=self.key_valid)
        arguments["dropout_p"] = self.dropout
        output = attention(*inputs, **arguments, **self.positions)
        output.backward(self.grad_output.to(dtype))
        names = ("query", "key", "value", "table")
        return {"output": output.detach()} | {n: t.grad for n, t in zip(names, (*inputs, table), strict=True)}

    def check(self, dtype: torch.dtype, slack: float = 2.0) -> None:
        """At most ``slack`` times the root mean square error of plain PyTorch in the same dtype.

        Plain PyTorch may be right by luck, within a unit in the last place. Of a gradient that is zero because terms
        cancel it may hit the zero exactly: there the bound is a few units in the last place of the terms.
        """
        exact = self.run(torch.float64, reference.relative_attention)
        plain = self.run(dtype, reference.relative_attention)
        got = self.run(dtype)
        for name, want in exact.items():
            assert got[name].shape == want.shape
            error, allowed = (float((r[name].double() - want).square().mean().sqrt()) for r in (got, plain))
            if want.abs().max() < 1e-6:
                allowed = 2 * torch.finfo(dtype).eps
            assert error <= slack * allowed + unit(want), f"{name}: {error:.2e} against {allowed:.2e}"
