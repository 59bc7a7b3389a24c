"""Statistics of a modality's bands, in the shape that images and series are standardised with."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.modality import Modality

__all__ = ["band_statistics"]


def band_statistics(modality: Modality) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every band, (C, 1, 1) float32 each; 0 and 1 where unknown, deviations never 0."""
    mean = torch.tensor(modality.mean or (0.0,) * modality.channels)
    std = torch.tensor(modality.std or (1.0,) * modality.channels).clamp_min(1e-12)
    return mean[:, None, None], std[:, None, None]
