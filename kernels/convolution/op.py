"""The public function of convolutions."""

from __future__ import annotations

from torch import Tensor

from ..arguments import check_tensor
from ..operators import autocast_is_on, call
from .registration import convolve, convolve_backward

__all__ = ["convolution_3x3", "convolution_3x3_backward"]


def convolution_3x3(x: Tensor, weight: Tensor) -> Tensor:
    """``torch.nn.functional.conv2d(x, weight, padding=1)``, fast on a CPU for many small maps of many channels.

    In float32 by Winograd's minimal filtering (Lavin & Gray 2016, arXiv 1509.09308), which needs 16 products instead
    of 36 for 2x2 pixels; in bfloat16 the gradient of the weight is taken of maps side by side, where oneDNN has few
    pixels a row. Elsewhere, and where that is faster, it is PyTorch's. Once differentiable.

    Args:
        x: (N, C, h, w) floating, fastest in channels-last memory.
        weight: (D, C, 3, 3), of the same dtype unless autocast is on.

    Returns:
        (N, D, h, w).

    Raises:
        TypeError: a tensor that is not dense and floating, or of two dtypes.
        ValueError: shapes or devices that do not fit each other.
    """
    for name, given in (("x", x), ("weight", weight)):
        check_tensor("convolution_3x3", name, given)
    if x.ndim != 4:
        raise ValueError(f"convolution_3x3: x {tuple(x.shape)}, want (N, C, h, w)")
    if weight.ndim != 4 or weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(f"convolution_3x3: weight {tuple(weight.shape)}, want (D, {x.shape[1]}, 3, 3)")
    if x.dtype != weight.dtype and not autocast_is_on(x.device.type):
        raise TypeError(f"convolution_3x3: x is {x.dtype}, weight {weight.dtype}; convert one with .to()")
    if x.device != weight.device:
        raise ValueError(f"convolution_3x3: x is on {x.device}, weight on {weight.device}; move one of them")
    out: Tensor = call(convolve, x, weight)
    return out


def convolution_3x3_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x (N, C, h, w) and weight (D, C, 3, 3) for ``grad`` (N, D, h, w), all of one dtype: for autograd
    functions of one's own that keep less than the input."""
    grad_x, grad_weight = call(convolve_backward, grad, x, weight, [True, True])
    return grad_x, grad_weight
