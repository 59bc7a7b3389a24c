"""What a training loop relies on beside right numbers: the same bits, CUDA graphs, streams, autocast, compilation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fusion.kernels import (
    bin_decode,
    bin_encode,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    patch_info_nce,
    relative_attention,
    vector_quantize,
)
from fusion.kernels.quantize import code_statistics

from ..contenders.common import DEVICE, ours
from . import earlier
from .child import Child

Tensors = list[Tensor]
RUNS = 20
DTYPES = torch.bfloat16, torch.float32
FAST = (torch.float32,)  # in the interpreter


@dataclass(frozen=True)
class Trial:
    """An op on inputs that a seed makes. ``run`` gives its results and gradients; ``call`` its results alone."""

    op: str
    make: Callable[[int], Tensors]
    call: Callable[..., tuple[Tensor, ...]]
    differentiable: int = 0  # how many of the inputs get a gradient

    def run(self, inputs: Tensors, call: Callable[..., tuple[Tensor, ...]] | None = None) -> Tensors:
        call = call or self.call

        def step() -> Tensors:
            taken = [x.detach().requires_grad_(i < self.differentiable) for i, x in enumerate(inputs)]
            results = call(*taken)
            smooth = [r.float().square().sum() for r in results if r.requires_grad]
            gradients = torch.autograd.grad(smooth, taken[: self.differentiable]) if smooth else ()
            return [*(r.detach() for r in results), *gradients]

        return ours("fusion", step)()


def _random(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Callable[[int], Tensors]:
    def make(seed: int) -> Tensors:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        return [torch.randn(shape, generator=generator, device=DEVICE).to(dtype) for shape in shapes]

    return make


def trials(tiny: bool) -> list[Trial]:
    """Sizes of a batch in training; tiny ones for the interpreter."""
    side, batch, dtypes = (2, 1, FAST) if tiny else (10, 32, DTYPES)
    place = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.arange(side * side).repeat(2)]).to(DEVICE)
    layout = {"bucket": euclidean_buckets(side, side).to(DEVICE), "query_position": place, "key_position": place}
    heads = (batch, 1 if tiny else 16, len(place), 16)
    rows, size, dim = (40, 9, 8) if tiny else (100_000, 512, 64)

    def attention(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        return (relative_attention(query, key, value, table=table, **layout),)

    def loss(tokens: Tensor) -> tuple[Tensor, ...]:
        return (patch_info_nce(tokens),)

    edges = torch.linspace(-3, 3, 65, device=DEVICE)
    centres = torch.linspace(-3, 3, 64, device=DEVICE)

    def decoded(values: Tensor) -> tuple[Tensor, ...]:
        codes = bin_encode(values, edges)
        return codes, bin_decode(codes, centres)

    def statistics(x: Tensor, codebook: Tensor) -> tuple[Tensor, ...]:
        return code_statistics(x, nearest_code(x, codebook), len(codebook))

    tokens = (3, 2, 5, 16) if tiny else (3, 64, 36, 256)
    made = [Trial("patch_info_nce", _random(tokens, dtype=dtype), loss, 1) for dtype in dtypes]
    operands = heads, heads, heads, (1, 16, 8)
    made += [Trial("relative_attention", _random(*operands, dtype=dtype), attention, 4) for dtype in dtypes]
    return [
        *made,
        Trial("nearest_code", _random((rows, dim), (size, dim)), lambda x, c: (nearest_code(x, c),)),
        Trial("vector_quantize", _random((rows, dim), (size, dim)), lambda x, c: vector_quantize(x, c), 1),
        Trial("finite_scalar_quantize", _random((rows, 3)), lambda z: finite_scalar_quantize(z, [8, 6, 5]), 1),
        Trial("code_statistics", _random((rows, dim), (size, dim)), statistics),
        Trial("bin_encode, bin_decode", _random((rows, 7)), decoded),
    ]


def _alike(first: Tensors, second: Tensors) -> str:
    """What differs, or nothing."""
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if not torch.equal(a, b):
            return f"result {i} differs by {(a.double() - b.double()).abs().max():.1e}"
    return ""


def same_bits(trial: Trial) -> str:
    inputs = trial.make(0)
    first = trial.run(inputs)
    return next(
        filter(None, (_alike(first, trial.run(inputs)) for _ in range(RUNS - 1 if inputs[0].is_cuda else 1))), ""
    )


def cuda_graph(trial: Trial) -> str:
    """Captured with its gradients on one batch, replayed on another."""
    inputs = trial.make(0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            trial.run(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = trial.run(inputs)
    others = trial.make(1)
    for x, other in zip(inputs, others, strict=True):
        x.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    return _alike(results, trial.run(others))


def two_streams(trial: Trial) -> str:
    batches = [trial.make(seed) for seed in (0, 1)]
    wanted = [trial.run(batch) for batch in batches]
    streams = [torch.cuda.Stream() for _ in batches]
    torch.cuda.synchronize()
    got: list[Tensors] = []
    for _ in range(5):
        for stream, batch in zip(streams, batches, strict=True):
            with torch.cuda.stream(stream):
                got.append(trial.run(batch))
    torch.cuda.synchronize()
    return next(filter(None, (_alike(wanted[i % 2], results) for i, results in enumerate(got))), "")


def autocast(trial: Trial) -> str:
    """16-bit results where the op takes autocast's dtype; finite everywhere, gradients in the dtype of the inputs."""
    inputs = [x.float() for x in trial.make(0)]
    with torch.autocast(DEVICE, torch.bfloat16):
        results = trial.run(inputs)
    gradients = results[len(results) - trial.differentiable :] if trial.differentiable else []
    if any(g.dtype != torch.float32 for g in gradients):
        return "a gradient has another dtype than its input"
    return "" if all(torch.isfinite(r).all() for r in results) else "a result is not finite"


