"""The public function of pooling."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_tensor
from ..operators import call
from . import eager
from .registration import pool

__all__ = ["pool_dates"]


def pool_dates(
    values: Tensor,
    query: Tensor,
    offset: Tensor,
    positions: Tensor,
    *,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | None = None,
    groups: int = 1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Pools the dates of every patch with one query per head, as the encoder of Garnot & Landrieu (2020, arXiv
    2007.00586) does, its group norm and the activation before that with it.

    Written for encoding: on a CPU everything of a patch is computed while its dates are in the nearest cache. Where a
    gradient is asked for, it is plain PyTorch.

    Args:
        values: (B, P, L, D) floating: L dates of P patches.
        query: (H, D): what a date is multiplied with for its score, by head; the key projection is part of it.
        offset: (B, L, H), added to scores, e.g. of the codes of days.
        positions: (B, L, D / H): codes of days, added to every head's part of the values after the normalisation.
        valid: (B, L) bool; None where every date is. What other dates hold plays no part.
        bias: (D): values become ``relu(values + bias)`` first; None leaves them.
        norm: weight and bias (D) of a group normalisation over the valid dates of a patch; None leaves it out.
        groups: of adjacent channels that share mean and variance.
        eps: added to the variance.

    Returns:
        pooled (B, P, D), and attention (B, P, L, H), which sums to 1 over valid dates and is 0 elsewhere; both 0 for
        tiles without a valid date. float32, or float64 for float64.

    Raises:
        TypeError: values, query, offset, positions, bias or norm that are no dense tensor of floating point.
        ValueError: shapes or devices that do not fit each other.
    """
    _check(values, query, offset, positions, valid, bias, norm, groups)
    weight, shift = norm or (None, None)
    args = (values, bias, valid, weight, shift, groups, eps, query, offset, positions)
    if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
        return eager.pool_dates(*args)
    pooled, attention = call(pool, *args)
    return pooled, attention


def _check(
    values: Tensor,
    query: Tensor,
    offset: Tensor,
    positions: Tensor,
    valid: Tensor | None,
    bias: Tensor | None,
    norm: tuple[Tensor, Tensor] | None,
    groups: int,
) -> None:
    floating = {"values": values, "query": query, "offset": offset, "positions": positions}
    floating |= {} if bias is None else {"bias": bias}
    floating |= {} if norm is None else {"norm weight": norm[0], "norm bias": norm[1]}
    for name, given in floating.items():
        check_tensor("pool_dates", name, given)
    if values.ndim != 4:
        raise ValueError(f"pool_dates: values {tuple(values.shape)}, want (B, P, L, D)")
    batch, _, dates, dim = values.shape
    heads = query.shape[0] if query.ndim == 2 else 0
    if heads < 1 or query.shape[1] != dim or dim % heads:
        raise ValueError(f"pool_dates: query {tuple(query.shape)}, want (H, {dim}) with H a divisor of {dim}")
    if groups < 1 or dim % groups:
        raise ValueError(f"pool_dates: groups={groups} do not divide {dim} channels")
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "offset": (offset, (batch, dates, heads)),
        "positions": (positions, (batch, dates, dim // heads)),
        "valid": (valid, (batch, dates)),
        "bias": (bias, (dim,)),
        "norm weight": (None if norm is None else norm[0], (dim,)),
        "norm bias": (None if norm is None else norm[1], (dim,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"pool_dates: {name} {tuple(tensor.shape)}, want {shape}")
    for name, tensor in {"query": query, **{name: tensor for name, (tensor, _) in wanted.items()}}.items():
        if tensor is not None and tensor.device != values.device:
            raise ValueError(f"pool_dates: {name} is on {tensor.device}, values on {values.device}; move one of them")
    if valid is not None and valid.dtype != torch.bool:
        raise ValueError(f"pool_dates: valid is bool, not {valid.dtype}")
