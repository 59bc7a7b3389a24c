"""3x3 convolutions of many small maps against PyTorch's, that is oneDNN's, in both memory formats."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.kernels import convolution_3x3

from .common import DEVICE, Step

__all__ = ["PASSES", "PEERS", "SIZES", "operations", "step"]

# maps, channels, pixels a side: what the image encoder sees of four tiles of TreeSatAI in the paper's width, and of 16
# tiles of OmniSat small with patches of 16 pixels
SIZES = {
    "paper, 12 x 12": (144, 256, 12),
    "paper, 6 x 6": (144, 256, 6),
    "paper, 3 x 3": (144, 256, 3),
    "small, 8 x 8": (576, 128, 8),
    "small, 4 x 4": (576, 128, 4),
}
PEERS = ("channels last", "channels first")
PASSES = ("forward", "both")


def operations(size: str, passes: str) -> float:
    """Of the convolution as it is defined, zeros beyond the maps included."""
    maps, channels, side = SIZES[size]
    return (1 if passes == "forward" else 3) * 2.0 * maps * side**2 * 9 * channels**2


@functools.cache
def _inputs(size: str, dtype: torch.dtype, last: bool) -> tuple[Tensor, Tensor, Tensor]:
    maps, channels, side = SIZES[size]
    torch.manual_seed(0)
    x = torch.randn(maps, channels, side, side, device=DEVICE, dtype=dtype)
    weight = (torch.randn(channels, channels, 3, 3, device=DEVICE) / (3 * channels**0.5)).to(dtype)
    layout = torch.channels_last if last else torch.contiguous_format
    x, weight, grad = (t.contiguous(memory_format=layout) for t in (x, weight, torch.randn_like(x)))
    return x.requires_grad_(), weight.requires_grad_(), grad


def step(name: str, size: str, dtype: torch.dtype, passes: str) -> Step:
    x, weight, grad = _inputs(size, dtype, name != "channels first")
    convolve = convolution_3x3 if name == "fusion" else functools.partial(F.conv2d, padding=1)

    def run() -> Tensor | tuple[Tensor, ...]:
        if passes == "forward":
            with torch.no_grad():
                return convolve(x, weight)
        return torch.autograd.grad(convolve(x, weight), (x, weight), grad)

    return run