def compiles(trial: Trial) -> str:
    backend = "inductor" if torch.cuda.is_available() else "eager"
    compiled = torch.compile(trial.call, fullgraph=True, backend=backend)
    inputs = trial.make(0)
    for a, b in zip(trial.run(inputs), trial.run(inputs, compiled), strict=True):
        error = float((a.double() - b.double()).norm() / a.double().norm().clamp_min(1e-30))
        if error > (1e-2 if a.dtype == torch.bfloat16 else 1e-4):
            return f"differs by {error:.1e}"
    return ""


def dropout(tiny: bool) -> str:
    """Even weights, values of one: the share of keys kept, whose mean and variance are known."""
    share, keys = 0.2, 16 if tiny else 512
    shape = (1, 4, keys, 16) if tiny else (16, 16, keys, 16)
    zeros, ones = torch.zeros(shape, device=DEVICE), torch.ones(shape, device=DEVICE)
    side = 4 if tiny else 23
    options = {"bucket": euclidean_buckets(side, side).to(DEVICE), "dropout_p": share}
    table = torch.zeros(1, 16, 8, device=DEVICE)
    torch.manual_seed(0)
    kept = ours("fusion", lambda: relative_attention(zeros, zeros, ones, table=table, **options))()[..., 0].double()
    variance = share / (1 - share) / keys
    error, spread = float(kept.mean() - 1), float(kept.var() / variance - 1)
    if abs(error) > 5 * (variance / kept.numel()) ** 0.5:
        return f"mean 1 + {error:.1e}"
    return f"variance {1 + spread:.3f} times what it should be" if abs(spread) > 8 * (2 / kept.numel()) ** 0.5 else ""


CONDITIONS: dict[str, Callable[[Trial], str]] = {
    "the same bits in 20 runs": same_bits,
    "CUDA graph": cuda_graph,
    "two streams": two_streams,
    "autocast": autocast,
    "torch.compile(fullgraph=True)": compiles,
}
_NEED_A_GPU = ("CUDA graph", "two streams")


def main() -> None:
    child = Child.of_command_line()
    _record(child, "relative_attention", "dropout's mean and variance", functools.partial(dropout, child.dry))
    passed = {
        (row["condition"], row["op"], row.get("dtype"))
        for row in earlier.rows("conditions")
        if row["outcome"] == "passed"
    }
    every = [(trial, _dtype(trial)) for trial in trials(child.dry)]
    checks = [(name, trial, dtype) for name in CONDITIONS for trial, dtype in every]
    for name, trial, dtype in sorted(checks, key=lambda one: (one[0], one[1].op, one[2]) in passed):
        if name in _NEED_A_GPU and not torch.cuda.is_available():
            child.rows.add(op=trial.op, dtype=dtype, condition=name, outcome="skipped", detail="needs a GPU")
        elif child.left() > 1:
            _record(child, trial.op, name, functools.partial(CONDITIONS[name], trial), dtype=dtype)


def _dtype(trial: Trial) -> str:
    return str(trial.make(0)[0].dtype).removeprefix("torch.")


def _record(child: Child, op: str, name: str, check: Callable[[], str], **more: str) -> None:
    try:
        detail = check()
    except Exception as error:  # the others are still of interest, as far as the device still answers
        detail = f"{type(error).__name__}: {error}"[:500]
    outcome = "failed" if detail else "passed"
    child.rows.add(op=op, condition=name, outcome=outcome, detail=detail, **more)


if __name__ == "__main__":
    main()
