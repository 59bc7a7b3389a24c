"""A model of each kind, and batches for it: two series and two images of a 2x3 grid of 20 m patches, of odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fusion.data import Modality, TileBatch
from fusion.training import SYSTEMS

AERIAL = Modality("aerial", "image", ("R", "G", "B"), 2.0, 10, mean=(3.0, 4.0, 5.0), std=(2.0, 2.0, 2.0))
DEM = Modality("dem", "image", ("height",), 20.0, 1)
S2 = Modality("s2", "series", ("B02", "B03"), 4.0, 5)
S1 = Modality("s1", "series", ("VV",), 10.0, 2)
GRID = (2, 3)

# By kind: the system, what it is given, and what differs from its tiny size.
KINDS: dict[str, tuple[str, tuple[Modality, ...], dict[str, Any]]] = {
    "pse-ltae": ("pse-ltae", (S2, S1), {}),
    "utae": ("utae", (S2, S1), {}),
    "resnet18": ("timm-image", (AERIAL, DEM), {}),
    "vit-tiny": ("timm-image", (AERIAL, DEM), {"backbone": "vit-tiny"}),
    "median": ("timm-image", (AERIAL, S2), {"series": "median"}),
    "mean": ("timm-image", (AERIAL, S2), {"series": "mean"}),
}


def configured(kind: str, **changes: Any) -> Any:
    system, modalities, fields = KINDS[kind]
    return SYSTEMS[system].load("config").preset("tiny", modalities, GRID, **(fields | changes))


def built(kind: str, **changes: Any) -> nn.Module:
    """In training mode, the same weights every time."""
    torch.manual_seed(0)
    return SYSTEMS[KINDS[kind][0]].load("model")(configured(kind, **changes))


def trained(kind: str) -> nn.Module:
    """In evaluation mode, with statistics of batches it has seen."""
    model = built(kind)
    for seed in range(3):
        model(batch(kind, 4, seed=seed))
    return model.eval()


def batch(kind: str, tiles: int = 3, length: int = 5, seed: int = 0) -> TileBatch:
    """Everything that a kind is given, all of it observed."""
    draw = torch.Generator().manual_seed(seed)
    out = TileBatch({}, {}, {}, names=tuple(f"t{i}" for i in range(tiles)))
    for m in KINDS[kind][1]:
        lead = (tiles,) if m.kind == "image" else (tiles, length)
        size = (m.channels, GRID[0] * m.patch_size, GRID[1] * m.patch_size)
        out.values[m.name] = torch.randn(*lead, *size, generator=draw) * 2 + 4
        out.valid[m.name] = torch.ones(lead, dtype=torch.bool)
        if m.kind == "series":
            out.days[m.name] = torch.randint(0, 366, lead, generator=draw).sort(1).values
    return out


def changed(batch: TileBatch, change: Callable[[Tensor], Tensor]) -> TileBatch:
    """The batch with every tensor changed."""
    parts = {
        field: {name: change(tensor) for name, tensor in getattr(batch, field).items()}
        for field in ("values", "days", "valid", "observed")
    }
    return replace(batch, **parts)
