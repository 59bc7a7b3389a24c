"""Relative-position attention: the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from ..operators import call
from .checks import check_arguments
from .registration import attend

__all__ = ["relative_attention"]


def relative_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    table: Tensor,
    bucket: Tensor,
    query_position: Tensor | None = None,
    key_position: Tensor | None = None,
    mode: str = "contextual",
    key_valid: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention whose logits carry a learned bias for the relative position of query and key.

    ``logits[b, h, i, j] = scale * query[b, h, i] . key[b, h, j] + bias[b, h, i, j]`` with
    ``k = bucket[query_position[i], key_position[j]]`` and

    * ``mode="contextual"`` (iRPE on keys): ``bias = scale * query[b, h, i] . table[h, :, k]``,
    * ``mode="bias"`` (Swin, T5): ``bias = table[h, k]``.

    Neither logits nor bias are ever stored: beyond inputs, output and gradients the op needs O(B H L) memory.
    Differentiable once, in reverse mode, in query, key, value and table; deterministic, dropout included, for one
    seed. What is not finite makes the rows it reaches NaN.

    Args:
        query: (B, H, Lq, D), or (1, H, Lq, D) for queries shared by the batch.
        key, value: (B, H, Lk, D), in the dtype of the query (float64, float32, bfloat16 or float16).
        table: (1|H, D, K) contextual or (1|H, K) bias, any float dtype, finite; first size 1 shares it by the heads.
        bucket: (S, S) integer in 0..K-1, the bucket of a pair of positions (see :func:`euclidean_buckets`).
        query_position, key_position: (Lq,), (Lk,) integer in 0..S-1, the position of each token (several tokens
            may share one). None: token i is at position i.
        key_valid: (B, Lk) bool; False keys are not attended to, and they and their values may hold anything, NaN
            included. A row with no valid key gives zeros and passes no gradient. None: all are valid.
        dropout_p: share of attention weights set to zero (the others grow by 1 / (1 - p)), in [0, 1). The mask
            follows ``torch.manual_seed``.
        scale: factor of the dot products. None: D ** -0.5.

    Returns:
        (B, H, Lq, D) in the dtype of the query, laid out so that ``output.transpose(1, 2).flatten(2)`` is a view.

    Raises:
        TypeError: dtypes that are not float (query, key, value, table), integer (bucket, positions), bool (valid).
        ValueError: shapes, devices or index values that do not fit, each with the numbers.

    Source: Wu et al., ICCV 2021, Eqs. 6-11 and 18; Astruc et al., OmniSat, ECCV 2024 (the combiner).
    """
    check_arguments(query, key, value, table, bucket, query_position, key_position, mode, key_valid, dropout_p)
    if query.shape[0] != key.shape[0]:
        query = query.expand(key.shape[0], -1, -1, -1)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    seed = None
    if dropout_p > 0:
        seed = torch.randint(0, 2**62, (1,), device=query.device, dtype=torch.int64)
    indices = bucket, query_position, key_position
    output: Tensor
    output, _, _ = call(attend, query, key, value, table, *indices, key_valid, seed, float(dropout_p), float(scale))
    return output
