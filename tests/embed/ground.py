"""Smooth ground that is cut into tiles, and models with random weights whose predictions vary over it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Geo, Modality, fit_statistics
from fusion.embed.working import WorkingRaster
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning

GRID, PATCH = (2, 3), 4  # tiles of 8 x 12 pixels of 10 m
HEIGHT, WIDTH = 8, 12
CLASSES = ("water", "oak & beech", "maize")
AERIAL = Modality("aerial", "image", ("red", "green"), 10.0, PATCH)
CRS = "EPSG:32632"


def scene(rows: int = 24, columns: int = 36, seed: int = 0) -> np.ndarray:
    """(2, rows, columns) smooth ground."""
    x, y = np.meshgrid(np.linspace(0, 3, columns), np.linspace(0, 2, rows))
    return np.stack([np.sin(x + y), np.cos(2 * x - y)]).astype(np.float32)


def cut(
    ground: np.ndarray, stride: tuple[int, int], *, placed: bool = True, missing: tuple[int, ...] = ()
) -> ArrayTiles:
    """The tiles of a scene, ``stride`` pixels apart; its upper left corner is at (500, 900)."""
    _, rows, columns = ground.shape
    corners = [
        (top, left)
        for top in range(0, rows - HEIGHT + 1, stride[0])
        for left in range(0, columns - WIDTH + 1, stride[1])
    ]
    values = np.stack([ground[:, top : top + HEIGHT, left : left + WIDTH] for top, left in corners])
    values[list(missing)] = np.nan
    places = [Geo((10.0, 0, 500 + 10.0 * left, 0, -10.0, 900 - 10.0 * top), CRS) for top, left in corners]
    names = [f"r{top}_c{left}" for top, left in corners]
    return ArrayTiles([AERIAL], {"aerial": values}, grid=GRID, names=names, places=places if placed else None)


def finetuned(
    tiles: ArrayTiles, task: str, classes: tuple[str, ...], *, grid: tuple[int, int] = GRID, **settings
) -> Finetuning:
    """A model with random weights, whose predictions vary over the ground."""
    torch.manual_seed(0)
    config = OmniSatConfig.preset("tiny", fit_statistics(tiles), grid, dim=16, mlp_dim=32, heads=2, series_heads=2)
    module = Finetuning(OmniSat(config), task, classes, **settings)
    with torch.no_grad():
        last = list(module.head.parameters())[-2]  # the weights of the last layer; the bias follows
        last *= 10 / last.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return module.eval()


def stop_at(patch: pytest.MonkeyPatch, strip: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """The next map stops when it has computed a strip, before that is noted."""
    noted = WorkingRaster._note

    def note(self, entry):
        if entry.get("strip") == strip:
            raise error("stopped")
        noted(self, entry)

    patch.setattr(WorkingRaster, "_note", note)
