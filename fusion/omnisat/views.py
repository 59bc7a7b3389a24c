"""Two views of every series of a tile: the dates that the model is given, and those that are hidden from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..data.tiles import TileBatch

__all__ = ["split_dates"]


def split_dates(batch: TileBatch, hidden: Mapping[str, Tensor]) -> tuple[TileBatch, TileBatch]:
    """The batch with the dates that are not hidden, and its series alone with those that are."""
    given = replace(batch, valid={n: v & ~hidden[n] if n in hidden else v for n, v in batch.valid.items()})
    return given, replace(batch.select(list(hidden)), valid=dict(hidden))
