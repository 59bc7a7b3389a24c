"""Data sets with the samples of torchgeo, and terratorch's registry of backbones; neither can be installed without
torchvision."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Set
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

WEST, NORTH = 500_000.0, 5_600_000.0


class Crops:
    """As torchgeo's data sets without places, of PASTIS's kind: image (T, C, H, W), mask (H, W)."""

    bands = ("B02", "B03", "B04", "B05", "B08")

    def __init__(self, count: int = 6) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(200, 3000, (count, 3, 5, 10, 12)).astype(np.float32)
        self.masks = rng.integers(0, 3, (count, 10, 12))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.from_numpy(self.images[index]), "mask": torch.from_numpy(self.masks[index])}


class Scene:
    """As torchgeo's RasterDataset: asked by slices of place and time, which samples say by ``transform`` and ``bounds``
    (from 0.9 on) or by ``bounds`` and ``crs`` (0.8)."""

    crs = SimpleNamespace(to_string=lambda: "EPSG:32631")

    def __init__(self, form: str) -> None:
        self.form = form
        self.values = np.random.default_rng(1).uniform(20, 230, (2, 96, 96)).astype(np.float32)

    def __getitem__(self, query: tuple[slice, slice, slice]) -> dict[str, Any]:
        x, y, t = query
        left, right = (round((side - WEST) / 2.5) for side in (x.start, x.stop))
        top, bottom = (round((NORTH - side) / 2.5) for side in (y.stop, y.start))
        sample = {"image": torch.from_numpy(self.values[:, top:bottom, left:right])}
        if self.form == "0.8":
            return sample | {"crs": self.crs, "bounds": query}
        times = [t.start.timestamp(), t.stop.timestamp(), 1.0]
        bounds = torch.tensor([x.start, x.stop, 2.5, y.start, y.stop, 2.5, *times], dtype=torch.float64)
        transform = torch.tensor([2.5, 0, x.start, 0, -2.5, y.stop, 0, 0, 1], dtype=torch.float64)
        return sample | {"bounds": bounds, "transform": transform}


def query(row: int, column: int, side: float = 80.0) -> tuple[slice, slice, slice]:
    """The square of ``side`` metres at a row and a column of pixels of 2.5 m."""
    west, north = WEST + 2.5 * column, NORTH - 2.5 * row
    day = datetime.datetime(2021, 6, 3, tzinfo=datetime.UTC)
    time = slice(day, day + datetime.timedelta(hours=23), 1)
    return slice(west, west + side, 2.5), slice(north - side, north, 2.5), time


class Registry(Set):
    """As ``terratorch.registry.Registry``: constructors by their ``__name__``."""

    def __init__(self) -> None:
        self._registry: dict[str, Callable[..., Any]] = {}

    def register(self, constructor: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(constructor):
            raise TypeError("a function or a class is registered")
        self._registry[constructor.__name__] = constructor
        return constructor

    def build(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._registry[name](*args, **kwargs)

    def __iter__(self):
        return iter(self._registry)

    def __len__(self) -> int:
        return len(self._registry)

    def __contains__(self, name: object) -> bool:
        return name in self._registry
