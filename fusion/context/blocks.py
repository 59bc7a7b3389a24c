"""Convolutions with channel and spatial attention, and the frame encoder and decoder built from them.

Peters et al. 2025 (arXiv 2511.11706) with the gates of Woo et al., CBAM (ECCV 2018). All maps are (N, C, H, W); N is
samples times frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FlatDecoder", "FlatEncoder", "FrameDecoder", "FrameEncoder", "GatedConv", "MultiScaleConv"]


class Gates(nn.Module):
    """x + x * channel gate * spatial gate.

    Channel gate: sigmoid of a shared two-layer map of the mean and of the maximum over the window. Spatial gate:
    sigmoid of a convolution over the maximum and the mean over channels.
    """

    def __init__(self, channels: int, reduction: int, kernel: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )
        self.spatial = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        # As matrix products: a convolution over one pixel costs more than the sums over the window.
        squeeze, expand = (cast(nn.Conv2d, layer).weight.flatten(1) for layer in (self.channel[0], self.channel[2]))
        hidden = F.relu(F.linear(torch.stack([x.amax((2, 3)), x.mean((2, 3))]), squeeze)).sum(0)  # (N, hidden)
        gated = x * F.linear(hidden, expand).sigmoid()[..., None, None]
        extent = torch.cat([gated.amax(1, keepdim=True), gated.mean(1, keepdim=True)], dim=1)  # (N, 2, H, W)
        return torch.addcmul(x, gated, self.spatial(extent).sigmoid())


class GatedConv(nn.Module):
    """Convolution, leaky ReLU (0.01), gates."""

    def __init__(self, channels: int, out: int, *, reduction: int, kernel: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.gates = Gates(out, reduction, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self.gates(F.leaky_relu(self.conv(x), 0.01))


class MultiScaleConv(nn.Module):
    """Parallel convolutions of several kernel sizes, joined by a 1x1 convolution, then gates."""

    def __init__(self, channels: int, out: int, *, kernels: Sequence[int] = (3, 7), reduction: int = 8) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(channels, out, k, padding=k // 2) for k in kernels)
        self.join = nn.Conv2d(len(kernels) * out, out, 1)
        self.gates = Gates(out, reduction, 7)

    def forward(self, x: Tensor) -> Tensor:
        scales = torch.cat([F.leaky_relu(scale(x), 0.1) for scale in self.scales], dim=1)
        return self.gates(F.leaky_relu(self.join(scales), 0.01))


def _peaks(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class FrameEncoder(nn.Module):
    """One frame's window (N, C, W, W) to its code (N, widths[3] * grid^2), grid = W // 4 + 1 (15 pixels: 4 x 4)."""

    def __init__(self, channels: int, widths: Sequence[int], dropout: float = 0.07) -> None:
        super().__init__()
        first, second, third, last = widths
        self.lift = nn.Conv2d(channels, first, 1)
        self.scales = MultiScaleConv(first, first)
        self.halve = nn.Conv2d(first, second, 2, stride=2)
        self.refine = GatedConv(second, second, reduction=8)
        self.quarter = nn.Conv2d(second, third, 2, stride=2, padding=1)
        self.narrow = GatedConv(third, last, reduction=2, kernel=3)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU
        x = F.silu(self.lift(x))
        x = _peaks(self.scales(x)) + x
        x = self.dropout(F.silu(self.halve(x)))
        x = _peaks(self.refine(x)) + x
        x = self.dropout(F.silu(self.quarter(x)))
        return self.narrow(x).flatten(1)


class FrameDecoder(nn.Module):
    """The inverse: codes (N, widths[3] * grid^2) to windows (N, C, W, W). No activation at the end."""

    def __init__(self, channels: int, widths: Sequence[int], window: int, dropout: float = 0.1) -> None:
        super().__init__()
        first, second, third, last = widths
        self.window, self.grid, self.last = window, window // 2 // 2 + 1, last
        self.widen = GatedConv(last, last, reduction=8)
        self.unhalve = nn.ConvTranspose2d(last, third, 2, stride=2)
        self.refine = GatedConv(third, third, reduction=8)
        self.unquarter = nn.ConvTranspose2d(third, second, 2, stride=2, padding=1, output_padding=1)
        self.scales = MultiScaleConv(second, first)
        self.out = nn.Sequential(
            nn.Conv2d(first, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, code: Tensor) -> Tensor:
        x = code.unflatten(1, (self.last, self.grid, self.grid)).contiguous(memory_format=torch.channels_last)
        x = _peaks(self.widen(x)) + x
        x = self.dropout(F.silu(self.unhalve(x)))
        x = _peaks(self.refine(x)) + x
        x = self.dropout(self.unquarter(x))  # 4 * grid - 1 pixels: exact for 7, 11, 15, ..., else two too many
        x = x[..., : self.window, : self.window]
        return self.out(self.scales(x))


class FlatEncoder(nn.Module):
    """A frame's window as one vector, (N, C, W, W) to its code (N, widths[3]): all there is of a single pixel, and what
    a CPU trains in minutes of a small window."""

    def __init__(self, channels: int, widths: Sequence[int], window: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(1), nn.Linear(channels * window**2, widths[0]), nn.SiLU(), nn.Linear(widths[0], widths[-1])
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FlatDecoder(nn.Module):
    """The inverse: codes (N, widths[3]) to (N, C, W, W)."""

    def __init__(self, channels: int, widths: Sequence[int], window: int = 1) -> None:
        super().__init__()
        self.size = (channels, window, window)
        self.layers = nn.Sequential(
            nn.Linear(widths[-1], widths[0]), nn.SiLU(), nn.Linear(widths[0], channels * window**2)
        )

    def forward(self, code: Tensor) -> Tensor:
        return self.layers(code).unflatten(1, self.size)
