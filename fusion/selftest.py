"""Is every op right on this machine? Each runs in every backend it has here, against its float64 definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.kernels import (
    backends,
    bin_encode,
    convolution_3x3,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    patch_info_nce,
    pool_dates,
    relative_attention,
    use_backend,
)
from fusion.kernels.attention import reference as attention
from fusion.kernels.infonce import reference as infonce
from fusion.kernels.quantize import reference as quantize

__all__ = ["Outcome", "self_test"]

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """One op in one backend.

    Attributes:
        error: largest error of results and gradients against float64.
        plain: that of the definition in float32, run as plain PyTorch.
        failure: what was raised instead of a result, or None.
    """

    op: str
    backend: str
    device: str
    error: float = 0.0
    plain: float = 0.0
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """The package's numerics contract: at most twice the error of plain PyTorch (and one unit in 10^6)."""
        return self.failure is None and self.error <= 2 * self.plain + 1e-6

    def __str__(self) -> str:
        what = self.failure or f"max error {self.error:.1e} against float64, plain PyTorch {self.plain:.1e}"
        return f"{self.op:20} {self.backend:6} on {self.device:4}  {what:62}  {'ok' if self.passed else 'FAILED'}"


@dataclass(frozen=True)
class Check:
    """An op, the operators it runs through, its inputs, and two ways to the same numbers."""

    op: str
    operators: tuple[str, ...]
    inputs: Callable[[], Tensors]
    run: Callable[[Tensors], Tensors]
    define: Callable[[Tensors], Tensors]


def self_test() -> Iterator[Outcome]:
    """Runs all checks in float32, on the CPU and, where there is one, the GPU."""
    available = {(row["op"], row["backend"]) for row in backends() if row["available"] == "yes"}
    for check in CHECKS:
        exact = check.define({k: v.double() if v.is_floating_point() else v for k, v in check.inputs().items()})
        plain = _distance(check.define(check.inputs()), exact)
        for backend, device in _places():
            if all((operator, backend) in available for operator in check.operators):
                yield _outcome(check, backend, device, exact, plain)


def _places() -> Iterator[tuple[str, str]]:
    """Backends and the devices they serve; the eager backend serves both."""
    gpu = torch.cuda.is_available()
    yield from [("cpp", "cpu"), ("eager", "cpu")]
    yield from [("triton", "cuda"), ("cuda", "cuda"), ("eager", "cuda")] if gpu else [("triton", "cpu")]


def _outcome(check: Check, backend: str, device: str, exact: Tensors, plain: float) -> Outcome:
    try:
        with use_backend(backend):
            found = check.run({name: tensor.to(device) for name, tensor in check.inputs().items()})
        return Outcome(check.op, backend, device, _distance(found, exact), plain)
    except Exception as error:  # whatever a broken installation throws is what the user needs to read
        return Outcome(check.op, backend, device, failure=f"{type(error).__name__}: {error}")


def _distance(found: Tensors, exact: Tensors) -> float:
    """Largest error of any tensor, as a share of the largest value in it (or of 1)."""
    errors = []
    for name, wanted in exact.items():
        wanted = wanted.detach().double()
        error = (found[name].detach().cpu().double() - wanted).abs().max()
        errors.append(float(error / wanted.abs().max().clamp(min=1)))
    return max(errors)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _differentiated(loss: Tensor, inputs: Tensors, results: Tensors) -> Tensors:
    wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(loss, list(wanted.values()))
    return results | {f"gradient of {name}": g for name, g in zip(wanted, gradients, strict=True)}


def _info_nce_inputs() -> Tensors:
    valid = torch.ones(3, 5, 9, dtype=torch.bool)
    valid[1, 2], valid[0, 4, 3] = False, False  # a missing modality and a missing patch
    return {"tokens": _random(3, 5, 9, 24, seed=0), "temperature": torch.tensor(0.2), "valid": valid}


def _info_nce(op: Callable[..., Any]) -> Callable[[Tensors], Tensors]:
    def run(inputs: Tensors) -> Tensors:
        inputs = inputs | {k: inputs[k].requires_grad_() for k in ("tokens", "temperature")}
        loss = op(inputs["tokens"], temperature=inputs["temperature"], valid=inputs["valid"])
        return _differentiated(loss, inputs, {"loss": loss})

    return run


