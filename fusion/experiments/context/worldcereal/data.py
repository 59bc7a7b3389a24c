"""The WorldCereal patches: their cubes, labels, and which pixels train and test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ....data import FolderDataset
from ....data.folder import Labels, read_cubes
from ....data.folder.labels import open_map

__all__ = ["STRIPES", "open_patches", "stripes"]

STRIPES = 4  # a patch's columns, alternately for training and testing
_SENSORS = {"s2": ["s2", "s2-20m"], "s1": ["s1"], "landsat": ["surface-temperature"]}
_COVER = {"temporary crops": (11,), "permanent crops": (12,), "grassland": (13,), "built-up": (60,), "other": (99,)}


def open_patches(source: str | Path) -> tuple[dict[str, Any], str]:
    """The patches of a folder such as ``worldcereal_patches`` and its monthly cubes, where it has any; ``labels`` has
    the patches' crop types and land cover, as (class of every pixel by patch, names of the classes)."""
    patches = read_cubes("worldcereal", source, _SENSORS)
    monthly = []
    if any(Path(source).glob("*_monthly_*.npz")):
        monthly = read_cubes("worldcereal-monthly", source, {"s2": ["s2"], "s1": ["s1"]}, temporal_window=1)
    labels = _labels(source)
    sizes = ", ".join(
        f"{c.name} ({', '.join(f'{n} {len(s.dates)}' for n, s in c.sensors.items())} dates)" for c in patches
    )
    parts = {"all": patches, "monthly": monthly, "labels": labels}
    kinds = " and ".join(f"{len(classes)} classes of {kind}" for kind, (_, classes) in labels.items())
    shapes = " and ".join(dict.fromkeys(f"{height} x {width}" for height, width in (c.shape for c in patches)))
    return parts, f"{len(patches)} patches of {shapes} pixels: {sizes}; {kinds}"


def _labels(source: str | Path) -> dict[str, tuple[dict[str, np.ndarray], tuple[str, ...]]]:
    """By kind, the class of every pixel by patch, -1 where there is none, and the classes."""
    dataset = FolderDataset("worldcereal", source, ["s1"])
    types = dataset.description.labels
    if not isinstance(types, Labels):
        raise ValueError("the description worldcereal has no maps of labels")
    found = {}
    for kind, described in {"crop type": types, "land cover": replace(types, variable="lc", classes=_COVER)}.items():
        maps = {}
        for scene in dataset.scenes:
            pixels = open_map(described, scene, dataset.opener.files(described.files, scene.name), dataset.opener)
            maps[scene.name] = pixels.read(0, 0, *pixels.size)
        found[kind] = (maps, tuple(described.classes))
    return found


def stripes(shape: tuple[int, int], margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H, W) of training and of test stripes, without those whose windows would reach over a border."""
    column = np.arange(shape[1])
    width = shape[1] // STRIPES
    inner = (column % width >= margin) & (column % width < width - margin)
    training = (column // width) % 2 == 0
    return np.broadcast_to(inner & training, shape), np.broadcast_to(inner & ~training, shape)
