"""3x3 convolutions as an operator in torch: schemas, backends, gradient and autocast."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..backends import implement
from ..operators import call, define, differentiable, not_differentiable_twice, under_autocast
from . import eager, native

__all__ = ["convolve", "convolve_backward"]

# What transforms and products of Winograd's matrices take, against oneDNN (benchmarks/README.md).
_FEWEST_CHANNELS = 96
_FEWEST_TILES = 1024
_LEAST_SAVED = 1.5  # times fewer products, 2.25 where height and width are even


def _fake(x: Tensor, weight: Tensor) -> Tensor:
    return _like(x, weight.shape[0])


def _fake_backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    grad_x = _like(x, x.shape[1]) if wanted[0] else x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape) if wanted[1] else x.new_empty(0)


def _like(x: Tensor, channels: int) -> Tensor:
    """Maps in channels-last memory, which every backend returns."""
    count, _, height, width = x.shape
    return x.new_empty(count, height, width, channels).permute(0, 3, 1, 2)


convolve = define("convolution_3x3(Tensor x, Tensor weight) -> Tensor", fake=_fake)
# Gradients of x and weight; empty ones that are not `wanted`.
convolve_backward = define(
    "convolution_3x3_backward(Tensor grad, Tensor x, Tensor weight, bool[2] wanted) -> (Tensor, Tensor)",
    fake=_fake_backward,
)


def _refuses(x: Tensor) -> str | None:
    if x.dtype != torch.float32:
        return f"takes float32, not {x.dtype}"
    mkldnn: Any = torch.backends.mkldnn  # whose stubs know no precisions
    precision = mkldnn.matmul.fp32_precision
    if precision not in ("none", "ieee"):  # convolutions have a setting of their own, and transforms magnify errors
        return f"multiplies matrices, which torch is told to do in {precision} (torch.set_float32_matmul_precision)"
    return None


def _declines(x: Tensor, weight: Tensor) -> str | None:
    if reason := _refuses(x):  # which the automatic choice need not announce: PyTorch has no worse way
        return reason
    height, width = x.shape[2:]
    tiles = math.ceil(height / 2) * math.ceil(width / 2)
    if min(weight.shape[:2]) < _FEWEST_CHANNELS:
        return f"is slower than PyTorch for less than {_FEWEST_CHANNELS} channels"
    if len(x) * tiles < _FEWEST_TILES or 9 * height * width < _LEAST_SAVED * 16 * tiles:
        return "is slower than PyTorch for so few pixels"
    return None


implement("convolution_3x3", "eager")(eager.forward)
implement("convolution_3x3_backward", "eager")(eager.backward)


@implement("convolution_3x3", "cpp", refuses=lambda x, weight: _refuses(x), declines=_declines)
def _forward_cpp(x: Tensor, weight: Tensor) -> Tensor:
    return native.forward(x, weight)


@implement(
    "convolution_3x3_backward",
    "cpp",
    refuses=lambda grad, x, weight, wanted: _refuses(x),
    declines=lambda grad, x, weight, wanted: _declines(x, weight),
)
def _backward_cpp(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    return native.backward(grad, x, weight, wanted)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None
    wanted = [*ctx.needs_input_grad[:2]]
    gradients = call(convolve_backward, grad, *ctx.saved_tensors, wanted)
    return tuple(g if w else None for g, w in zip(gradients, wanted, strict=True))


differentiable(
    convolve,
    save=_save,
    gradients=_gradients,
    forward_mode="convolution_3x3 has no forward-mode derivative: take reverse mode, or torch.nn.functional.conv2d",
)
not_differentiable_twice(convolve_backward, "convolution_3x3 has no second derivative: use torch.nn.functional.conv2d")
under_autocast(convolve, casts=2)
under_autocast(convolve_backward, casts=0)  # of whoever calls backward() inside autocast
