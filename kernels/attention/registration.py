"""The operators of relative-position attention in torch: schemas, which backend runs what, gradients and autocast.

What the forward pass saves, in every backend: the output and two numbers for each row, in float32 (float64 for
float64 input). With logits in units of ln 2, ``x = logit * log2(e)``, a weight is ``2 ** (x - largest) / weight``:
``largest (B, H, Lq)`` is a number near the row's largest x and ``weight (B, H, Lq)`` the sum of the powers. The
usual single number, log-sum-exp, rounds at its own magnitude, which made float32 gradients 2 to 3 times less
accurate than plain PyTorch's. A row without a valid key has ``weight = +inf``: its weights are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._triton.device import refuses_device
from ..backends import implement
from ..memory import remember
from ..operators import call, define, differentiable, not_differentiable_twice, under_autocast
from . import eager, native
from .buckets import check_indices, extent
from .inputs import Inputs, empty_like_heads, statistics_dtype
from .layout import live_buckets

__all__ = ["attend"]

_INPUTS = (
    "Tensor query, Tensor key, Tensor value, Tensor table, Tensor bucket, Tensor? query_position, "
    "Tensor? key_position, Tensor? key_valid, Tensor? seed, float dropout_p, float scale"
)


_WIDEST = 128  # features of a head, of kernels in Triton that keep rows whole
_MOST_LIVE = 16  # buckets that occur, whose gradients a program in Triton adds up


def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistic = query.new_empty(query.shape[:3], dtype=statistics_dtype(query.dtype))
    return empty_like_heads(query), statistic, torch.empty_like(statistic)


def _fake_backward(
    grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, *inputs: Any
) -> tuple[Tensor, ...]:
    query, key, value, table = inputs[:4]
    return *(empty_like_heads(t) for t in (query, key, value)), table.new_empty(table.shape)


attend = define(f"relative_attention({_INPUTS}) -> (Tensor output, Tensor largest, Tensor weight)", fake=_fake_forward)
_attend_backward = define(
    "relative_attention_backward(Tensor grad_output, Tensor output, Tensor largest, Tensor weight, "
    f"{_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_backward,
)


def _implement(
    backend: str,
    forward: Callable[[Inputs], Any],
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Inputs], Any],
    refuses: Callable[[Inputs], str | None] = lambda x: None,
) -> None:
    """Registers both passes of one backend."""

    @implement("relative_attention", backend, refuses=lambda *args: refuses(Inputs(*args)))
    def run_forward(*args: Any) -> Any:
        x = Inputs(*args)
        # Index values before a kernel looks at them; here, inside the operator, the tensors are real ones.
        check_indices(x.bucket, x.query_position, x.key_position, x.buckets)
        return forward(x)

    @implement("relative_attention_backward", backend, refuses=lambda *args: refuses(Inputs(*args[4:])))
    def run_backward(grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, *args: Any) -> Any:
        return backward(grad_output, output, largest, weight, Inputs(*args))


def _triton_refuses(x: Inputs) -> str | None:
    if x.query.dtype == torch.float64:
        return "computes in float32"
    if x.query.shape[-1] > _WIDEST:
        return f"holds a row of at most {_WIDEST} features in registers, not {x.query.shape[-1]}"
    rows = math.prod(x.query.shape[:3])
    if rows * (_MOST_LIVE + 6) >= 1 << 31:  # numbers kept of a row, in one tensor
        return f"numbers what it keeps of rows in 32 bits, which {rows} queries of all heads and tiles exceed"
    if x.bucket.shape[0] > 46_340:
        return f"counts entries of the bucket table in 32 bits, which {x.bucket.shape[0]} positions exceed"

    def too_many() -> str | None:
        if x.bucket.numel():
            low, high = extent(x.bucket)
            if low < 0 or high >= x.buckets:
                return None  # which check_indices says, in whatever backend
        live = live_buckets(x.bucket, x.buckets).numel()
        if live <= _MOST_LIVE:
            return None
        return f"adds gradients up for at most {_MOST_LIVE} buckets that occur, not {live}"

    return refuses_device(x.query) or remember((x.bucket,), ("too many", x.buckets), too_many)


def _triton_forward(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    from .triton import launch

    return launch.forward(x)


def _triton_backward(
    grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, x: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from .triton import launch

    return launch.backward(grad_output, output, largest, weight, x)


_implement("eager", eager.forward, eager.backward)
_implement("cpp", native.forward, native.backward, native.refuses)
_implement("triton", _triton_forward, _triton_backward, _triton_refuses)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.dropout_p, ctx.scale = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_output: Tensor | None, *grad_statistics: None) -> tuple[Tensor | None, ...]:
    if grad_output is None:
        return (None,) * 11
    gradients = call(_attend_backward, grad_output, *ctx.saved_tensors, ctx.dropout_p, ctx.scale)
    return *gradients, *(None,) * 7


_INSTEAD = "use fusion.kernels.attention.reference, which torch can differentiate in any way"
differentiable(
    attend,
    save=_save,
    gradients=_differentiate,
    forward_mode="relative_attention has no forward-mode derivative (torch.func.jvp, jacfwd, "
    f"torch.autograd.forward_ad): take reverse mode (torch.func.vjp, grad, jacrev), or {_INSTEAD}",
)
not_differentiable_twice(
    _attend_backward,
    "relative_attention: second derivatives (torch.func.hessian, create_graph=True) are not implemented: take the "
    f"first alone, or {_INSTEAD}",
)
# Query, key and value take autocast's dtype, as in torch's own attention; the table keeps its precision, and
# statistics are float32 whatever the input.
under_autocast(attend, casts=3)
