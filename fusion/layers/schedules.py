"""Learning-rate schedules, in the form Lightning takes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import LRSchedulerConfigType

__all__ = ["plateau", "warmup_cosine"]


def plateau(optimizer: torch.optim.Optimizer, patience: int, factor: float) -> LRSchedulerConfigType:
    """Times ``factor`` whenever ``val/loss`` has not improved for ``patience`` epochs."""
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=patience, factor=factor)
    return {"scheduler": scheduler, "monitor": "val/loss", "interval": "epoch", "strict": False}


def warmup_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> LRSchedulerConfigType:
    """Rises linearly over a share ``warmup`` of all ``steps``, then falls to zero along half a cosine."""
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be a share of the steps in [0, 1), not {warmup}")
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))

    return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}
