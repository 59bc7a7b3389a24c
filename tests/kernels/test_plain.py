"""What is traced inside ``plain_operators`` has operators of PyTorch alone, and says what the operators say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fusion.kernels import (
    bin_decode,
    bin_encode,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    plain_operators,
    relative_attention,
    use_backend,
)
from fusion.kernels.backends import chosen
from fusion.kernels.quantize import code_decode


class Listening(TorchDispatchMode):
    """Keeps the namespaces of the operators that run: what a tracer would see."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.add(func.namespace)
        return func(*args, **(kwargs or {}))


def attention(
    mode: str, masked: bool, dtype: torch.dtype = torch.float32, dropout: float = 0.0
) -> Callable[[], Tensor]:
    rng = torch.Generator().manual_seed(0)
    batch, heads, queries, keys, dim = 2, 2, 10, 19, 8
    query, key, value = (
        torch.randn(batch, heads, length, dim, generator=rng).to(dtype) for length in (queries, keys, keys)
    )
    bucket = euclidean_buckets(3, 3)
    size = (1, dim, 8) if mode == "contextual" else (heads, 8)
    valid = None
    if masked:
        valid = torch.rand(batch, keys, generator=rng) > 0.4
        valid[1] = False  # nothing to attend to
        value[~valid[:, None, :, None].expand_as(value)] = math.nan
    positions = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.arange(keys - 1) % 9])

    def run() -> Tensor:
        torch.manual_seed(3)
        return relative_attention(
            query,
            key,
            value,
            table=torch.randn(size, generator=torch.Generator().manual_seed(1)),
            bucket=bucket,
            key_position=positions,
            mode=mode,
            key_valid=valid,
            dropout_p=dropout,
        )

    return run


VALUES = torch.randn(40, 3, generator=torch.Generator().manual_seed(2))
VALUES[3, 1] = math.nan
EDGES = torch.linspace(-2, 2, 9, dtype=torch.float64)
CODES = torch.tensor([[-1, 0, 3], [2, 1, -1]])
CASES: dict[str, Callable[[], Any]] = {
    "contextual": attention("contextual", masked=False),
    "contextual, masked": attention("contextual", masked=True),
    "bias": attention("bias", masked=False),
    "bias, masked": attention("bias", masked=True),
    "half precision": attention("contextual", masked=True, dtype=torch.bfloat16),
    "dropout": attention("contextual", masked=True, dropout=0.3),
    "nearest": lambda: nearest_code(VALUES, VALUES[10:26]),
    "nearest by cosine": lambda: nearest_code(VALUES, VALUES[10:26], metric="cosine"),
    "finite scalars": lambda: finite_scalar_quantize(VALUES, [8, 5, 5]),
    "finite scalars, sigmoid": lambda: finite_scalar_quantize(VALUES, [8, 5, 5], form="sigmoid"),
    "bins": lambda: bin_encode(VALUES, EDGES),
    "centres": lambda: bin_decode(CODES, EDGES[:4]),
    "vectors": lambda: code_decode(CODES, VALUES[20:24]),
}


@pytest.mark.parametrize("name", CASES)
def test_plain_operators_say_the_same(name):
    run = CASES[name]
    wanted = run()
    with Listening() as ours:
        run()
    assert "fusion" in ours.heard
    with plain_operators(), Listening() as plain:
        said = run()
    assert plain.heard <= {"aten", "prims"}
    tolerance = {"rtol": 0.02, "atol": 0.02} if name == "half precision" else {}
    torch.testing.assert_close(said, wanted, equal_nan=True, **tolerance)


def test_calls_that_nobody_traces_run_the_operator():
    run = CASES["contextual"]
    with use_backend("eager"):
        wanted = run()
    run()
    with plain_operators(), use_backend("eager"):
        said = run()
    assert chosen()["relative_attention"] == "eager"
    assert torch.equal(said, wanted)


def test_a_graph_has_no_operator_of_ours():
    class Attend(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return relative_attention(x, x, x, table=torch.zeros(1, 8, 8), bucket=euclidean_buckets(2, 3))

    example = (torch.randn(2, 2, 7, 8),)
    shapes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad(), plain_operators():
        program = torch.export.export(Attend(), example, dynamic_shapes=shapes)
    assert "fusion" not in program.graph_module.code
    x = torch.randn(5, 2, 7, 8)
    torch.testing.assert_close(program.module()(x), Attend()(x))
