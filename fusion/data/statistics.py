"""Mean and standard deviation per band: what a model normalises with."""

from __future__ import annotations

import numpy as np

from .dataset import TileDataset
from .modality import Modality
from .spacing import evenly_spaced
from .tiles import values_by_band
from .units import require_no_fill

__all__ = ["fit_statistics"]


def fit_statistics(dataset: TileDataset, tiles: int = 1024) -> tuple[Modality, ...]:
    """The data set's modalities with mean and std per band over observed values (evaluation views).

    At most ``tiles`` of them are read, evenly spaced. Sums are float64 and relative to the first tile's mean, so a
    large offset (kelvin, elevation) costs no digits. A constant band gets std 1.

    Raises:
        ValueError: a modality has no observed value in any of these tiles, or one that can only be a fill value.
    """
    count = {m.name: 0 for m in dataset.modalities}
    centre: dict[str, np.ndarray] = {}
    first = {m.name: np.zeros(m.channels) for m in dataset.modalities}
    second = {m.name: np.zeros(m.channels) for m in dataset.modalities}
    chosen = evenly_spaced(len(dataset), tiles)
    for i in chosen:
        tile = dataset[int(i)]
        for name in count:
            values = values_by_band(tile, name)  # (C, n)
            if values is None:
                continue
            require_no_fill(values, name, f"tile {tile.name}")
            values = values.astype(np.float64)
            values -= centre.setdefault(name, values.mean(axis=1, keepdims=True))
            count[name] += values.shape[1]
            first[name] += values.sum(axis=1)
            second[name] += np.square(values).sum(axis=1)
    fitted = []
    for modality in dataset.modalities:
        name = modality.name
        if not count[name]:
            raise ValueError(
                f"modality {name!r} has no observed value in {len(chosen)} tiles, e.g. {dataset.names[0]}: every date "
                "is nodata, NaN or too cloudy. Check the nodata value and the cloud limit, or leave the modality out"
            )
        shift, offset = first[name] / count[name], centre[name].ravel()
        std = np.sqrt(np.maximum(second[name] / count[name] - shift**2, 0))
        std[std <= 1e-6 * np.maximum(np.abs(offset), 1e-12)] = 1.0
        fitted.append(modality.with_statistics(tuple(offset + shift), tuple(std)))
    return tuple(fitted)
