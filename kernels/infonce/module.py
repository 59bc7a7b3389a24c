"""Patch InfoNCE as a module, with a temperature that can learn."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_options
from .op import patch_info_nce

__all__ = ["PatchInfoNCE"]


class PatchInfoNCE(nn.Module):
    """:func:`patch_info_nce` as a module.

    Args:
        temperature: start value; kept as it is unless ``learn_temperature``.
        learn_temperature: make ``log_temperature`` a parameter (its exponential is the temperature).
        exclude, normalize, reduction, group, return_accuracy: as in :func:`patch_info_nce`.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learn_temperature: bool = False,
        exclude: str = "tile",
        normalize: bool = True,
        reduction: str = "mean",
        group: Any = None,
        return_accuracy: bool = False,
    ) -> None:
        super().__init__()
        check_options("PatchInfoNCE", temperature, exclude, reduction)
        self.temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None
        self.exclude, self.normalize, self.reduction = exclude, normalize, reduction
        self.group, self.return_accuracy = group, return_accuracy

    def forward(self, tokens: Tensor, *, valid: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """tokens (M, B, P, D), valid (M, B, P) or (M, B)."""
        learned = self.log_temperature
        return patch_info_nce(
            tokens,
            temperature=self.temperature if learned is None else learned.exp(),
            valid=valid,
            exclude=self.exclude,
            normalize=self.normalize,
            reduction=self.reduction,
            group=self.group,
            return_accuracy=self.return_accuracy,
        )

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, exclude={self.exclude!r}, reduction={self.reduction!r}"
