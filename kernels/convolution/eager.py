"""3x3 convolutions by PyTorch, on every device and in every dtype."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["backward", "forward"]

_LAST = torch.channels_last
_ROW = 24  # pixels of a row from which on oneDNN's gradient of the weight is fast in bfloat16 (benchmarks/README.md)


def forward(x: Tensor, weight: Tensor) -> Tensor:
    """x (N, C, h, w), weight (D, C, 3, 3) -> (N, D, h, w)."""
    return F.conv2d(x.contiguous(memory_format=_LAST), weight, padding=1).contiguous(memory_format=_LAST)


def backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight, those that are wanted; grad (N, D, h, w)."""
    x_too, weight_too = wanted
    grad, x = grad.contiguous(memory_format=_LAST), x.contiguous(memory_format=_LAST)
    if weight_too and x.device.type == "cpu" and x.dtype == torch.bfloat16 and len(x) and x.shape[3] < _ROW:
        grad_x, _ = _gradients(grad, x, weight, x_too, False) if x_too else (None, None)
        beside_grad, beside_x = side_by_side(grad, x)
        _, grad_weight = _gradients(beside_grad, beside_x, weight, False, True)
    else:
        grad_x, grad_weight = _gradients(grad, x, weight, x_too, weight_too)
    none = x.new_empty(0)
    return (
        none if grad_x is None else grad_x.contiguous(memory_format=_LAST),
        none if grad_weight is None else grad_weight.contiguous(),
    )


def side_by_side(*maps: Tensor) -> list[Tensor]:
    """(N, C, h, w) -> (ceil(N / k), C, h, k (w + 1)): k maps in a row, a column of zeros after each, so that none is
    another's neighbour."""
    count, _, height, width = maps[0].shape
    beside = min(-(-_ROW // (width + 1)), count)
    rows = -(-count // beside)
    placed = []
    for own in maps:
        last = own.permute(0, 2, 3, 1)  # (N, h, w, C)
        row = own.new_empty(rows, height, beside, width + 1, own.shape[1])
        by_map = row.transpose(1, 2)  # (rows, k, h, w + 1, C)
        by_map[..., width:, :] = 0
        full, left = divmod(count, beside)
        by_map[:full, :, :, :width] = last[: count - left].unflatten(0, (full, beside))
        by_map[full:, :left, :, :width] = last[count - left :]
        by_map[full:, left:] = 0
        placed.append(row.flatten(2, 3).permute(0, 3, 1, 2))
    return placed


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, x_too: bool, weight_too: bool
) -> tuple[Tensor | None, Tensor | None]:
    one, none = [1, 1], [0, 0]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, one, one, one, False, none, 1, (x_too, weight_too, False)
    )
    return grad_x, grad_weight
