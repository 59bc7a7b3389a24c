"""The ground of the synthetic landscape: terrain, field parcels, and how 10 m pixels mix them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

__all__ = ["Fields", "Terrain", "make_fields", "make_terrain", "smooth_noise"]


def smooth_noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """(size, size) float32 Gaussian field of unit variance that varies over about ``scale`` pixels."""
    knots = max(4, int(np.ceil(size / scale)) + 3)
    coarse = rng.standard_normal((knots, knots)).astype(np.float32)
    axis = np.arange(size, dtype=np.float32) / scale + 1
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    field: np.ndarray = ndimage.map_coordinates(coarse, [rows, columns], order=3, mode="nearest")
    return np.asarray((field - field.mean()) / (field.std() + 1e-6))


@dataclass(frozen=True)
class Terrain:
    """(H, W) float32 on the 10 m grid: elevation in m, slope to the east and south in m/m, wetness about 0 +- 1."""

    elevation: np.ndarray
    slope_east: np.ndarray
    slope_south: np.ndarray
    wetness: np.ndarray


def make_terrain(rng: np.random.Generator, size: int) -> Terrain:
    """Hills of 1.5 km, 600 m and 200 m; hollows are wet."""
    relief = np.zeros((size, size), dtype=np.float32)
    for height, scale in ((90, 150), (35, 60), (8, 20)):
        relief = relief + height * smooth_noise(rng, size, scale)
    elevation: np.ndarray = (450 + relief).astype(np.float32)
    slope_south, slope_east = (np.asarray(slope) for slope in np.gradient(elevation, 10.0))
    hollow = ndimage.gaussian_filter(elevation, 12) - elevation
    wetness = hollow / hollow.std() * 0.8 + 0.6 * smooth_noise(rng, size, 40)
    return Terrain(elevation, slope_east, slope_south, wetness.astype(np.float32))


@dataclass(frozen=True)
class Fields:
    """Parcels.

    Attributes:
        parcel: (H*k, W*k) int32 parcel number on the fine grid, k fine pixels per 10 m.
        mixing: (H*W, F) sparse, share of every parcel in every 10 m pixel; rows sum to 1.
        centre: (F, 2) row and column of the parcels on the 10 m grid.
    """

    parcel: np.ndarray
    mixing: sparse.csr_array
    centre: np.ndarray

    def __len__(self) -> int:
        return len(self.centre)


def make_fields(rng: np.random.Generator, size: int, fine: int, metres: float) -> Fields:
    """Voronoi parcels of about ``metres`` across with bent borders, over ``size`` pixels of 10 m and a margin.

    ``fine`` is the number of fine pixels per 10 m.
    """
    spacing = metres / 10.0
    aspect = 1.35  # longer than wide, as fields are
    rows = np.arange(-spacing, size + spacing, spacing / aspect)
    columns = np.arange(-spacing, size + spacing, spacing * aspect)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    centre = grid + rng.uniform(-0.42, 0.42, grid.shape) * [spacing / aspect, spacing * aspect]
    bend = np.stack([smooth_noise(rng, size, 12), smooth_noise(rng, size, 12)]) * 0.06 * spacing
    axis = (np.arange(size * fine, dtype=np.float32) + 0.5) / fine
    row, column = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack(
        [(row + bend[0].repeat(fine, 0).repeat(fine, 1)), (column + bend[1].repeat(fine, 0).repeat(fine, 1))], axis=-1
    )
    stretch = np.array([aspect, 1 / aspect])
    _, parcel = cKDTree(centre * stretch).query(points * stretch, workers=-1)
    used, parcel = np.unique(parcel, return_inverse=True)
    parcel = parcel.reshape(size * fine, size * fine).astype(np.int32)
    pixel = np.arange(size * size).reshape(size, size).repeat(fine, 0).repeat(fine, 1)
    share = np.full(parcel.size, 1.0 / fine**2, dtype=np.float32)
    mixing = sparse.coo_array((share, (pixel.ravel(), parcel.ravel())), shape=(size * size, len(used))).tocsr()
    return Fields(parcel, mixing, centre[used])
