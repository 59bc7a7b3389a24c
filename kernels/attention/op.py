"""Relative-position attention as a torch operator: checks, autograd, autocast and the public function.

What the forward pass saves, in every backend: the output and two numbers for each row, in float32 (float64 for
float64 input). With logits in units of ln 2, ``x = logit * log2(e)``, a weight is ``2 ** (x - largest) / weight``:
``largest (B, H, Lq)`` is a number near the row's largest x and ``weight (B, H, Lq)`` the sum of the powers. The
usual single number, log-sum-exp, rounds at its own magnitude, which made float32 gradients 2 to 3 times less
accurate than plain PyTorch's. A row without a valid key has ``weight = +inf``: its weights are zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._triton.device import refuses_device
from ..backends import implement
from ..memory import remember
from ..operators import call, define, differentiable, under_autocast
from . import eager, native
from .buckets import check_indices
from .eager import empty_like_heads, statistics_dtype
from .layout import live_buckets

__all__ = ["relative_attention"]

_INPUTS = (
    "Tensor query, Tensor key, Tensor value, Tensor table, Tensor bucket, Tensor? query_position, "
    "Tensor? key_position, Tensor? key_valid, Tensor? seed, float dropout_p, float scale"
)


def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistic = query.new_empty(query.shape[:3], dtype=statistics_dtype(query.dtype))
    return empty_like_heads(query), statistic, torch.empty_like(statistic)


def _fake_backward(
    grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, *inputs: Any
) -> tuple[Tensor, ...]:
    query, key, value, table = inputs[:4]
    return *(empty_like_heads(t) for t in (query, key, value)), table.new_empty(table.shape)


_forward = define(
    f"relative_attention({_INPUTS}) -> (Tensor output, Tensor largest, Tensor weight)", fake=_fake_forward
)
_backward = define(
    "relative_attention_backward(Tensor grad_output, Tensor output, Tensor largest, Tensor weight, "
    f"{_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_backward,
)


def _checked(run: Callable[..., Any]) -> Callable[..., Any]:
    """Looks at index values before a kernel does; here, inside the operator, the tensors are real ones."""

    @functools.wraps(run)
    def checked(query: Tensor, key: Tensor, value: Tensor, table: Tensor, *rest: Any) -> Any:
        bucket, query_position, key_position = rest[:3]
        check_indices(bucket, query_position, key_position, table.shape[-1])
        return run(query, key, value, table, *rest)

    return checked


implement("relative_attention", "eager")(_checked(eager.forward))
implement("relative_attention_backward", "eager")(eager.backward)
implement("relative_attention", "cpp", refuses=native.refuses)(_checked(native.forward))
implement("relative_attention_backward", "cpp", refuses=native.refuses_backward)(native.backward)


def _triton_refuses(query: Tensor, key: Tensor, value: Tensor, table: Tensor, *rest: Any) -> str | None:
    if query.dtype == torch.float64:
        return "computes in float32"
    if query.shape[-1] > 128:
        return f"holds a row of at most 128 features in registers, not {query.shape[-1]}"
    if rest[0].shape[0] > 46_340:
        return f"counts entries of the bucket table in 32 bits, which {rest[0].shape[0]} positions exceed"
    bucket, query_position, key_position = rest[:3]

    def look() -> str | None:
        check_indices(bucket, query_position, key_position, table.shape[-1])
        live = live_buckets(bucket, table.shape[-1]).numel()
        return f"adds gradients up for at most 16 buckets that occur, not {live}" if live > 16 else None

    return refuses_device(query) or remember((bucket, query_position, key_position), ("refused", table.shape[-1]), look)


def _triton_refuses_backward(
    grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, *inputs: Any
) -> str | None:
    return _triton_refuses(*inputs)


@implement("relative_attention", "triton", refuses=_triton_refuses)
def _triton_forward(*args: Any) -> Any:
    from .triton import launch

    return launch.forward(*args)


@implement("relative_attention_backward", "triton", refuses=_triton_refuses_backward)
def _triton_backward(*args: Any) -> Any:
    from .triton import launch

    return launch.backward(*args)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.dropout_p, ctx.scale = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_output: Tensor | None, *grad_statistics: None) -> tuple[Tensor | None, ...]:
    if grad_output is None:
        return (None,) * 11
    gradients = call(_backward, grad_output, *ctx.saved_tensors, ctx.dropout_p, ctx.scale)
    return *gradients, *(None,) * 7


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pass


def _no_second_derivative(ctx: Any, *gradients: Any) -> None:
    raise RuntimeError(
        "relative_attention: second derivatives are not implemented; use kernels.attention.reference for them"
    )


differentiable(_forward, save=_save, gradients=_differentiate)
differentiable(_backward, save=_save_nothing, gradients=_no_second_derivative)


# Query, key and value take autocast's dtype, as in torch's own attention; the table keeps its precision, and
# statistics are float32 whatever the input.
under_autocast(_forward, casts=3)


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
    Differentiable once in query, key, value and table; deterministic, dropout included, for one seed.

    Args:
        query: (B, H, Lq, D), or (1, H, Lq, D) for queries shared by the batch.
        key, value: (B, H, Lk, D), in the dtype of the query (float64, float32, bfloat16 or float16).
        table: (1|H, D, K) contextual or (1|H, K) bias, any float dtype; first size 1 shares it by the heads.
        bucket: (S, S) integer in 0..K-1, the bucket of a pair of positions (see :func:`euclidean_buckets`).
        query_position, key_position: (Lq,), (Lk,) integer in 0..S-1, the position of each token (several tokens
            may share one). None: token i is at position i.
        key_valid: (B, Lk) bool; False keys are not attended to. A row with no valid key gives zeros and passes
            no gradient. None: all are valid.
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
    _check(query, key, value, table, bucket, query_position, key_position, mode, key_valid, dropout_p)
    if query.shape[0] != key.shape[0]:
        query = query.expand(key.shape[0], -1, -1, -1)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    seed = None
    if dropout_p > 0:
        seed = torch.randint(0, 2**62, (1,), device=query.device, dtype=torch.int64)
    indices = bucket, query_position, key_position
    return call(_forward, query, key, value, table, *indices, key_valid, seed, float(dropout_p), float(scale))[0]


def _check(
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
    """Everything that can be refused without reading a tensor's values."""

    def refuse(message: str, error: type[Exception] = ValueError) -> None:
        raise error(f"relative_attention: {message}")

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

    for name, tensor in (("query", query), ("key", key), ("value", value), ("table", table)):
        if not tensor.is_floating_point():
            refuse(f"{name} is {tensor.dtype}; it must be a float tensor", TypeError)
    if not torch.is_autocast_enabled(query.device.type) and not query.dtype == key.dtype == value.dtype:
        refuse(f"query, key and value differ in dtype: {query.dtype}, {key.dtype}, {value.dtype}", TypeError)
    for name, index in (("bucket", bucket), ("query_position", query_position), ("key_position", key_position)):
        if index is not None and (index.dtype == torch.bool or index.is_floating_point() or index.is_complex()):
            refuse(f"{name} is {index.dtype}; it must hold integers", TypeError)
    if key_valid is not None and key_valid.dtype != torch.bool:
        refuse(f"key_valid is {key_valid.dtype}; it must be bool, True where a key is attended to", TypeError)

    tensors = {"key": key, "value": value, "table": table, "bucket": bucket}
    tensors |= {"query_position": query_position, "key_position": key_position, "key_valid": key_valid}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != query.device:
            refuse(f"{name} is on {tensor.device}, query on {query.device}; move one of them")
