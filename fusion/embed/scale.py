"""Patches of several sizes from one model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from ..data import TileBatch

__all__ = ["at_scale"]


def at_scale(
    model: nn.Module, grid: tuple[int, int], patch_scale: int
) -> tuple[Callable[[TileBatch], Any], tuple[int, int]]:
    """The model as a function of a batch that encodes patches of ``patch_scale`` x ``patch_scale`` of its own, and how
    many of these (rows, columns) a tile has.

    Raises:
        ValueError: the model has patches of one size only, or the scale does not divide the grid.
    """
    if patch_scale == 1:
        return model, grid
    rows, columns = grid
    possible = [k for k in range(1, min(grid) + 1) if rows % k == 0 and columns % k == 0]
    if patch_scale not in possible:
        raise ValueError(
            f"patch_scale {patch_scale} does not divide a tile of {rows} x {columns} patches; "
            f"{', '.join(map(str, possible))} do"
        )
    if "patch_scale" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{type(model).__name__} encodes patches of one size only, its forward has no patch_scale; leave "
            f"patch_scale={patch_scale} out"
        )
    return partial(model, patch_scale=patch_scale), (rows // patch_scale, columns // patch_scale)
