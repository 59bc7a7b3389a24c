"""A model as a function of plain tensors, with all that stands between a user's numbers and its answer inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..context import ContextFusion
from ..data import TileBatch
from ..embed.scale import at_scale
from ..training.systems import config_of
from .signature import Tensors

__all__ = ["PlainEncoder", "PlainHead"]

_MISSING = 0.5  # largest share of missing pixels of a date that is used, as readers have it


class _Plain(nn.Module):
    """What both have in common: tensors become a batch as readers would make it."""

    def batch(self, values: Tensors, days: Tensors, valid: Tensors, *, gaps: bool) -> TileBatch:
        """
        Args:
            gaps: whether the model knows of pixels that were not observed; else they get a mean.
        """
        if gaps:
            observed = {name: one.isfinite() for name, one in values.items()}
            filled = {name: torch.where(observed[name], one, 0.0) for name, one in values.items()}
            return TileBatch(filled, days, dict(valid), observed=observed)
        filled, used = {}, {}
        for name, one in values.items():
            filled[name], there = _fill_gaps(one)
            used[name] = valid[name] & there
        return TileBatch(filled, days, used)


class PlainEncoder(_Plain):
    """Values, days and valid by modality -> embeddings of patches (B, P, D).

    Args:
        model: of any system.
        patch_scale: embed patches of so many of the model's patches per side.

    Raises:
        ValueError: a scale that the model does not have.
    """

    def __init__(self, model: nn.Module, patch_scale: int = 1) -> None:
        super().__init__()
        self.model = model
        self.gaps = isinstance(model, ContextFusion)
        grid = (1, 1) if self.gaps else tuple(config_of(model).grid)
        self._scaled, self.grid = at_scale(model, (grid[0], grid[1]), patch_scale)

    def forward(self, values: Tensors, days: Tensors, valid: Tensors) -> Tensor:
        """(B, P, D) float32, patches in raster order."""
        encoded: Any = self._scaled(self.batch(values, days, valid, gaps=self.gaps))
        patches: Tensor = encoded.patches
        return patches.float()


class PlainHead(_Plain):
    """Values, days and valid by modality -> probabilities of classes, or quantities in their unit.

    Args:
        module: a fine-tuned module, a probe or an ensemble.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.task = module, module.task

    def forward(self, values: Tensors, days: Tensors, valid: Tensors) -> Tensor:
        """(B, K), or (B, K, H, W) of a model of maps; float32."""
        out: Tensor = self.module(self.batch(values, days, valid, gaps=False)).float()
        if self.task == "regression":
            return out
        return out.softmax(1) if self.task == "multiclass" else out.sigmoid()


def _fill_gaps(values: Tensor) -> tuple[Tensor, Tensor]:
    """(..., C, H, W) with NaN -> without, missing pixels at the mean of band and date, and (...) whether enough were
    observed: :func:`fusion.data.series.fill_gaps` as a graph."""
    seen = values.isfinite()
    share = 1 - seen.float().mean((-2, -1))  # (..., C)
    enough = (share <= _MISSING).all(-1)
    total = torch.where(seen, values, 0.0).sum((-2, -1), dtype=torch.float64)
    mean = (total / seen.sum((-2, -1)).clamp_min(1)).to(values.dtype)
    filled = torch.where(seen, values, mean[..., None, None])
    return filled.masked_fill(~enough[..., None, None, None], 0.0), enough
