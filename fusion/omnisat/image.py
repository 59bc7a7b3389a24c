"""Encoder and decoder of image patches (paper 3.1, figure 3a).

Each patch is an image of its own: convolutions and max-pools collapse it to one token. The decoder mirrors the
encoder and gets its pooling positions (as SegNet does), so that the token need not describe where things are.
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ..kernels import convolution_3x3
from .pooling import layout, max_pool, patch_slices, to_channels_last
from .stem import Stem
from .unpooling import UnpoolConvolution, UnpoolProjection

__all__ = ["ImageDecoder", "ImageEncoder", "ResidualBlock", "patchify_image", "pyramid"]

# Below this side a first convolution of stride 2 would throw away most of the patch.
_STRIDED_FROM = 16
# What a block keeps when it recomputes: convolutions cost, norms and activations do not.
_keep_convolutions = partial(
    create_selective_checkpoint_contexts,
    [torch.ops.aten.convolution.default, torch.ops.fusion.convolution_3x3.default],
)


def pyramid(patch_size: int) -> tuple[int, list[int]]:
    """Stride of the first convolution, and the map side after it and after each max-pool, down to 1.

    50 pixels: stride 2 and sides 25, 12, 6, 3, 1 (the paper's); 4 pixels: stride 1 and 4, 2, 1.
    """
    stride = 2 if patch_size >= _STRIDED_FROM else 1
    sides = [(patch_size - 1) // stride + 1]
    while sides[-1] > 1:
        sides.append(sides[-1] // 2)
    return stride, sides


def patchify_image(values: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B*P, C, s, s) in channels-last memory, patches in raster order."""
    batch, channels, height, width = values.shape
    rows, cols = height // patch_size, width // patch_size
    cut = values.view(batch, channels, rows, patch_size, cols, patch_size).permute(0, 2, 4, 3, 5, 1)
    return cut.reshape(batch * rows * cols, patch_size, patch_size, channels).permute(0, 3, 1, 2)


class Convolution(nn.Conv2d):
    """Of stride 1, without a bias, into maps of the same size."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, D, h, w) -> (N, D', h, w)."""
        if self.kernel_size != (3, 3) or x.device.type != "cpu":  # elsewhere the operator has nothing to add
            return super().forward(x)
        return convolution_3x3(x, self.weight)


class ResidualBlock(nn.Module):
    """x + norm(conv(gelu(norm(conv(x))))), then GELU. Both convolutions share one group norm, as published."""

    def __init__(self, dim: int, groups: int = 4, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = Convolution(dim, dim, kernel)
        self.conv2 = Convolution(dim, dim, kernel)
        self.norm = nn.GroupNorm(groups, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.norm(self.conv1(x)))  # (N, D, h, w)
        return F.gelu(x + self.norm(self.conv2(hidden)))


class ImageEncoder(nn.Module):
    """Image patches to tokens.

    Args:
        channels, patch_size: of a patch, in bands and pixels; the depth follows from the size.
        dim: token width, also the width of every map.
        groups: of the group norms.
        recompute: keep only the results of convolutions for the backward pass and redo norms and activations:
            less than half of the blocks' memory for a few per cent of the time.
    """

    def __init__(
        self, channels: int, patch_size: int, dim: int = 256, groups: int = 4, recompute: bool = False
    ) -> None:
        super().__init__()
        stride, sides = pyramid(patch_size)
        self.recompute = recompute
        self.map_bytes = 4 * dim * sides[min(1, len(sides) - 1)] ** 2  # of the largest map that a block sees
        self.stem = Stem(channels, dim, stride, pooled=sides[0] > 1)
        # One block after every pool but the last; a patch of one to three pixels has its block at the end.
        self.blocks = nn.ModuleList(ResidualBlock(dim, groups) for side in sides[1:] if side > 1)
        if not self.blocks:
            self.blocks.append(ResidualBlock(dim, groups, kernel=1))
        to_channels_last(self)

    def forward(
        self, patches: Tensor, valid: Tensor | None = None, maps: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """patches (N, C, s, s), valid (N,) -> tokens (N, D), pooling positions [(N, D, h, w) int16, ...].

        A list given as ``maps`` gets what each pooling is given, coarse to fine (N, D, side, side).
        """
        weight = self.stem.conv.weight
        patches = patches.contiguous(memory_format=layout(weight))
        folded = self.stem.folded(patches, valid)
        parts = [
            self._slice(patches[part], folded, keep=maps is not None)
            for part in patch_slices(patches.shape[0], self.map_bytes, patches.device, chained=True)
        ]
        tokens, indices, kept = zip(*parts, strict=True)
        if maps is not None:
            maps.extend(torch.cat(level) for level in reversed(list(zip(*kept, strict=True))))
        return torch.cat(tokens), [torch.cat(level) for level in zip(*indices, strict=True)]

    def _slice(
        self, patches: Tensor, folded: tuple[Tensor, Tensor] | None, keep: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        x, index = self.stem(patches, folded)
        indices, maps = [] if index is None else [index], []
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                with _casting_anew(x.device.type):
                    x = checkpoint(block, x, use_reentrant=False, context_fn=_keep_convolutions)
            else:
                x = block(x)
            if x.shape[-1] > 1:
                if keep:
                    maps.append(x)
                x, index = max_pool(x)
                indices.append(index)
        return x.flatten(1), indices, maps


def _casting_anew(device: str) -> torch.autocast:
    """Autocast as it is, but weights are cast at every use: what is computed again must meet the operators of the first
    time, and a cast that an earlier slice left behind would be missing there."""
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return torch.autocast(device, dtype, enabled=enabled, cache_enabled=False)


class ImageDecoder(nn.Module):
    """Tokens and pooling positions to image patches; linear in the token, as published.

    Args:
        channels, patch_size: of a patch, in bands and pixels.
        dim: token width.
        bypass: whether maps are put back where the encoder's pooling took them from. Without, transposed convolutions
            of stride 2 take their place, and the token has to say where things are (an ablation of the paper).
    """

    def __init__(self, channels: int, patch_size: int, dim: int = 256, *, bypass: bool = True) -> None:
        super().__init__()
        stride, sides = pyramid(patch_size)
        self.channels, self.patch_size = channels, patch_size
        self.sides = sides[-2::-1]  # map sides from the token up, e.g. 3, 6, 12, 25
        last = (stride, patch_size - (sides[0] - 1) * stride - 1)  # stride and output padding to patch_size
        if bypass:
            self.convolutions = nn.ModuleList(UnpoolConvolution(dim) for _ in self.sides[1:])
        else:
            self.convolutions = nn.ModuleList(_upsampling(dim, *pair) for pair in itertools.pairwise([1, *self.sides]))
        self.bypass = bypass
        self.convolutions.append(UnpoolProjection(dim, channels, *last))
        to_channels_last(self)

    def forward(self, tokens: Tensor, indices: list[Tensor]) -> Tensor:
        """tokens (N, D), indices as the encoder returned them -> patches (N, C, s, s)."""
        if len(tokens) == 0:
            return tokens.new_zeros(0, self.channels, self.patch_size, self.patch_size)
        if not indices:  # a patch of one pixel
            return self.convolutions[0](tokens[:, :, None, None], None, 1)
        bytes_per_patch = indices[0][0].numel() * tokens.element_size()
        parts = []
        for part in patch_slices(len(tokens), bytes_per_patch, tokens.device, chained=True):
            x = tokens[part, :, None, None]
            if not self.bypass:
                for convolution in self.convolutions[:-1]:
                    x = convolution(x)
                parts.append(self.convolutions[-1](x, None, self.sides[-1]))
                continue
            for convolution, index, side in zip(self.convolutions, indices[::-1], self.sides, strict=True):
                x = convolution(x, index[part], side)
            parts.append(x)
        return torch.cat(parts)


def _upsampling(dim: int, side: int, larger: int) -> nn.ConvTranspose2d:
    """From side to larger = 2 side or 2 side + 1."""
    even = larger == 2 * side
    return nn.ConvTranspose2d(dim, dim, 4 if even else 3, stride=2, padding=int(even), bias=False)
