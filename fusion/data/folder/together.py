"""Many tiles of a scene read at once: a file is asked for a row of tiles, not for each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..modality import Modality
from ..series import fill_gaps
from ..tiles import Geo, TileBatch
from .layer import Layer
from .scene import Scene
from .tiling import Corner

__all__ = ["as_batch", "read_together"]


def read_together(
    scene: Scene,
    modalities: Sequence[Modality],
    corners: Sequence[Corner],
    side: float,
    grid: tuple[int, int],
    max_dates: int | None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]] | None:
    """Values, days and valid of all tiles, as their evaluation views have them; None where tiles of the scene differ in
    their dates, because a mask says which are good.

    Args:
        corners: of tiles of this scene.
        side: of a tile in metres.

    Returns:
        by modality (B, C, H, W) or (B, L, C, H, W) with 0 where not valid, (B, L), and (B,) or (B, L).
    """
    values: dict[str, np.ndarray] = {}
    days: dict[str, np.ndarray] = {}
    valid: dict[str, np.ndarray] = {}
    for modality in modalities:
        layer = scene.layers.get(modality.name)
        if layer is None:
            continue
        if layer.mask is not None:
            return None
        chosen = None
        if layer.source.kind == "series":
            all_days = scene.days(layer)
            chosen = layer.pick(all_days, layer.complete, max_dates)
            if not len(chosen):
                continue
            days[modality.name] = all_days[chosen]
        read = np.concatenate([*_windows(layer, chosen, corners, side)])  # (B, L, C, h, w)
        filled, good = fill_gaps(
            read.reshape(-1, *read.shape[2:]), layer.source.max_cloud, name=modality.name
        )  # (B * L, C, h, w), (B * L,)
        filled, good = filled.reshape(read.shape), good.reshape(read.shape[:2])
        filled[~good] = 0
        if not layer.source.spatial:
            filled = np.broadcast_to(filled, (*filled.shape[:3], *grid)).copy()
        single = layer.source.kind == "image"
        values[modality.name] = filled[:, 0] if single else filled
        valid[modality.name] = good[:, 0] if single else good
    return values, days, valid


def _windows(layer: Layer, dates: np.ndarray | None, corners: Sequence[Corner], side: float) -> Iterator[np.ndarray]:
    """(b, L, C, h, w) of neighbours along a row, in the order of the tiles."""
    if layer.extent is None:
        yield np.repeat(layer.values(dates, (0, 0, 1, 1))[None], len(corners), axis=0)
        return
    pixels = round(side / layer.resolution)
    places = np.array([[round(m / layer.resolution) for m in corner[1:]] for corner in corners])  # (B, 2) row, column
    steps = np.diff(places, axis=0)
    apart = np.flatnonzero((steps[:, 0] != 0) | (steps[:, 1] < 0) | (steps[:, 1] > pixels)) + 1
    for group in np.split(places, apart):
        (row, left), right = group[0], group[-1, 1] + pixels
        ground = layer.values(dates, (int(row), int(left), pixels, int(right - left)))  # (L, C, h, W)
        yield np.stack([ground[..., column - left : column - left + pixels] for column in group[:, 1]])


def as_batch(
    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]],
    names: Sequence[str],
    places: Sequence[Geo | None],
    origin: np.datetime64 | None,
) -> tuple[list[bool], TileBatch | None]:
    """Which of the tiles have any observation, and these as one batch, as :func:`fusion.data.collate` makes it."""
    values, days, valid = parts
    has: dict[str, np.ndarray] = {}  # (B,) each
    for name, good in valid.items():
        has[name] = np.asarray(good.reshape(len(names), -1).any(axis=1))
    observed: np.ndarray = np.any([np.zeros(len(names), dtype=bool), *has.values()], axis=0)
    kept = np.flatnonzero(observed).tolist()
    if not len(kept):
        return observed.tolist(), None
    batch = TileBatch({}, {}, {}, None, tuple(names[i] for i in kept), tuple(places[i] for i in kept))
    batch.origin = (origin,) * len(kept)
    for name, good in valid.items():
        if not has[name][kept].any():
            continue
        batch.values[name] = torch.from_numpy(np.ascontiguousarray(values[name][kept]))
        batch.valid[name] = torch.from_numpy(good[kept])
        if name in days:
            own = np.where(has[name][kept, None], days[name], 0)
            batch.days[name] = torch.from_numpy(own)
    return observed.tolist(), batch
