"""What every backend of patch InfoNCE is given, in the order of the operators' arguments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Inputs", "Options", "statistics_dtype"]


class Options(NamedTuple):
    """What the losses of several processes are formed by."""

    value: float  # the temperature, where it is no tensor
    exclude: str
    normalize: bool
    accuracy: bool


class Inputs(NamedTuple):
    """Tokens with their tables. Rows are the anchors', R in number; columns are all N tokens."""

    tokens: Tensor  # (N, D), contiguous
    modality: Tensor  # (N,) int32, as the next two: layout.py
    block: Tensor  # (N,)
    ring: Tensor  # (N,)
    anchor: Tensor | None  # (R,) int64: the rows wanted; None: all
    temperature: Tensor | None  # (); None: it is the number ``value``, which no GPU waits for and no graph copies
    value: float

    @property
    def rows(self) -> int:
        """R."""
        return len(self.tokens) if self.anchor is None else len(self.anchor)

    @property
    def of_temperature(self) -> Tensor:
        """A tensor in whose dtype and on whose device the gradient of the temperature is."""
        return self.tokens if self.temperature is None else self.temperature

    def temperature_where_tokens_are(self) -> Inputs:
        """With the temperature on the device of the tokens."""
        if self.temperature is None or self.temperature.device == self.tokens.device:
            return self
        return self._replace(temperature=self.temperature.to(self.tokens.device, non_blocking=True))


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Similarities, log-sum-exps and losses are float32, or float64 for float64 tokens."""
    return torch.float64 if dtype == torch.float64 else torch.float32
