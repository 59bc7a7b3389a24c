"""The last look at a tile before anybody uses it, the same for every reader."""

from __future__ import annotations

import numpy as np
import torch

from .modality import Modality
from .series import without_infinite
from .tiles import Tile

__all__ = ["admit"]


def admit(tile: Tile, modality: Modality, grid: tuple[int, int]) -> None:
    """Lets only finite values of the promised shape through.

    A date with a non-finite value is zeroed and marked; an image, or a series without a usable date, is absent.
    """
    name = modality.name
    if name not in tile.values:
        return
    values = tile.values[name]
    size = (grid[0] * modality.patch_size, grid[1] * modality.patch_size)
    dims = 3 if modality.kind == "image" else 4
    if values.ndim != dims or values.shape[-3] != modality.channels or tuple(values.shape[-2:]) != size:
        raise ValueError(
            f"tile {tile.name}: {name!r} has shape {tuple(values.shape)}; its modality says a {modality.kind} of "
            f"{modality.channels} bands ({', '.join(modality.bands)}) and {size[0]} x {size[1]} pixels"
        )
    if name in tile.observed and tile.observed[name].shape != values.shape:
        raise ValueError(
            f"tile {tile.name}: {name!r} has values of shape {tuple(values.shape)} and observed of shape "
            f"{tuple(tile.observed[name].shape)}; they must be the same"
        )
    # NumPy, because torch would wake its threads for each tile, in each worker.
    finite = np.isfinite(values.numpy())
    whole = bool(finite.all())
    if not whole:
        tile.values[name] = values = torch.from_numpy(without_infinite(values.numpy(), name))
    if modality.kind == "image":
        if not whole:
            del tile.values[name]
            tile.observed.pop(name, None)
        return
    days = tile.days.get(name)
    if days is None or len(days) != len(values):
        raise ValueError(
            f"tile {tile.name}: {name!r} has {len(values)} dates of data and "
            f"{'no' if days is None else len(days)} days; they must match one to one"
        )
    of_date = finite.all(axis=(1, 2, 3))  # (L,)
    valid = tile.valid[name].numpy() & of_date if name in tile.valid else of_date
    if not valid.any():
        for part in (tile.values, tile.days, tile.valid, tile.observed):
            part.pop(name, None)
        return
    if not whole:
        values = torch.from_numpy(np.where(of_date[:, None, None, None], values.numpy(), values.numpy().dtype.type(0)))
    tile.values[name], tile.valid[name] = values, torch.from_numpy(valid)
