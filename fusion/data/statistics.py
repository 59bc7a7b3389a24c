"""Mean and standard deviation per band: what a model normalises with."""

from __future__ import annotations

import numpy as np
import torch

from .dataset import TileDataset
from .modality import Modality

__all__ = ["fit_statistics"]


def fit_statistics(dataset: TileDataset, tiles: int = 1024) -> tuple[Modality, ...]:
    """The data set's modalities with mean and std per band over observed values (evaluation views).

    At most ``tiles`` of them are read, evenly spaced. Sums are float64 and relative to the first tile's mean, so a
    large offset (kelvin, elevation) costs no digits. A constant band gets std 1.

    Raises:
        ValueError: a modality has no observed value in any of these tiles.
    """
    count = {m.name: 0 for m in dataset.modalities}
    centre: dict[str, torch.Tensor] = {}
    first: dict[str, torch.Tensor] = {}
    second: dict[str, torch.Tensor] = {}
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(tiles, len(dataset))).round().astype(int))
    for i in chosen:
        tile = dataset[int(i)]
        for modality in dataset.modalities:
            name = modality.name
            if name not in tile.values:
                continue
            values = tile.values[name].double()
            if modality.kind == "series":
                values = values[tile.valid[name]]
            values = values.movedim(-3, 0).flatten(1)  # (C, observations)
            if name not in centre:
                centre[name] = values.mean(dim=1, keepdim=True)
                first[name] = second[name] = torch.zeros(modality.channels, dtype=torch.float64)
            values = values - centre[name]
            count[name] += values.shape[1]
            first[name] = first[name] + values.sum(dim=1)
            second[name] = second[name] + values.square().sum(dim=1)
    fitted = []
    for modality in dataset.modalities:
        name = modality.name
        if not count[name]:
            raise ValueError(
                f"modality {name!r} has no observed value in {len(chosen)} tiles, e.g. {dataset.names[0]}: every date "
                "is nodata, NaN or too cloudy. Check the nodata value and the cloud limit, or leave the modality out"
            )
        shift = first[name] / count[name]
        variance = second[name] / count[name] - shift.square()
        std = variance.clamp(min=0).sqrt()
        std[std <= 1e-6 * centre[name].flatten().abs().clamp(min=1e-12)] = 1.0
        fitted.append(modality.with_statistics((centre[name].flatten() + shift).tolist(), std.tolist()))
    return tuple(fitted)
