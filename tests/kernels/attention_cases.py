"""Cases of relative-position attention for the Triton kernels: on a GPU and, smaller, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusion.kernels import euclidean_buckets, relative_attention, use_backend
from fusion.kernels.attention import reference

__all__ = ["CASES", "DTYPES", "Case", "Inputs", "check", "errors", "results", "unit"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HALF = DTYPES[1:]
NAMES = ("output", "query", "key", "value", "table")


@dataclass(frozen=True)
class Case:
    """B, H, Lq, Lk, D and the side of the grid (or a row's length), for a GPU and the interpreter, and options."""

    shape: tuple[int, int, int, int, int, int]
    small: tuple[int, int, int, int, int, int]
    line: bool = False  # the interpreter's grid is one row, so that some blocks are far throughout
    masked: str = ""  # "some" keys invalid, and all of the last tile's; a whole "modality" invalid
    dropout: float = 0.0
    mode: str = "contextual"
    shared: bool = True
    broadcast: bool = False  # queries of batch 1
    looked_up: bool = False  # a bucket table without a closed form
    extra: int = 1  # class tokens
    strided: bool = False  # last stride is not 1
    scale: float | None = None
    larger: float = 1.0  # factor of the queries


CASES = {
    "treesatai": Case((4, 16, 109, 109, 16, 6), (1, 1, 73, 70, 16, 6)),
    "treesatai cross": Case((4, 16, 37, 109, 16, 6), (2, 1, 20, 37, 16, 6), broadcast=True),
    "flair": Case((2, 16, 201, 201, 16, 10), (2, 1, 51, 51, 16, 5), masked="some"),
    "pastis": Case((1, 4, 3073, 3073, 16, 32), (1, 1, 97, 129, 16, 128), line=True),
    "pastis cross": Case(
        (1, 4, 1025, 3073, 16, 32), (1, 1, 33, 129, 16, 128), line=True, masked="modality", broadcast=True
    ),
    "dropout": Case((3, 4, 201, 109, 16, 10), (2, 1, 33, 40, 16, 6), masked="some", dropout=0.2),
    "bias": Case((2, 4, 101, 201, 32, 10), (1, 2, 20, 40, 32, 5), mode="bias", shared=False),
    "bias, dropout": Case((2, 4, 101, 201, 16, 10), (2, 1, 20, 40, 16, 5), mode="bias", dropout=0.1, masked="some"),
    "odd head": Case((2, 3, 37, 73, 13, 6), (1, 2, 20, 37, 13, 6), shared=False),
    "wide head": Case((1, 2, 101, 101, 64, 10), (1, 1, 40, 40, 64, 6), dropout=0.1),
    "widest head": Case((1, 2, 37, 37, 128, 6), (1, 1, 20, 20, 128, 4)),
    "one token": Case((2, 2, 1, 1, 8, 1), (2, 2, 1, 1, 8, 1)),
    "one key": Case((64, 4, 1, 1, 8, 1), (8, 1, 1, 1, 8, 1)),  # weights of one, far biases of many sizes
    "small grid": Case((4, 4, 10, 19, 16, 3), (2, 2, 10, 19, 16, 3)),  # other buckets are the most frequent
    "no class token": Case((2, 4, 300, 300, 16, 10), (1, 1, 75, 75, 16, 5), extra=0),
    "two class tokens": Case((2, 4, 202, 102, 16, 10), (1, 1, 52, 27, 16, 5), extra=2),
    "looked up": Case((2, 4, 201, 201, 16, 10), (1, 1, 40, 70, 16, 5), looked_up=True),
    "looked up, bias": Case(
        (2, 4, 201, 201, 16, 10), (2, 1, 26, 40, 16, 5), looked_up=True, mode="bias", masked="some"
    ),
    "strided": Case((2, 4, 101, 101, 16, 10), (1, 2, 26, 26, 16, 5), strided=True),
    "negative scale": Case((2, 4, 101, 101, 16, 10), (1, 1, 26, 40, 16, 5), scale=-0.3),
    "many keys": Case((2, 4, 37, 1601, 16, 40), (1, 1, 20, 785, 16, 28)),
    "large scores": Case((2, 4, 101, 101, 16, 10), (2, 2, 26, 40, 16, 5), larger=20.0),
}


@dataclass
class Inputs:
    """float64 query, key, value, table and gradient of the output, and what else op and definition take."""

    tensors: list[Tensor]
    gradient: Tensor
    common: dict[str, Any]
    mode: str

    @classmethod
    def of(cls, case: Case, device: str, *, small: bool) -> Inputs:
        batch, heads, queries, keys, dim, side = case.small if small else case.shape
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

        table = (1 if case.shared else heads, dim, 8)
        tensors = [
            case.larger * normal(1 if case.broadcast else batch, heads, queries, dim),
            *(normal(batch, heads, keys, dim) for _ in range(2)),
            normal(*(table if case.mode == "contextual" else table[::2])),
        ]
        height = 1 if small and case.line else side
        bucket = euclidean_buckets(height, side, case.extra)
        if case.looked_up:
            bucket[-1, -1] = 5
        patches = case.extra + torch.arange(max(queries, keys)) % (height * side)
        position = torch.cat([torch.arange(case.extra), patches])
        valid = None
        if case.masked == "some":
            valid = torch.rand(batch, keys, generator=generator) > 0.3
            valid[-1] = False
        elif case.masked:
            valid = torch.arange(keys).expand(batch, keys) <= keys // 2
        common = {
            **{"bucket": bucket.to(device), "key_valid": None if valid is None else valid.to(device)},
            **{"query_position": position[:queries].to(device), "key_position": position[:keys].to(device)},
            **{"dropout_p": case.dropout, "scale": dim**-0.5 if case.scale is None else case.scale},
        }
        return cls(tensors, normal(batch, heads, queries, dim), common, case.mode)


def results(
    attention: Callable[..., Tensor], inputs: Inputs, dtype: torch.dtype, *, strided: bool = False
) -> list[Tensor]:
    """Output and gradients; half precisions keep a float32 table, as parameters do."""
    *operands, table = inputs.tensors
    operands = [t.detach().to(dtype).requires_grad_() for t in operands]
    table = table.detach().to(torch.float32 if dtype in HALF else dtype).requires_grad_()
    given = operands
    if strided:
        given = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in operands]
    torch.manual_seed(0)
    output = attention(*given, table=table, mode=inputs.mode, **inputs.common)
    output.backward(inputs.gradient.to(dtype))
    return [output.detach(), *(t.grad for t in operands), table.grad]


