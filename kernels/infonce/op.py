"""Patch InfoNCE as a torch operator: schemas, gradients, autocast, argument checks, and the public functions.

The gradient of the row losses (``w`` their incoming gradients, ``f`` the normalised tokens, ``s`` the scaled
similarities) is one symmetric matrix times ``f``, so that a row's gradient needs nobody else's:

    W_ij = e^(s_ij) [ (w_i/Z_i + w_j/Z_j) 1(j in denominator of i) - (w_i/Y_i + w_j/Y_j) 1(j positive of i) ]
    dL/df = W f / t,    dL/dt = -1/(2t) sum_i f_i . dL/df_i

Z sums e^s over the denominator, Y over the positives; the forward pass saves their logarithms.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._triton.device import refuses_device
from ..backends import implement
from ..operators import call, declare_native, define, differentiable, under_autocast
from . import eager
from .layout import EXCLUDE, Layout, dense_layout, ragged_layout

__all__ = ["patch_info_nce", "patch_info_nce_ragged"]


def _fake_forward(tokens, modality, block, ring, anchor, temperature, value, normalize, accuracy):  # type: ignore[no-untyped-def]
    dtype = eager.statistics_dtype(tokens.dtype)
    rows = len(tokens) if anchor is None else len(anchor)
    loss, log_z, log_y = (tokens.new_empty(rows, dtype=dtype) for _ in range(3))
    inverse = tokens.new_empty(len(tokens), dtype=dtype)
    return loss, log_z, log_y, inverse, tokens.new_empty(rows if accuracy else 0, dtype=torch.bool)


def _fake_backward(grad, tokens, modality, block, ring, anchor, temperature, *saved):  # type: ignore[no-untyped-def]
    rows = len(tokens) if anchor is None else len(anchor)
    return tokens.new_empty(rows, tokens.shape[1]), (tokens if temperature is None else temperature).new_empty(())


# tokens (N, D), contiguous. modality, block, ring (N,) int32: see layout.py. anchor (R,) int64: the rows wanted;
# None: all. temperature (), or None: then it is the number ``value``, which no GPU waits for and no graph copies.
# Returns loss, log_z and log_y (R,), 0, +inf and +inf in rows without a positive; the inverse norms (N,); and whether
# the nearest admissible token is a positive, (R,), empty unless asked for.
define(
    "patch_info_nce_forward(Tensor tokens, Tensor modality, Tensor block, Tensor ring, Tensor? anchor, "
    "Tensor? temperature, float value, bool normalize, bool accuracy) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_forward,
)
# grad, log_z, log_y (N,) of all tokens, whichever rows are wanted. needs_temperature=False: its gradient may be
# anything.
define(
    "patch_info_nce_backward(Tensor grad, Tensor tokens, Tensor modality, Tensor block, Tensor ring, "
    "Tensor? anchor, Tensor? temperature, float value, Tensor log_z, Tensor log_y, Tensor inverse, bool normalize, "
    "bool needs_temperature) -> (Tensor, Tensor)",
    fake=_fake_backward,
)
implement("patch_info_nce_backward", "eager")(eager.backward)

declare_native(
    "patch_info_nce_forward_cpp(Tensor tokens, Tensor modality, Tensor block, Tensor ring, Tensor? anchor, "
    "float temperature, bool normalize, bool accuracy) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
declare_native(
    "patch_info_nce_backward_cpp(Tensor grad, Tensor tokens, Tensor modality, Tensor block, Tensor ring, "
    "Tensor? anchor, float temperature, Tensor log_z, Tensor log_y, bool normalize) -> (Tensor, float)"
)


def _cpp_refuses(*args: Any) -> str | None:
    tokens = args[0] if args[1].dtype == torch.int32 else args[1]  # backward has the gradient first
    return "has no float16 arithmetic" if tokens.dtype == torch.float16 else None


def _triton_refuses(*args: Any) -> str | None:
    tokens = args[0] if args[1].dtype == torch.int32 else args[1]
    if tokens.dtype == torch.float64:
        return "has no float64 arithmetic"
    if tokens.shape[1] > 4096:
        return f"keeps a token's features in registers: at most 4096, got {tokens.shape[1]}"
    return refuses_device(tokens)


def _check_value(temperature: Tensor | None) -> None:
    """Where it costs nothing: a temperature on the GPU would have to be waited for."""
    if temperature is not None and temperature.device.type == "cpu" and not temperature > 0:
        raise ValueError(f"patch_info_nce: temperature must be positive, got a tensor of {temperature.item()}")


@implement("patch_info_nce_forward", "eager")
def _forward_eager(*args: Any) -> tuple[Tensor, ...]:
    _check_value(args[5])
    return eager.forward(*args)


@implement("patch_info_nce_forward", "triton", refuses=_triton_refuses)
def _forward_triton(*args: Any) -> tuple[Tensor, ...]:
    from .triton import launch

    _check_value(args[5])
    return launch.forward(*_where_tokens_are(args, 5))


@implement("patch_info_nce_backward", "triton", refuses=_triton_refuses)
def _backward_triton(*args: Any) -> tuple[Tensor, ...]:
    from .triton import launch

    d_tokens, d_temperature = launch.backward(*_where_tokens_are(args, 6))
    return d_tokens, d_temperature if args[6] is None else d_temperature.to(args[6].device)


def _where_tokens_are(args: tuple[Any, ...], at: int) -> tuple[Any, ...]:
    """The arguments with the temperature, argument ``at``, on the device of the tokens."""
    if args[at] is None or args[at].device == args[0].device:
        return args
    return *args[:at], args[at].to(args[0].device, non_blocking=True), *args[at + 1 :]


@implement("patch_info_nce_forward", "cpp", refuses=_cpp_refuses)
def _forward_cpp(  # type: ignore[no-untyped-def]
    tokens, modality, block, ring, anchor, temperature, value, normalize, accuracy
):
    _check_value(temperature)
    value = value if temperature is None else temperature.item()
    return torch.ops.fusion.patch_info_nce_forward_cpp(
        tokens, modality, block, ring, anchor, value, normalize, accuracy
    )


@implement("patch_info_nce_backward", "cpp", refuses=_cpp_refuses)
def _backward_cpp(  # type: ignore[no-untyped-def]
    grad, tokens, modality, block, ring, anchor, temperature, value, log_z, log_y, inverse, normalize, needs_temperature
):
    value = value if temperature is None else temperature.item()
    d_tokens, d_temperature = torch.ops.fusion.patch_info_nce_backward_cpp(
        grad, tokens, modality, block, ring, anchor, value, log_z, log_y, normalize
    )
    return d_tokens, (tokens if temperature is None else temperature).new_full((), d_temperature)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tokens, modality, block, ring, anchor, temperature, ctx.value, ctx.normalize, _ = inputs
    if anchor is not None:
        raise RuntimeError("patch_info_nce_forward: autograd needs all rows; pass group= to the public function")
    _, log_z, log_y, inverse, _ = output
    ctx.save_for_backward(tokens, modality, block, ring, temperature, log_z, log_y, inverse)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    tokens, modality, block, ring, temperature, log_z, log_y, inverse = ctx.saved_tensors
    flags = ctx.normalize, ctx.needs_input_grad[5]
    d_tokens, d_temperature = call(
        *(torch.ops.fusion.patch_info_nce_backward.default, grad.contiguous(), tokens, modality, block, ring, None),
        *(temperature, ctx.value, log_z, log_y, inverse, *flags),
    )
    d_temperature = d_temperature if flags[1] else None
    return d_tokens, None, None, None, None, d_temperature, None, None, None


def _no_second_order(ctx: Any, *_: Tensor | None) -> None:
    raise RuntimeError(
        "patch_info_nce has no second derivative: call backward without create_graph=True, or use "
        "fusion.kernels.infonce.reference, which autograd can differentiate any number of times"
    )


differentiable(torch.ops.fusion.patch_info_nce_forward.default, save=_save, gradients=_gradients)
torch.library.register_autograd("fusion::patch_info_nce_backward", _no_second_order)


# Products run in autocast's dtype; temperature and statistics keep theirs.
under_autocast(torch.ops.fusion.patch_info_nce_forward.default, casts=1)


def patch_info_nce(
    tokens: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    valid: Tensor | None = None,
    exclude: str = "tile",
    normalize: bool = True,
    reduction: str = "mean",
    group: Any = None,
    return_accuracy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Contrastive loss between the patches of several modalities (OmniSat, arXiv 2404.08351, Eq. 3).

    Token (m, b, p) is the anchor of one row of the similarity matrix. Its positives are the tokens of the same
    tile and patch in the other modalities; its denominator is every token outside its excluded set, positives
    included. Row loss = logsumexp(denominator) - logsumexp(positives), similarities divided by ``temperature``.
    (The paper's Eq. 3 lacks the minus sign that its code has; this is the quantity to minimise.)

    Memory beyond inputs and gradients is O(N) for N = M B P tokens: the N x N matrix is never formed.

    Args:
        tokens: (M, B, P, D) float: M modalities, B tiles, P patches a tile. Under autocast they are cast.
            float16 and bfloat16 tokens are multiplied in their dtype and summed in float32.
        temperature: positive number, or a tensor with one element, which receives a gradient.
        valid: (M, B, P) or (M, B) bool. A token that was not observed is neither anchor, positive nor negative;
            its gradient is zero. An anchor without a positive is left out of the mean.
        exclude: what is left out of an anchor's denominator: ``"tile"`` its modality within its tile (Eq. 3),
            ``"self"`` the anchor alone (with M=2, P=1: NT-Xent), ``"modality"`` all of its modality (with
            M=2, P=1: CLIP's symmetric loss).
        normalize: cosine similarities (a token shorter than 1e-8 has cosine 0 with everything and no
            gradient); otherwise plain dot products.
        reduction: ``"mean"`` over the anchors that have a positive (0 where there is none), ``"sum"``, or
            ``"none"``, which gives (M, B, P) with 0 where an anchor is left out.
        group: a ``torch.distributed`` group (``torch.distributed.group.WORLD`` for all processes) whose ranks
            share negatives; B may differ between ranks. Mean and sum are those of the joined batch, equal on
            every rank; gradients are those of the single-process loss with respect to the rank's own tokens,
            and for the temperature the rank's share, so that gradients *summed* over ranks are the
            single-process ones (DistributedDataParallel averages: multiply the loss by the number of ranks).
        return_accuracy: also return the retrieval accuracy: the share of anchors (that have a positive) whose
            most similar token in the denominator is a positive. A tie with a negative, to within a relative
            1e-5, is a miss, so that collapsed tokens score 0. NaN where there is no anchor. No gradient.
            With ``group`` the share is that of the joined batch.

    Returns:
        The loss, float32 (float64 for float64 tokens), or (loss, accuracy).

    Raises:
        ValueError: wrong shapes, an unknown option, a temperature that is not positive.
        TypeError: tokens that are not floating point, a mask that is not bool.
    """
    if tokens.ndim != 4:
        raise ValueError(
            f"patch_info_nce: tokens must be (M, B, P, D) = (modalities, tiles, patches, features), got "
            f"{tuple(tokens.shape)}; for another mix of tokens use patch_info_nce_ragged"
        )
    temperature = check_options("patch_info_nce", tokens, temperature, exclude, reduction)  # tensor or None, number
    shape = tokens.shape[:3]
    if valid is not None:
        valid = _dense_mask(valid, tokens)
    rows = tokens.flatten(0, 2)
    if group is not None:
        from .distributed import dense_labels, joined_rows

        labels = dense_labels(shape, tokens.device, group)
        options = (*temperature, exclude, normalize, return_accuracy, group)
        loss, anchors, hits = joined_rows(rows, *labels, valid, *options)
    else:
        layout = dense_layout(shape, exclude, valid, tokens.device)
        loss, anchors, hits = _rows(rows, layout, *temperature, normalize, return_accuracy)
    return _reduce(loss, anchors, hits, shape, reduction, group, return_accuracy)


