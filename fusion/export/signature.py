"""What an exported model takes: tensors by modality, their axes, and which of these are of any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from ..context import ContextFusion
from ..data import Modality
from ..training.systems import config_of

__all__ = ["Input", "dynamic_shapes", "examples", "inputs_of"]

Tensors = dict[str, Tensor]
_BATCH = 3  # of the example; all of its lengths differ, so that none is taken for another


@dataclass(frozen=True)
class Input:
    """The values of one modality of B tiles.

    Attributes:
        dates: of a series, how many; None for any number.
        size: rows and columns of pixels.
    """

    modality: Modality
    size: tuple[int, int]
    dates: int | None = None

    @property
    def series(self) -> bool:
        return self.modality.kind == "series"

    def shape(self, batch: Any, dates: Any) -> tuple[Any, ...]:
        """(B, L, C, H, W) of a series, (B, C, H, W) of an image."""
        over = (self.dates or dates,) if self.series else ()
        return (batch, *over, self.modality.channels, *self.size)


def inputs_of(model: nn.Module, modalities: Sequence[str] = ()) -> list[Input]:
    """What a model takes, in its order.

    Args:
        modalities: only these; none for all.

    Raises:
        ValueError: a modality that the model does not have.
    """
    config = config_of(model)
    known = [m.name for m in config.modalities]
    strange = [name for name in modalities if name not in known]
    if strange:
        raise ValueError(f"export: the model has no {', '.join(strange)}; it has {', '.join(known)}")
    wanted = [m for m in config.modalities if not modalities or m.name in modalities]
    if isinstance(model, ContextFusion):  # a tile is a pixel's window on one date, with the frames around it
        frames = {sensor.modality.name: sensor.frames for sensor in model.config.sensors}
        return [Input(m, (m.patch_size, m.patch_size), frames[m.name]) for m in wanted]
    rows, columns = config.grid
    return [Input(m, (rows * m.patch_size, columns * m.patch_size)) for m in wanted]


def examples(inputs: Sequence[Input], device: torch.device) -> tuple[Tensors, Tensors, Tensors]:
    """Values, days and valid of a few tiles on which a model is traced."""
    values: Tensors = {}
    days: Tensors = {}
    valid: Tensors = {}
    for number, one in enumerate(inputs):
        name, dates = one.modality.name, one.dates or _BATCH + 1 + number
        mean = torch.tensor(one.modality.mean or (0.0,) * one.modality.channels, device=device)[:, None, None]
        values[name] = mean.expand(one.shape(_BATCH, dates)).contiguous()
        valid[name] = torch.ones((_BATCH, dates) if one.series else (_BATCH,), dtype=torch.bool, device=device)
        if one.series:
            days[name] = (torch.arange(dates, device=device) * 10).expand(_BATCH, -1).contiguous()
    return values, days, valid


def dynamic_shapes(inputs: Sequence[Input]) -> dict[str, dict[str, dict[int, Any]]]:
    """Which axes are of any length: tiles, and of tiles of any number of dates those, by modality."""
    batch = Dim("batch", min=1)
    axes: dict[str, dict[int, Any]] = {}
    for number, one in enumerate(inputs):
        axes[one.modality.name] = {0: batch}
        if one.series and one.dates is None:
            axes[one.modality.name][1] = Dim(f"dates{number}", min=1)
    return {"values": axes, "days": {one.modality.name: axes[one.modality.name] for one in inputs if one.series}} | {
        "valid": axes
    }