def _attention_inputs() -> Tensors:
    heads, width, side = 2, 16, 4
    length = side * side + 1
    valid = torch.ones(3, length, dtype=torch.bool)
    valid[0, 5:], valid[2] = False, False  # padding, and a row without any valid key
    inputs = {name: _random(3, heads, length, width, seed=k) for k, name in enumerate(("query", "key", "value"))}
    bucket = euclidean_buckets(side, side)
    table = _random(heads, width, int(bucket.max()) + 1, seed=3)
    return inputs | {"table": table, "bucket": bucket, "key_valid": valid}


def _attention(op: Callable[..., Tensor]) -> Callable[[Tensors], Tensors]:
    def run(inputs: Tensors) -> Tensors:
        inputs = inputs | {k: inputs[k].requires_grad_() for k in ("query", "key", "value", "table")}
        output = op(**inputs, scale=0.25)
        return _differentiated(output.square().sum(), inputs, {"output": output})

    return run


def _quantize_inputs() -> Tensors:
    edges = torch.linspace(-2, 2, 18)
    return {"x": _random(400, 12, seed=0) + 50, "codebook": _random(31, 12, seed=1) + 50, "edges": edges}


def _quantize(
    nearest: Callable[..., Tensor], scalar: Callable[..., tuple[Tensor, Tensor]], encode: Callable
) -> Callable:
    def run(inputs: Tensors) -> Tensors:
        x, codebook = inputs["x"], inputs["codebook"]
        # Two codes may be equally near; what counts is the distance of the one chosen.
        chosen = nearest(x, codebook)
        distance = (x.double() - codebook.double()[chosen]).norm(dim=1)
        return {
            "distance": distance,
            "scalar": scalar(x[:, :3] - 50, [7, 5, 5])[0],
            "bins": encode(x - 50, inputs["edges"]).double(),
        }

    return run


def _pooling_inputs() -> Tensors:
    tiles, patches, dates, dim, heads = 3, 5, 11, 24, 4
    valid = torch.rand(tiles, dates, generator=torch.Generator().manual_seed(7)) > 0.3
    valid[2] = False  # a tile without any date
    shapes = {
        "values": (tiles, patches, dates, dim),
        "query": (heads, dim),
        "offset": (tiles, dates, heads),
        "positions": (tiles, dates, dim // heads),
        "bias": (dim,),
        "norm_weight": (dim,),
        "norm_bias": (dim,),
    }
    return {name: _random(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())} | {"valid": valid}


def _pooled(inputs: Tensors) -> Tensors:
    norm = inputs["norm_weight"], inputs["norm_bias"]
    given: dict[str, Any] = {k: v for k, v in inputs.items() if not k.startswith("norm")}
    pooled, attention = pool_dates(**given, norm=norm, groups=3)
    return {"pooled": pooled, "attention": attention}


def _pooled_plainly(inputs: Tensors) -> Tensors:
    with use_backend("eager"):
        return _pooled(inputs)


def _convolution_inputs() -> Tensors:
    x, weight, grad = (2, 24, 7, 6), (20, 24, 3, 3), (2, 20, 7, 6)
    return {"x": _random(*x, seed=0), "weight": _random(*weight, seed=1) / 15, "grad": _random(*grad, seed=2)}


def _convolved(convolve: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    def run(inputs: Tensors) -> Tensors:
        leaves = [inputs[k].clone().requires_grad_() for k in ("x", "weight")]
        out = convolve(*leaves)
        grad_x, grad_weight = torch.autograd.grad(out, leaves, inputs["grad"])
        return {"out": out.detach(), "x.grad": grad_x, "weight.grad": grad_weight}

    return run


def _plain_convolution(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


CHECKS = (
    Check(
        "patch_info_nce",
        ("patch_info_nce_forward", "patch_info_nce_backward"),
        _info_nce_inputs,
        _info_nce(patch_info_nce),
        _info_nce(infonce.patch_info_nce),
    ),
    Check(
        "relative_attention",
        ("relative_attention", "relative_attention_backward"),
        _attention_inputs,
        _attention(relative_attention),
        _attention(attention.relative_attention),
    ),
    Check(
        "quantization",
        ("nearest_code", "finite_scalar_quantize", "bin_encode"),
        _quantize_inputs,
        _quantize(nearest_code, finite_scalar_quantize, bin_encode),
        _quantize(quantize.nearest_code, quantize.finite_scalar_quantize, quantize.bin_encode),
    ),
    Check(
        "convolution_3x3",
        ("convolution_3x3", "convolution_3x3_backward"),
        _convolution_inputs,
        _convolved(convolution_3x3),
        _convolved(_plain_convolution),
    ),
    Check("pool_dates", ("pool_dates",), _pooling_inputs, _pooled, _pooled_plainly),
)
