"""The synthetic landscape cut into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from ..blocks import block_splits
from ..dataset import Task, TileDataset
from ..limits import check_count, check_share
from ..modality import Modality
from ..series import choose_dates, fill_gaps
from ..tiles import Geo, Tile
from .climate import LATITUDE
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
        Modality("location", "image", ("latitude", "longitude"), 10.0 * patch, 1, "degrees"),
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
    location     image   latitude, longitude, one value a patch  degrees
    ===========  ======  ======================================  ===================

    Days count from 1 January of the landscape's year. Pixels under the (imperfect) cloud mask are missing: they take
    the tile's mean of their date and band, and a date with more of them than ``max_cloud`` is left out.

    Args:
        landscape: the scene, or None for the default one.
        modalities: which, in what order; terrain, temperature and location are not among the default.
        tile: pixels of 10 m per tile side.
        patch: pixels of 10 m per patch side; ``tile // patch`` patches per side.
        stride: pixels between tiles; less than ``tile`` makes them overlap (dense embeddings).
        target: ``"class"`` (majority class), ``"classes"`` (all above 7 % of the tile), ``"biomass"`` (t/ha),
            ``"production"`` (gross primary production of the year, kg C m-2 a-1) or None.
        max_cloud: largest share of cloud, shadow or missing pixels of a usable optical date.
        max_dates: at most so many dates of a series.
        block: tiles per side of a block that belongs to one split as a whole.
        latitudes: lowest and highest latitude, degrees north. Each block of ground is moved to a latitude drawn between
            them by the landscape's seed; location, temperature and production follow, ground and sensors stay. None
            leaves all where they are.
        snow: K by which a snow cover cools open ground, see
            :func:`~fusion.data.landscape.climate.air_temperature`.

    Attributes:
        latitude: (N,) float64 degrees north, that temperature and production go by.

    Raises:
        ValueError: tile, patch and landscape do not fit each other, an unknown target or modality, or latitudes that
            are none.
    """

    def __init__(
        self,
        landscape: Landscape | None = None,
        modalities: Sequence[str] = ("aerial", "s2", "s1"),
        *,
        tile: int = 8,
        patch: int = 2,
        stride: int | None = None,
        target: Literal["class", "classes", "biomass", "production"] | None = "class",
        max_cloud: float = 0.4,
        max_dates: int | None = None,
        block: int = 8,
        latitudes: tuple[float, float] | None = None,
        snow: float = 0.0,
    ) -> None:
        self.landscape = landscape = landscape or Landscape()
        for name, value in (("tile", tile), ("patch", patch), ("block", block)):
            check_count("LandscapeTiles", name, value)
        check_count("LandscapeTiles", "stride", stride, optional=True)
        check_count("LandscapeTiles", "max_dates", max_dates, optional=True)
        check_share("LandscapeTiles", "max_cloud", max_cloud)
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
        self.tile, self.max_cloud, self.max_dates, self.block = tile, max_cloud, max_dates, block
        steps = np.arange(0, landscape.size - tile + 1, stride)
        self._corners = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        self.snow, self.latitude = snow, self._latitudes(latitudes, self._corners // (tile * block))
        self._moved = latitudes is not None
        self._location = self._coordinates() if "location" in modalities else np.empty((0, 2), np.float32)
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

    def air(self, i: int, *, raised: float = 0.0, north: float = 0.0, trees_of: int | None = None) -> np.ndarray:
        """(365,) mean air temperature of tile ``i`` of this view in degC: the truth behind its ``temperature``.

        With the arguments, what it would be had the tile been ``raised`` by some m, moved ``north`` by some degrees, or
        grown the trees of the tile ``trees_of`` of this view: what a counterfactual should find.
        """
        row = int(self._rows[i])
        trees = None if trees_of is None else self.landscape.trees[self._window(int(self._rows[trees_of]))]
        latitude = self.latitude[row] + north
        air = self.landscape.temperature(
            *self._window(row), latitude, snow=self.snow, raised=raised, trees=trees
        )  # (365, h, w)
        mean: np.ndarray = air.mean(axis=(1, 2))
        return mean

    def tree_share(self) -> np.ndarray:
        """(N,) share of orchard and forest of each tile of this view."""
        return self._tile_mean(self.landscape.trees[..., None])[self._rows, 0].numpy()

    def _target(self, target: str | None) -> tuple[Task | None, tuple[str, ...], Tensor | None]:
        if target is None:
            return None, (), None
        if target == "biomass":
            return "regression", ("biomass",), self._tile_mean(self.landscape.biomass[..., None])
        if target == "production":
            return "regression", ("production",), self._yearly_production()
        if target not in ("class", "classes"):
            known = "'class', 'classes', 'biomass', 'production'"
            raise ValueError(f"LandscapeTiles: target is {known} or None, not {target!r}")
        share = self._tile_mean(self.landscape.class_share)  # (N, classes)
        if target == "class":
            return "multiclass", CLASSES, share.argmax(dim=1)
        return "multilabel", CLASSES, (share > 0.07).float()

    def _block(self, row: int) -> str:
        down, across = self._corners[row] // self.tile // self.block
        return f"{down}-{across}"

    def _latitudes(self, between: tuple[float, float] | None, block: np.ndarray) -> np.ndarray:
        """(N,) latitude of each tile from (N, 2) row and column of its block."""
        if between is None:
            return np.full(len(block), LATITUDE)
        low, high = between
        if not 0 <= low <= high <= 70:  # the formula of the season is of northern land
            raise ValueError(f"LandscapeTiles: latitudes are (lowest, highest) within 0 to 70, not {tuple(between)}")
        _, number = np.unique(block, axis=0, return_inverse=True)
        rng = np.random.default_rng((self.landscape.seed, crc32(b"latitudes")))
        drawn: np.ndarray = rng.uniform(low, high, number.max() + 1)
        return drawn[number.ravel()]

    def _coordinates(self) -> np.ndarray:
        """(N, 2) float32 latitude and longitude of the centres of the tiles; blocks move along their meridian."""
        from rasterio.warp import transform

        a, _, c, _, e, f = self.landscape.geo.transform
        row, column = (self._corners + self.tile / 2).T
        east, north = transform(self.landscape.crs, "EPSG:4326", c + a * column, f + e * row)
        return np.stack([self.latitude if self._moved else north, east], axis=1).astype(np.float32)

    def _window(self, row: int) -> tuple[slice, slice]:
        """Rows and columns of tile ``row`` on the 10 m grid."""
        r, c = (int(v) for v in self._corners[row])
        return slice(r, r + self.tile), slice(c, c + self.tile)

    def _yearly_production(self) -> Tensor:
        """(N, 1) float32 in kg C m-2 a-1, from every fifth day."""
        days = np.arange(3, 366, 5)
        daily = [
            self.landscape.production(days, *self._window(n), latitude=latitude, snow=self.snow).mean()
            for n, latitude in enumerate(self.latitude)
        ]
        return torch.from_numpy(np.array(daily, dtype=np.float32)[:, None] * 0.365)

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
        tile = Tile(self._names[row], {}, origin=np.datetime64(f"{self.landscape.year:04d}-01-01", "D"))
        window = self._window(row)
        for modality in self.modalities:
            if modality.name == "aerial":
                r, c = (slice(side.start * self.landscape.fine, side.stop * self.landscape.fine) for side in window)
                tile.values["aerial"] = torch.from_numpy(self.landscape.aerial[:, r, c].astype(np.float32))
            elif modality.name == "terrain":
                terrain = self.landscape.terrain
                tile.values["terrain"] = torch.from_numpy(
                    np.stack([terrain.elevation[window], terrain.wetness[window]])
                )
            elif modality.name == "temperature":
                field = self.landscape.temperature(*window, self.latitude[row], snow=self.snow)  # (365, h, w)
                rows, columns = self.grid
                patches = field.reshape(365, 1, rows, self.tile // rows, columns, self.tile // columns)
                tile.values["temperature"] = torch.from_numpy(patches.mean(axis=(3, 5)))
                tile.days["temperature"] = torch.arange(365)
            elif modality.name == "location":
                place = torch.from_numpy(self._location[row])
                tile.values["location"] = place[:, None, None].expand(2, *self.grid).contiguous()
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
