"""Launches the kernels of patch InfoNCE: work space, and what each pass is given."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._triton.device import interpreting
from ..._triton.launch import launch
from ..inputs import Inputs
from ..reference import NO_DIRECTION, TIE
from .backward import backward_kernel
from .forward import forward_kernel, halved_kernel
from .plan import Plan, halves, plan_for, shift_kinds
from .prepare import prepare_kernel
from .rows import gradients_kernel, losses_kernel

__all__ = ["backward", "forward"]


class _Tokens:
    """The tokens prepared for the tiles of one pass: directions, shifts, edges and, for backward, weights."""

    __slots__ = ("edges", "high", "log_z", "low", "shift", "temperature", "unit", "weight")

    def __init__(
        self,
        plan: Plan,
        x: Inputs,
        normalize: bool,
        inverse: Tensor,
        grad: Tensor | None = None,
        log_z: Tensor | None = None,
    ) -> None:
        device, split, backward = x.tokens.device, plan.split, grad is not None
        self.temperature = x.of_temperature
        shape = plan.padded, plan.stride
        self.high = torch.empty(shape, dtype=torch.float16 if split else x.tokens.dtype, device=device)
        self.low = torch.empty_like(self.high) if split else self.high
        self.shift = self.weight = self.log_z = torch.empty(plan.padded, dtype=torch.float32, device=device)
        if backward:
            self.weight, self.log_z = torch.empty_like(self.shift), torch.empty_like(self.shift)
        self.edges = torch.empty((plan.row_blocks, 4), dtype=torch.int32, device=device)
        self.unit = torch.empty_like(self.shift) if split else self.shift
        launch(prepare_kernel, plan.prepare_grid,
            *(x.tokens, x.modality, x.block, self.temperature),
            *((grad, log_z) if backward else (self.shift, self.shift)),
            *(self.weight, self.log_z, self.high, self.low, self.unit, inverse, self.shift, self.edges),
            *(len(x.tokens), plan.padded, plan.row_blocks if x.anchor is None else 0, x.value, plan.tile.rows),
            **plan.constants(True, NORMALIZE=normalize, BACKWARD=backward, LEARNED=x.temperature is not None),
            NO_DIRECTION=NO_DIRECTION,
        )  # fmt: skip


def forward(x: Inputs, normalize: bool, accuracy: bool, place: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row losses and what the backward pass needs; see registration.py."""
    tokens, modality, block, ring, anchor, temperature, value = x
    count, dim, rows, anchored = *tokens.shape, x.rows, anchor is not None
    loss, log_z, log_y = (torch.empty(rows, dtype=torch.float32, device=tokens.device) for _ in range(3))
    inverse = torch.empty(count, dtype=torch.float32, device=tokens.device)
    hit = torch.empty(rows if accuracy else 0, dtype=torch.bool, device=tokens.device)
    if rows == 0:
        return loss, log_z, log_y, inverse, hit
    kinds = shift_kinds(temperature, value, normalize)
    shape = (tokens.device, interpreting(), tokens.dtype, count, rows, dim, anchored)
    plan = plan_for(*shape, "halved")
    if anchored or accuracy or not kinds[0] or not halves(rows, dim, plan.row_blocks):
        plan = plan_for(*shape, "forward")
    t = _Tokens(plan, x, normalize, inverse)
    anchor = block if anchor is None else anchor
    learned = temperature is not None
    column_sums = plan.row_blocks // 2 if plan.halved else 0
    splits = plan.splits
    z = torch.empty((splits, rows), dtype=torch.float32, device=tokens.device)
    m = z if kinds == (True,) else torch.empty_like(z)
    rival = torch.empty_like(z) if accuracy else z
    columns = z
    if plan.halved:
        columns = torch.zeros((column_sums, rows), dtype=torch.float32, device=tokens.device)
        launch(halved_kernel, (plan.row_blocks, splits),
            *(t.high, t.low, t.unit, t.shift, block, t.edges, t.temperature, z, columns, rows, splits, value),
            **plan.constants(False, LEARNED=learned),
        )  # fmt: skip
        kinds = kinds[1:]
        tiles = plan_for(*shape, "square") if kinds else plan  # whose edges are the same
    else:
        tiles = plan
    for fixed in kinds:
        launch(forward_kernel, (plan.row_blocks, splits),
            *(t.high, t.low, t.unit, t.shift, block, ring, modality, t.edges, anchor, t.temperature, m, z, rival),
            *(rows, count, splits, value),
            **tiles.constants(False, FIXED=fixed, NORMALIZE=normalize, ACCURACY=accuracy, LEARNED=learned),
        )  # fmt: skip
    flags = {"NORMALIZE": normalize, "ANCHORED": anchored, "ACCURACY": accuracy, "LEARNED": learned, "PLACE": place}
    launch(losses_kernel, plan.row_grid,
        *(t.high, t.low, t.unit, ring, modality, anchor, t.temperature, m, z, columns, rival, loss, log_z, log_y),
        *(hit.view(torch.int8) if accuracy else loss, rows, splits, column_sums, value),
        **plan.constants(True, **flags), TIE=TIE,
    )  # fmt: skip
    return loss, log_z, log_y, inverse, hit


