"""The loop for models that train in seconds on what is in memory: a run folder would take longer than the training.

Everything larger trains with :func:`fusion.training.fit`, which resumes, logs and keeps checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["FIRST", "REMEDY", "anything_moves", "descend", "row_batches"]

FIRST = 3  # steps that may move nothing: a single batch may rightly have no label of weight, no date observed
REMEDY = (
    "Pretraining needs something to hide, compare or predict: give more modalities, dates or patches a tile; training "
    "with labels needs tiles that have some, and class weights above 0"
)

Module = TypeVar("Module", bound=nn.Module)


def descend(
    module: Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.01,
    clip: float | None = 1.0,
) -> Module:
    """Takes ``steps`` steps of AdamW with one cycle of the learning rate (Smith & Topin 2018), in training mode.

    Args:
        module: whose parameters that require a gradient are trained; in place.
        loss: ``loss(step)`` is the scalar loss of step 0, 1, ...; it draws its own batch.
        lr: the highest rate, reached after 30 % of the steps.
        weight_decay: of AdamW.
        clip: largest norm of the gradient; None leaves it.

    Returns:
        ``module``, still in training mode.

    Raises:
        ValueError: no step, nothing to train, or a loss that moves no parameter in the first steps.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if steps < 1 or not trained:
        what = f"{steps} steps" if trained else "no parameter that requires a gradient"
        raise ValueError(f"descend: {type(module).__name__} with {what}; at least one of each is needed")
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    module.train()
    moved = False
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        moved = moved or anything_moves(trained)
        if not moved and step + 1 in (FIRST, steps):
            raise ValueError(
                f"descend: nothing would be learned: the gradient of every parameter of {type(module).__name__} was 0 "
                f"in the first {step + 1} steps (loss {float(value.detach()):g}). {REMEDY}"
            )
        if clip is not None:
            nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        schedule.step()
    return module


def anything_moves(parameters: Iterable[Tensor]) -> bool:
    """Whether the gradient of any parameter is there and not 0 everywhere."""
    return any(p.grad is not None and bool(p.grad.any()) for p in parameters)


def row_batches(rows: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of row numbers, (batch_size,) int64 on the CPU; each row once an epoch.

    A batch that an epoch has too few rows for is filled from the next epoch, so that no row is left out. An epoch's
    order is drawn from ``generator`` when its first row is needed.
    """
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(rows, generator=generator)])
        yield order[:batch_size]
        order = order[batch_size:]
