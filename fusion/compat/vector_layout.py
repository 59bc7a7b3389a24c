"""How the inputs of :class:`fusion.compat.vector_quantize_pytorch.VectorQuantize` are laid out as vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "join_heads", "mask_of", "split_heads"]


@dataclass
class Layout:
    """Places of the vectors of one input: their shape, and whether features stand before or after them."""

    places: tuple[int, ...]  # () for one vector a row
    channels_first: bool

    @staticmethod
    def of(x: Tensor, dim: int, *, channel_last: bool, image: bool, volume: bool) -> Layout:
        """That of x (B, dim), (B, N, dim), (B, dim, N), (B, dim, H, W) or (B, dim, depth, H, W).

        Raises:
            ValueError: x has another number of dimensions, or vectors of another length.
            TypeError: x is no tensor of floating point.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"VectorQuantize: x must be a floating-point tensor, got {given}; convert it to float32")
        first = image or volume or (not channel_last and x.ndim > 2)
        wanted = 4 if image else 5 if volume else max(2, x.ndim)
        if x.ndim != wanted or x.shape[1 if first else -1] != dim:
            form = "(B, dim, H, W)" if image else "(B, dim, depth, H, W)" if volume else "(B, N, dim) or (B, dim)"
            form = "(B, dim, N) or (B, dim)" if first and not (image or volume) else form
            raise ValueError(f"VectorQuantize: expected {form} with dim={dim}, got {tuple(x.shape)}")
        return Layout(tuple(x.shape[2:] if first else x.shape[1:-1]), first)

    def vectors(self, x: Tensor) -> Tensor:
        """x -> (B, N, dim)."""
        if not self.places:
            return x[:, None]
        return x.flatten(2).mT if self.channels_first else x.flatten(1, -2)

    def codes(self, codes: Tensor) -> Tensor:
        """(B, N, ...) -> (B, places, ...)."""
        return codes.unflatten(1, self.places) if self.places else codes[:, 0]

    def flat(self, codes: Tensor) -> Tensor:
        """(B, places, ...) -> (B, N, ...)."""
        return codes.flatten(1, len(self.places)) if self.places else codes[:, None]

    def restore(self, vectors: Tensor) -> Tensor:
        """(B, N, ..., dim) -> the input's layout; what stands between (the k nearest) comes last but for dim."""
        out = self.codes(vectors)
        return out.movedim(-1, 1) if self.channels_first else out


def mask_of(mask: Tensor | None, lens: Tensor | None, layout: Layout, batch: int, count: int) -> Tensor | None:
    """(B, N) bool, True for vectors that count, from ``mask`` (B, N) or (B, places) or lengths ``lens`` (B,).

    Raises:
        ValueError: both are given, or shapes or lengths that do not fit.
        TypeError: a mask that is not bool, lengths that are not integers.
    """
    if mask is not None and lens is not None:
        raise ValueError("VectorQuantize: give mask or lens, not both")
    if lens is not None:
        if lens.is_floating_point() or lens.dtype == torch.bool:
            raise TypeError(f"VectorQuantize: lens must hold integers, got {lens.dtype}")
        if lens.shape != (batch,) or (batch and not 0 <= int(lens.min()) <= int(lens.max()) <= count):
            raise ValueError(f"VectorQuantize: lens must be {batch} lengths in 0..{count}, got {lens.tolist()}")
        return torch.arange(count, device=lens.device) < lens[:, None]
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        raise TypeError(f"VectorQuantize: mask must be bool (True where a vector counts), got {mask.dtype}")
    if mask.shape not in ((batch, count), (batch, *layout.places)):
        raise ValueError(f"VectorQuantize: mask must be {(batch, count)}, got {tuple(mask.shape)}")
    return mask.reshape(batch, count)


def split_heads(x: Tensor, heads: int, separate: bool) -> Tensor:
    """(B, N, heads D) -> (heads, B, N, D), or (1, B heads, N, D) where the heads share a codebook."""
    if heads == 1:
        return x[None]
    parts = x.unflatten(-1, (heads, -1))  # (B, N, heads, D)
    return parts.permute(2, 0, 1, 3) if separate else parts.transpose(1, 2).flatten(0, 1)[None]


def join_heads(x: Tensor, heads: int) -> Tensor:
    """(heads, B, N, ...) or (1, B heads, N, ...) -> (B, N, heads, ...); (1, B, N, ...) -> (B, N, ...) for one head."""
    if heads == 1:
        return x[0]
    return x.movedim(0, 2) if len(x) == heads else x[0].unflatten(0, (-1, heads)).transpose(1, 2)