def backward(
    grad: Tensor, x: Inputs, log_z: Tensor, log_y: Tensor, inverse: Tensor, normalize: bool, needs_temperature: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the anchors' tokens, (R, D), and their share of the gradient of the temperature, ()."""
    tokens, modality, block, ring, anchor, temperature, value = x
    count, dim, rows, anchored = *tokens.shape, x.rows, anchor is not None
    d_tokens = torch.empty((rows, dim), dtype=tokens.dtype, device=tokens.device)
    if rows == 0:
        return d_tokens, x.of_temperature.new_zeros(())
    plan = plan_for(tokens.device, interpreting(), tokens.dtype, count, rows, dim, anchored, "backward")
    t = _Tokens(plan, x, normalize, inverse, grad, log_z)
    anchor = block if anchor is None else anchor
    learned = temperature is not None
    scaled = plan.split or tokens.dtype == torch.float16
    largest_grad = torch.linalg.vector_norm(grad, float("inf")) if scaled else t.shift
    largest = t.shift
    if plan.split and not normalize:
        largest = torch.linalg.vector_norm(tokens, dim=1).amax()
    d = torch.empty((plan.splits, rows, plan.stride), dtype=torch.float32, device=tokens.device)
    slopes = slope = t.shift
    if needs_temperature:
        slopes = torch.empty((plan.splits, rows), dtype=torch.float32, device=tokens.device)
        slope = torch.empty(rows, dtype=torch.float32, device=tokens.device)
    flags = {"LEARNED": learned, "SCALED": scaled}
    for fixed in shift_kinds(temperature, value, normalize):
        launch(backward_kernel, (plan.row_blocks, plan.splits, plan.feature_blocks),
            *(t.high, t.low, t.unit, t.shift, block, t.edges, anchor, t.temperature, largest, largest_grad, t.weight),
            *(t.log_z, d, slopes, rows, count, plan.splits, value),
            **plan.constants(False, **flags, FIXED=fixed, NORMALIZE=normalize, SLOPE=needs_temperature),
        )  # fmt: skip
    flags |= {"NORMALIZE": normalize, "ANCHORED": anchored}
    launch(gradients_kernel, plan.row_grid,
        *(d, slopes, t.high, t.low, t.unit, inverse, ring, modality, block, anchor, t.temperature, largest),
        *(largest_grad, grad, log_z, log_y, d_tokens, slope, rows, plan.splits, value),
        **plan.constants(True, **flags, SLOPE=needs_temperature),
    )  # fmt: skip
    if not needs_temperature:
        return d_tokens, x.of_temperature.new_empty(())
    return d_tokens, slope.sum().to(x.of_temperature)
