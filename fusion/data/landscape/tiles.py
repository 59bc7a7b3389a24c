"""The synthetic landscape cut into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..blocks import block_splits
from ..dataset import TileDataset
from ..modality import Modality
from ..series import choose_dates, fill_gaps
from ..tiles import Geo, Tile
from .scene import Landscape
from .vegetation import BANDS, CLASSES

__all__ = ["LandscapeTiles"]


def _modalities(patch: int, fine: int) -> dict[str, Modality]:
    offered = (
        Modality("aerial", "image", ("NIR", "G", "B", "R"), 10 / fine, patch * fine, "8 bit"),
        Modality("s2", "series", BANDS, 10.0, patch, "reflectance x 10000"),
        Modality("s1", "series", ("VV", "VH"), 10.0, patch, "dB"),
        Modality("terrain", "image", ("elevation", "wetness"), 10.0, patch, "m"),
        Modality("temperature", "series", ("mean",), 10.0 * patch, 1, "degC"),
    )
    return {modality.name: modality for modality in offered}


class LandscapeTiles(TileDataset):
    """Tiles of a :class:`Landscape`, with splits ``train``, ``val`` and ``test`` by blocks of ground.

    ===========  ======  ======================================  ===================
    modality     kind    bands                                   unit
    ===========  ======  ======================================  ===================
    aerial       image   near infrared, green, blue, red         8 bit
    s2           series  B02 B03 B04 B05 B06 B07 B08 B8A B11 B12  reflectance x 10000
    s1           series  VV VH                                   dB
    terrain      image   elevation, wetness                      m, index
    temperature  series  daily mean, one value a patch           degC
    ===========  ======  ======================================  ===================

    Days are 0-based days of the year. Pixels under the (imperfect) cloud mask are missing: they take the tile's mean of
    their date and band, and a date with more of them than ``max_cloud`` is left out.

    Args:
        landscape: the scene, or None for the default one.
        modalities: which, in what order; terrain and temperature are not among the default.
        tile: pixels of 10 m per tile side.
        patch: pixels of 10 m per patch side; ``tile // patch`` patches per side.
        stride: pixels between tiles; less than ``tile`` makes them overlap (dense embeddings).
        target: ``"class"`` (majority class), ``"classes"`` (all above 7 % of the tile), ``"biomass"`` (t/ha) or None.
        max_cloud: largest share of cloud, shadow or missing pixels of a usable optical date.
        max_dates: at most so many dates of a series.
        block: tiles per side of a block that belongs to one split as a whole.

    Raises:
        ValueError: tile, patch and landscape do not fit each other, or an unknown target or modality.
    """

    def __init__(
        self,
        landscape: Landscape | None = None,
        modalities: Sequence[str] = ("aerial", "s2", "s1"),
        *,
        tile: int = 8,
        patch: int = 2,
        stride: int | None = None,
        target: Literal["class", "classes", "biomass"] | None = "class",
        max_cloud: float = 0.4,
        max_dates: int | None = None,
        block: int = 8,
    ) -> None:
        self.landscape = landscape = landscape or Landscape()
        stride = stride or tile
        if tile % patch or not 1 <= tile <= landscape.size or stride < 1:
            raise ValueError(
                f"LandscapeTiles: a tile of {tile} pixels must be a multiple of the patch of {patch} and at most the "
                f"landscape's {landscape.size}; stride {stride} at least 1"
            )
        offered = _modalities(patch, landscape.fine)
        unknown = [name for name in modalities if name not in offered]
        if unknown or not modalities:
            raise ValueError(f"LandscapeTiles: modalities {unknown or modalities} unknown; it has {', '.join(offered)}")
        self.tile, self.max_cloud, self.max_dates = tile, max_cloud, max_dates
        steps = np.arange(0, landscape.size - tile + 1, stride)
        self._corners = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        task, classes, labels = self._target(target)
        super().__init__(
            [f"r{row:04d}c{column:04d}" for row, column in self._corners],
            [offered[name] for name in modalities],
            (tile // patch, tile // patch),
            task=task,
            classes=classes,
            labels=labels,
            splits=block_splits(self._corners // tile, block=block, seed=landscape.seed),
        )

    def _target(self, target: str | None) -> tuple[str | None, tuple[str, ...], Tensor | None]:
        if target is None:
            return None, (), None
        if target == "biomass":
            return "regression", ("biomass",), self._tile_mean(self.landscape.biomass[..., None])
        if target not in ("class", "classes"):
            raise ValueError(f"LandscapeTiles: target is 'class', 'classes', 'biomass' or None, not {target!r}")
        share = self._tile_mean(self.landscape.class_share)  # (N, classes)
        if target == "class":
            return "multiclass", CLASSES, share.argmax(dim=1)
        return "multilabel", CLASSES, (share > 0.07).float()

    def _tile_mean(self, field: np.ndarray) -> Tensor:
        """(N, K) float32 mean of a map (H, W, K) over each tile."""
        total = np.pad(field.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
        r0, c0 = self._corners.T
        r1, c1 = r0 + self.tile, c0 + self.tile
        mean = (total[r1, c1] - total[r0, c1] - total[r1, c0] + total[r0, c0]) / self.tile**2
        return torch.from_numpy(mean.astype(np.float32))

    def _place(self, row: int) -> Geo:
        a, b, c, d, e, f = self.landscape.geo.transform
        r, k = self._corners[row]
        return Geo((a, b, c + a * float(k), d, e, f + e * float(r)), self.landscape.crs)

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        tile = Tile(self._names[row], {})
        r, c = (int(v) for v in self._corners[row])
        window = (slice(r, r + self.tile), slice(c, c + self.tile))
        for modality in self.modalities:
            if modality.name == "aerial":
                fine = self.landscape.fine
                area = self.landscape.aerial[:, r * fine : (r + self.tile) * fine, c * fine : (c + self.tile) * fine]
                tile.values["aerial"] = torch.from_numpy(area.astype(np.float32))
            elif modality.name == "terrain":
                terrain = self.landscape.terrain
                tile.values["terrain"] = torch.from_numpy(
                    np.stack([terrain.elevation[window], terrain.wetness[window]])
                )
            elif modality.name == "temperature":
                field = self.landscape.temperature(*window)  # (365, h, w)
                rows, columns = self.grid
                patches = field.reshape(365, 1, rows, self.tile // rows, columns, self.tile // columns)
                tile.values["temperature"] = torch.from_numpy(patches.mean(axis=(3, 5)))
                tile.days["temperature"] = torch.arange(365)
            else:
                self._read_series(tile, modality.name, window, rng)
        return tile

    def _read_series(self, tile: Tile, name: str, window: tuple[slice, slice], rng: np.random.Generator | None) -> None:
        if name == "s1":
            days, series = self.landscape.radar
            clear, quality = None, np.ones(len(days))
        else:
            optical = self.landscape.optical
            days, series = optical.days, optical.values
            clear = optical.clear[(slice(None), *window)]
            quality = clear.mean(axis=(1, 2))
            quality[quality < 1 - self.max_cloud] = 0
        chosen = choose_dates(days, quality, self.max_dates, rng)
        values = series[:, :, window[0], window[1]][chosen].astype(np.float32)
        if clear is not None:
            values = np.where(clear[chosen][:, None], values, np.float32(np.nan))
        values, valid = fill_gaps(values, self.max_cloud)
        tile.values[name] = torch.from_numpy(values)
        tile.days[name] = torch.from_numpy(days[chosen] - 1)
        tile.valid[name] = torch.from_numpy(valid)