def errors(got: list[Tensor], want: list[Tensor]) -> list[float]:
    """Root mean squares of the differences."""
    return [float((g.double() - w).square().mean().sqrt()) for g, w in zip(got, want, strict=True)]


def unit(values: Tensor) -> float:
    """A unit in the last place of float32, of values of this size."""
    return torch.finfo(torch.float32).eps * float(values.square().mean().sqrt())


def check(name: str, dtype: torch.dtype, device: str, *, small: bool, backends: tuple[str, ...] = ("triton",)) -> None:
    """Errs at most twice as much as plain PyTorch in the same dtype, and gives the same bits twice.

    Plain PyTorch may be right by luck, which differs between processors: within a unit in the last place of float32,
    and where an error is that of a few numbers, within four times.
    """
    case = CASES[name]
    inputs = Inputs.of(case, device, small=small)
    want = results(reference.relative_attention, inputs, torch.float64)
    plain = results(reference.relative_attention, inputs, dtype)
    for backend in backends:
        with use_backend(backend):
            got, again = (results(relative_attention, inputs, dtype, strided=case.strided) for _ in range(2))
        pairs = zip(errors(got, want), errors(plain, want), strict=True)
        for what, g, a, w, (ours, theirs) in zip(NAMES, got, again, want, pairs, strict=True):
            assert torch.equal(g, a), f"{backend} {what}: other bits the second time"
            if w.abs().max() < 1e-6:  # zero because terms cancel: plain PyTorch may hit it exactly
                theirs = 2 * torch.finfo(dtype).eps
            bound = (2 if w.numel() >= 64 else 4) * theirs + unit(w)
            assert ours <= bound, f"{backend} {what}: {ours:.2e}, plain PyTorch {theirs:.2e}"
