"""What a model of tiles says, whatever the system: probes, fine-tuning and maps take it from any of them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Encoding"]


class Encoding(NamedTuple):
    """What a model knows of B tiles: one vector each, and one for each of their P patches (raster order)."""

    summary: Tensor  # (B, D)
    patches: Tensor  # (B, P, D)
