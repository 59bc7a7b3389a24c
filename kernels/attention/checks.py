"""Argument checks of relative-position attention: what can be refused without reading a tensor's values.

Those of values are in buckets.py.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from ..arguments import check_tensor
from ..operators import autocast_is_on

__all__ = ["check_arguments"]


def check_arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    bucket: Tensor,
    query_position: Tensor | None,
    key_position: Tensor | None,
    mode: str,
    key_valid: Tensor | None,
    dropout_p: float,
) -> None:
    """Raises ValueError or TypeError, with the numbers given and those wanted."""

    def refuse(message: str, error: type[Exception] = ValueError) -> NoReturn:
        raise error(f"relative_attention: {message}")

    for name, tensor in (("query", query), ("key", key), ("value", value), ("table", table)):
        check_tensor("relative_attention", name, tensor)
    if mode not in ("contextual", "bias"):
        refuse(f"mode={mode!r}; one of 'contextual', 'bias'")
    if not 0 <= dropout_p < 1:
        refuse(f"dropout_p={dropout_p} is outside [0, 1)")
    if query.dim() != 4 or key.dim() != 4 or key.shape != value.shape:
        refuse(
            "query must be (B, H, Lq, D), key and value (B, H, Lk, D); got "
            f"{tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
        )
    batch, heads, keys, dim = key.shape
    queries = query.shape[2]
    if query.shape[0] not in (1, batch) or query.shape[1] != heads or query.shape[3] != dim or dim == 0:
        fit = f"batch 1 or {batch}, {heads} heads, D = {dim}"
        refuse(f"query {tuple(query.shape)} does not fit key {tuple(key.shape)}: {fit} expected")

    expected = (dim,) if mode == "contextual" else ()
    if table.dim() != 2 + len(expected) or table.shape[0] not in (1, heads) or table.shape[1:-1] != expected:
        wanted = f"(1 or {heads}, {dim}, K)" if mode == "contextual" else f"(1 or {heads}, K)"
        refuse(f"mode={mode!r} needs a table of shape {wanted}, got {tuple(table.shape)}")
    if table.shape[-1] == 0:
        refuse(f"table {tuple(table.shape)} has no buckets")
    if bucket.dim() != 2 or bucket.shape[0] != bucket.shape[1]:
        refuse(f"bucket must be (S, S), one row and column for each position; got {tuple(bucket.shape)}")
    for name, position, tokens in (("query", query_position, queries), ("key", key_position, keys)):
        if position is None:
            if tokens > bucket.shape[0]:
                refuse(
                    f"{tokens} {name} tokens but bucket {tuple(bucket.shape)} covers {bucket.shape[0]} positions; "
                    f"give {name}_position ({tokens},) if tokens share positions"
                )
        elif position.shape != (tokens,):
            refuse(f"{name}_position must be ({tokens},) like the {name} tokens, got {tuple(position.shape)}")
    if key_valid is not None and key_valid.shape != (batch, keys):
        refuse(f"key_valid must be (B, Lk) = ({batch}, {keys}), got {tuple(key_valid.shape)}")

    if not autocast_is_on(query.device.type) and not query.dtype == key.dtype == value.dtype:
        refuse(f"query, key and value differ in dtype: {query.dtype}, {key.dtype}, {value.dtype}", TypeError)
    for name, index in (("bucket", bucket), ("query_position", query_position), ("key_position", key_position)):
        if index is not None and (index.dtype == torch.bool or index.is_floating_point() or index.is_complex()):
            refuse(f"{name} is {index.dtype}; it must hold integers", TypeError)
    if key_valid is not None and key_valid.dtype != torch.bool:
        refuse(f"key_valid is {key_valid.dtype}; it must be bool, True where a key is attended to", TypeError)

    tensors: dict[str, Tensor | None] = {"key": key, "value": value, "table": table, "bucket": bucket}
    tensors |= {"query_position": query_position, "key_position": key_position, "key_valid": key_valid}
    for name, other in tensors.items():
        if other is not None and other.device != query.device:
            refuse(f"{name} is on {other.device}, query on {query.device}; move one of them")