def patch_info_nce_ragged(
    tokens: Tensor,
    modality: Tensor,
    tile: Tensor,
    patch: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    valid: Tensor | None = None,
    exclude: str = "tile",
    normalize: bool = True,
    reduction: str = "mean",
    group: Any = None,
    return_accuracy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`patch_info_nce` for any mix of tokens, each with its own labels.

    Args:
        tokens: (N, D) float.
        modality, tile, patch: (N,) integers; any values. Positives share tile and patch and differ in modality.
        group: as in :func:`patch_info_nce`; labels are global: the same tile number on two ranks is one tile.
        temperature, valid (N,), exclude, normalize, reduction, return_accuracy: as in :func:`patch_info_nce`;
            ``reduction="none"`` gives (N,).

    Raises:
        ValueError, TypeError: as :func:`patch_info_nce`.
    """
    if tokens.ndim != 2:
        raise ValueError(f"patch_info_nce_ragged: tokens must be (N, D), got {tuple(tokens.shape)}")
    temperature = check_options("patch_info_nce_ragged", tokens, temperature, exclude, reduction)
    shape = tokens.shape[:1]
    for name, label in (("modality", modality), ("tile", tile), ("patch", patch), ("valid", valid)):
        if label is None:
            continue
        if label.shape != shape:
            raise ValueError(
                f"patch_info_nce_ragged: {name} must be (N,) = {tuple(shape)} like tokens, got {tuple(label.shape)}"
            )
        _check_device("patch_info_nce_ragged", name, label, tokens)
        if (label.dtype != torch.bool) if name == "valid" else (label.is_floating_point() or label.is_complex()):
            wanted = "bool (True where a token was observed)" if name == "valid" else "an integer tensor"
            raise TypeError(f"patch_info_nce_ragged: {name} must be {wanted}, got {label.dtype}")
    if group is not None:
        from .distributed import joined_rows

        options = (*temperature, exclude, normalize, return_accuracy, group)
        loss, anchors, hits = joined_rows(tokens, modality, tile, patch, valid, *options)
    else:
        order, layout = ragged_layout(modality, tile, patch, exclude, valid)
        results = _rows(tokens[order], layout, *temperature, normalize, return_accuracy)
        place = order.argsort()
        loss, anchors, hits = (x[place] if len(x) else x for x in results)
    return _reduce(loss, anchors, hits, shape, reduction, group, return_accuracy)


def _rows(
    tokens: Tensor, layout: Layout, temperature: Tensor | None, value: float, normalize: bool, accuracy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Row losses (N,), which rows count (N,) and which found their positive (N,) or (0,)."""
    loss, log_z, _, _, hits = call(
        torch.ops.fusion.patch_info_nce_forward.default,
        *(tokens.contiguous(), *layout, None, temperature, value, normalize, accuracy),
    )
    return loss, log_z != torch.inf, hits


def _reduce(
    loss: Tensor,
    anchors: Tensor,
    hits: Tensor,
    shape: tuple[int, ...],
    reduction: str,
    group: Any,
    return_accuracy: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    count = anchors.sum()
    total, found = loss.sum(), hits.sum() if return_accuracy else count
    if group is not None:
        from .distributed import joined_sum

        total, count, found = (joined_sum(x, group) for x in (total, count, found))
    if reduction == "none":
        result = loss.reshape(shape)
    else:
        result = total / count.clamp(min=1) if reduction == "mean" else total
    return (result, found.to(loss.dtype) / count) if return_accuracy else result


def check_options(
    op: str, tokens: Tensor, temperature: float | Tensor, exclude: str, reduction: str
) -> tuple[Tensor | None, float]:
    """The temperature as a tensor of shape (), or None and a number."""
    if not tokens.is_floating_point():
        raise TypeError(f"{op}: tokens must be floating point, got {tokens.dtype}; convert with tokens.float()")
    if exclude not in EXCLUDE:
        raise ValueError(f"{op}: exclude must be one of {', '.join(EXCLUDE)}, got {exclude!r}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: reduction must be one of mean, sum, none, got {reduction!r}")
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or not temperature.is_floating_point():
            raise ValueError(
                f"{op}: temperature must be a number or a floating-point tensor with one element, got "
                f"{tuple(temperature.shape)} {temperature.dtype}"
            )
        return temperature.reshape(()), 0.0
    if not 0 < temperature < math.inf:
        raise ValueError(f"{op}: temperature must be a positive number, got {temperature}")
    return None, float(temperature)


def _check_device(op: str, name: str, x: Tensor, tokens: Tensor) -> None:
    if x.device != tokens.device:
        raise ValueError(f"{op}: {name} is on {x.device} and tokens on {tokens.device}; move it with .to(...)")


def _dense_mask(valid: Tensor, tokens: Tensor) -> Tensor:
    """valid as (M B P,)."""
    shape = tokens.shape[:3]
    if valid.dtype != torch.bool:
        raise TypeError(f"patch_info_nce: valid must be bool (True where a token was observed), got {valid.dtype}")
    if valid.shape not in (shape, shape[:2]):
        raise ValueError(
            f"patch_info_nce: valid must be (M, B, P) = {tuple(shape)} or (M, B) = {tuple(shape[:2])}, "
            f"got {tuple(valid.shape)}"
        )
    _check_device("patch_info_nce", "valid", valid, tokens)
    return (valid if valid.ndim == 3 else valid[..., None]).expand(shape).flatten()
