"""The operators of patch InfoNCE in torch: schemas, which backend runs what, gradients and autocast.

The gradient of the row losses (``w`` their incoming gradients, ``f`` the normalised tokens, ``s`` the scaled
similarities) is one symmetric matrix times ``f``, so that a row's gradient needs nobody else's:

    W_ij = e^(s_ij) [ (w_i/Z_i + w_j/Z_j) 1(j in denominator of i) - (w_i/Y_i + w_j/Y_j) 1(j positive of i) ]
    dL/df = W f / t,    dL/dt = -1/(2t) sum_i f_i . dL/df_i

Z sums e^s over the denominator, Y over the positives; the forward pass saves their logarithms.

``place`` of the forward operator says that positives lie in their anchor's block (layout.py), where whole tiles are
excluded, and yet in its denominator. Backends that sum positives apart from all other tokens need not know.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._triton.device import refuses_device
from ..backends import implement
from ..operators import call, define, differentiable, not_differentiable_twice, under_autocast
from . import eager, native
from .inputs import Inputs, statistics_dtype

__all__ = ["backward_rows", "forward_rows"]

_INPUTS = "Tensor tokens, Tensor modality, Tensor block, Tensor ring, Tensor? anchor, Tensor? temperature, float value"
_WIDEST = 4096  # features that a kernel in Triton keeps of a token
_MOST_SPLITS = 64  # partial sums of a row, at least as many as triton/plan.py makes


def _fake_forward(*args: Any) -> tuple[Tensor, ...]:
    x, accuracy = Inputs(*args[:7]), args[8]
    dtype = statistics_dtype(x.tokens.dtype)
    loss, log_z, log_y = (x.tokens.new_empty(x.rows, dtype=dtype) for _ in range(3))
    inverse = x.tokens.new_empty(len(x.tokens), dtype=dtype)
    return loss, log_z, log_y, inverse, x.tokens.new_empty(x.rows if accuracy else 0, dtype=torch.bool)


def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    x = Inputs(*args[:7])
    return x.tokens.new_empty(x.rows, x.tokens.shape[1]), x.of_temperature.new_empty(())


# Returns loss, log_z and log_y (R,), 0, +inf and +inf in rows without a positive; the inverse norms (N,); and whether
# the nearest admissible token is a positive, (R,), empty unless asked for.
forward_rows = define(
    f"patch_info_nce_forward({_INPUTS}, bool normalize, bool accuracy, bool place) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_forward,
)
# grad, log_z, log_y (N,) of all tokens, whichever rows are wanted. needs_temperature=False: its gradient may be
# anything.
backward_rows = define(
    f"patch_info_nce_backward(Tensor grad, {_INPUTS}, Tensor log_z, Tensor log_y, Tensor inverse, bool normalize, "
    "bool needs_temperature) -> (Tensor, Tensor)",
    fake=_fake_backward,
)


def _with_positive_temperature(*args: Any) -> Inputs:
    """The inputs, checked where it costs nothing: a temperature on the GPU would have to be waited for.

    One that is NaN makes the loss NaN, as any other part of a model that diverged does.
    """
    x = Inputs(*args)
    if x.temperature is not None and x.temperature.device.type == "cpu" and x.temperature <= 0:
        raise ValueError(f"patch_info_nce: temperature must be positive, got a tensor of {x.temperature.item()}")
    return x


@implement("patch_info_nce_forward", "eager")
def _forward_eager(*args: Any) -> tuple[Tensor, ...]:
    return eager.forward(_with_positive_temperature(*args[:7]), *args[7:9])


@implement("patch_info_nce_backward", "eager")
def _backward_eager(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return eager.backward(grad, Inputs(*args[:7]), *args[7:])


@implement("patch_info_nce_forward", "cpp", refuses=lambda *args: native.refuses(Inputs(*args[:7])))
def _forward_cpp(*args: Any) -> tuple[Tensor, ...]:
    return native.forward(_with_positive_temperature(*args[:7]), *args[7:9])


@implement("patch_info_nce_backward", "cpp", refuses=lambda grad, *args: native.refuses(Inputs(*args[:7])))
def _backward_cpp(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return native.backward(grad, Inputs(*args[:7]), *args[7:])


def _triton_refuses(x: Inputs) -> str | None:
    if x.tokens.dtype == torch.float64:
        return "has no float64 arithmetic"
    if x.tokens.shape[1] > _WIDEST:
        return f"keeps a token's features in registers: at most {_WIDEST}, got {x.tokens.shape[1]}"
    if x.rows * _MOST_SPLITS >= 1 << 31:
        return f"numbers partial sums of rows in 32 bits, which {x.rows} rows exceed"
    return refuses_device(x.tokens)


@implement("patch_info_nce_forward", "triton", refuses=lambda *args: _triton_refuses(Inputs(*args[:7])))
def _forward_triton(*args: Any) -> tuple[Tensor, ...]:
    from .triton import launch

    return launch.forward(_with_positive_temperature(*args[:7]).temperature_where_tokens_are(), *args[7:])


@implement("patch_info_nce_backward", "triton", refuses=lambda grad, *args: _triton_refuses(Inputs(*args[:7])))
def _backward_triton(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    from .triton import launch

    x = Inputs(*args[:7])
    d_tokens, d_temperature = launch.backward(grad, x.temperature_where_tokens_are(), *args[7:])
    return d_tokens, d_temperature if x.temperature is None else d_temperature.to(x.temperature.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tokens, modality, block, ring, anchor, temperature, ctx.value, ctx.normalize, _, _ = inputs
    if anchor is not None:
        raise RuntimeError("patch_info_nce_forward: autograd needs all rows; pass group= to the public function")
    _, log_z, log_y, inverse, _ = output
    ctx.save_for_backward(tokens, modality, block, ring, temperature, log_z, log_y, inverse)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    tokens, modality, block, ring, temperature, log_z, log_y, inverse = ctx.saved_tensors
    flags = ctx.normalize, ctx.needs_input_grad[5]
    d_tokens, d_temperature = call(
        *(backward_rows, grad.contiguous(), tokens, modality, block, ring, None),
        *(temperature, ctx.value, log_z, log_y, inverse, *flags),
    )
    d_temperature = d_temperature if flags[1] else None
    return d_tokens, None, None, None, None, d_temperature, None, None, None, None


_INSTEAD = "use fusion.kernels.infonce.reference, which torch can differentiate in any way"
differentiable(
    forward_rows,
    save=_save,
    gradients=_gradients,
    forward_mode="patch_info_nce has no forward-mode derivative (torch.func.jvp, jacfwd, torch.autograd.forward_ad): "
    f"take reverse mode (torch.func.vjp, grad, jacrev), or {_INSTEAD}",
)
not_differentiable_twice(
    backward_rows,
    "patch_info_nce has no second derivative (torch.func.hessian, create_graph=True): take the first alone, or "
    + _INSTEAD,
)
# Products run in autocast's dtype; temperature and statistics keep theirs.
under_autocast(forward_rows, casts=1)
