"""Patch InfoNCE over the joined batch of several processes.

Every rank gathers all tokens, computes the losses of its own rows, and later, because the gradient of a row
needs only all tokens and all row statistics (see registration.py), the exact gradient of its own tokens. What travels
is N x D tokens forward and three numbers a row backward; memory is O(local x D + joined x D). Joined batches beyond
``GATHERED`` bytes are not gathered: rank_by_rank.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..memory import transforming
from .inputs import Options
from .layout import dense_layout, dense_order, ragged_layout
from .rank_by_rank import rows_rank_by_rank
from .registration import backward_rows, forward_rows

# Bytes of tokens that are gathered on every rank at most; of larger joined batches it holds one other rank's at a time.
GATHERED = 1 << 28


def joined_tiles(
    tokens: Tensor, valid: Tensor | None, temperature: Tensor | None, options: Options, group: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`joined_rows` of tokens (M, B, P, D) with valid (M B P,): tiles are numbered through all ranks."""
    tokens = _as_multiplied(tokens)
    modalities, tiles, patches, dim = tokens.shape
    all_tiles = _sizes(tiles, tokens.device, group)
    sizes = [modalities * each * patches for each in all_tiles]
    if sum(sizes) * dim * tokens.element_size() <= GATHERED:
        index = torch.arange(modalities * tiles * patches, device=tokens.device)
        modality, patch = index // max(tiles * patches, 1), index % max(patches, 1)
        tile = index // max(patches, 1) % max(tiles, 1) + sum(all_tiles[: dist.get_rank(group)])
        return _gathered(tokens.flatten(0, 2), modality, tile, patch, valid, temperature, options, sizes, group)
    if valid is not None:
        valid = dense_order(valid.reshape(modalities, tiles, patches), options.exclude)
    layout = dense_layout((modalities, tiles, patches), options.exclude, valid, tokens.device)
    rows = dense_order(tokens, options.exclude)
    results = rows_rank_by_rank(rows, layout, temperature, options, modalities, sizes, group)
    if options.exclude != "place":
        return results
    loss, counts, hits = (
        x.reshape(tiles, modalities, patches).transpose(0, 1).flatten() if len(x) else x for x in results
    )
    return loss, counts, hits


def joined_rows(
    tokens: Tensor,
    modality: Tensor,
    tile: Tensor,
    patch: Tensor,
    valid: Tensor | None,
    temperature: Tensor | None,
    options: Options,
    group: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of the local rows (R,), which of them count (R,) and which found their positive (R,) or (0,)."""
    tokens = _as_multiplied(tokens)
    sizes = _sizes(len(tokens), tokens.device, group)
    return _gathered(tokens, modality, tile, patch, valid, temperature, options, sizes, group)


def _gathered(
    tokens: Tensor,
    modality: Tensor,
    tile: Tensor,
    patch: Tensor,
    valid: Tensor | None,
    temperature: Tensor | None,
    options: Options,
    sizes: list[int],
    group: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    if valid is None:
        valid = torch.ones_like(modality, dtype=torch.bool)  # another rank may have a mask
    labels = torch.stack([modality, tile, patch, valid], 1).long()  # (R, 4)
    modality, tile, patch, valid = _gather(labels, sizes, group).unbind(1)
    order, layout = ragged_layout(modality, tile, patch, options.exclude, valid.bool())
    place = order.argsort()  # (N,) where each token of the joined batch went
    start = sum(sizes[: dist.get_rank(group)])
    anchor = place[start : start + len(tokens)]
    apply: Callable[..., Any] = _Rows.apply  # which torch does not annotate
    loss, counts, hits = apply(tokens, temperature, (layout, order, anchor, sizes, options, group))
    return loss, counts, hits


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, temperature: Tensor | None, setting: tuple[Any, ...]) -> tuple[Tensor, ...]:
        layout, order, anchor, sizes, (value, exclude, *flags), group = setting
        joined = _gather(tokens, sizes, group)[order]  # (N, D)
        with torch.autocast(tokens.device.type, enabled=False):
            loss, log_z, log_y, inverse, hits = forward_rows(
                *(joined, *layout, anchor, temperature, value, *flags, exclude == "place")
            )
        ctx.setting = setting
        ctx.save_for_backward(joined, temperature, log_z, log_y, inverse)
        counts = log_z != torch.inf
        ctx.mark_non_differentiable(counts, hits)
        return loss, counts, hits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, None]:
        layout, order, anchor, sizes, options, group = ctx.setting
        joined, temperature, log_z, log_y, inverse = ctx.saved_tensors
        rows = torch.stack([grad, log_z, log_y], 1)  # (R, 3)
        grad, log_z, log_y = _gather(rows, sizes, group)[order].T.contiguous()
        d_tokens, d_temperature = backward_rows(
            *(grad, joined, *layout, anchor, temperature, options.value, log_z, log_y, inverse, options.normalize),
            ctx.needs_input_grad[1],
        )
        return d_tokens, d_temperature if ctx.needs_input_grad[1] else None, None


class _JoinedSum(torch.autograd.Function):
    """The sum over ranks. Each rank's own summand gets the gradient of the sum, once and unscaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def joined_sum(x: Tensor, group: Any) -> Tensor:
    apply: Callable[..., Any] = _JoinedSum.apply
    total: Tensor = apply(x, group)
    return total


def _as_multiplied(tokens: Tensor) -> Tensor:
    """Under autocast in its dtype."""
    if transforming():
        raise RuntimeError(
            "patch_info_nce: group= exchanges tensors between processes, which transforms of torch.func cannot follow; "
            "use torch.autograd.grad, or leave group out"
        )
    if torch.is_autocast_enabled(tokens.device.type) and tokens.dtype != torch.float64:
        return tokens.to(torch.get_autocast_dtype(tokens.device.type))
    return tokens


def _sizes(local: int, device: torch.device, group: Any) -> list[int]:
    size = torch.tensor([local], device=device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    return [int(s) for s in sizes]


def _gather(x: Tensor, sizes: list[int], group: Any) -> Tensor:
    """x (R, ...) of all ranks, one after the other: (sum of sizes, ...)."""
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
