"""Tiles of Tessera's embeddings as GeoTessera stores them.

Source: https://github.com/ucam-eo/geotessera (``dequantize_embedding`` and ``Tile``) and
https://github.com/ucam-eo/zarr-convention-tessera. A tile of 0.1 degrees is named by its centre::

    global_0.1_degree_representation/2024/grid_0.15_52.05/grid_0.15_52.05.npy          int8 (H, W, 128)
    global_0.1_degree_representation/2024/grid_0.15_52.05/grid_0.15_52.05_scales.npy   float32 (H, W)
    global_0.1_degree_tiff_all/grid_0.15_52.05.tiff                                    its place: CRS and transform

A vector is its int8 numbers times the scale of its pixel; a scale that is not finite means no data.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from ...data.opening import open_raster
from .place import coordinates, north_up

if TYPE_CHECKING:
    import xarray

__all__ = ["open_tessera"]

_LANDMASKS = ("global_0.1_degree_tiff_all", "landmasks")
_AXES = ("feature", "y", "x")
_ATTRIBUTES = {"long_name": "embedding", "units": "1", "grid_mapping": "spatial_ref"}


def open_tessera(path: Path, decoded: bool) -> xarray.Dataset:
    """A tile as ``embedding`` (feature, y, x), north up, read where it is used.

    The place is that of the land mask of the same name, which is looked for beside the tile and in the folders above
    it; without one, x and y count pixels, and a warning says so.

    Args:
        path: the ``.npy`` of the embeddings.
        decoded: float32, NaN where there is no data; else the int8 numbers, and ``scale`` (y, x) beside them.

    Raises:
        ValueError: scales are missing, or scales or land mask do not fit the embeddings.
    """
    import xarray

    from .lazy import lazy

    if path.stem.endswith("_scales"):
        raise ValueError(f"{path} holds scales; give {path.name.replace('_scales', '')} beside it")
    scales = path.with_name(f"{path.stem}_scales.npy")
    codes = np.load(path, mmap_mode="r")
    if codes.dtype != np.int8 or codes.ndim != 3:
        raise ValueError(f"{path}: int8 (rows, columns, features) is wanted, this is {codes.dtype} {codes.shape}")
    if not scales.is_file():
        raise ValueError(
            f"{path} holds int8 codes and nothing says how they are decoded: of Tessera's embeddings {scales.name}, "
            "the scale of each pixel, lies beside them"
        )
    factors = np.load(scales, mmap_mode="r")
    rows, columns, dim = codes.shape
    if factors.dtype.kind != "f" or factors.shape not in ((rows, columns), (rows, columns, dim)):
        raise ValueError(
            f"{scales}: floating point {(rows, columns)} is wanted for {codes.shape} codes, this is {factors.dtype} "
            f"{factors.shape}"
        )
    transform, crs, flipped = _place(path, (rows, columns))
    if decoded:
        read = partial(_decoded, path, scales, rows, flipped)
        found: dict[str, Any] = {"embedding": (_AXES, lazy((dim, rows, columns), "float32", read), _ATTRIBUTES)}
    else:
        read = partial(_codes, path, rows, flipped)
        found = {"embedding": (_AXES, lazy((dim, rows, columns), "int8", read), _ATTRIBUTES)}
        scale = np.moveaxis(factors, -1, 0) if factors.ndim == 3 else factors
        found["scale"] = (_AXES[-scale.ndim :], scale[..., ::-1, :] if flipped else scale, {})
    names = np.array([f"T{k:03d}" for k in range(dim)])
    about = {"decode": "value = v * scale", "product": "Tessera"}
    return xarray.Dataset(found, {"feature": names, **coordinates((rows, columns), transform, crs)}, about)


def _place(path: Path, size: tuple[int, int]) -> tuple[Affine | None, str, bool]:
    folders = [path.parent, *(above / name for above in path.parents for name in _LANDMASKS)]
    near = [folder / f"{path.stem}{suffix}" for folder in folders for suffix in (".tiff", ".tif")]
    mask = next((file for file in near if file.is_file()), None)
    if mask is None:
        warnings.warn(
            f"{path}: its land mask {path.stem}.tiff is neither beside it nor in a folder {_LANDMASKS[0]} above it; x "
            "and y count pixels",
            stacklevel=4,
        )
        return None, "", False
    with open_raster(mask) as file:
        if file.shape != size:
            raise ValueError(f"{mask} has {file.shape} pixels, the embeddings {path} have {size}")
        transform, flipped = north_up(file.transform, size[0], str(mask))
        return transform, file.crs.to_wkt() if file.crs else "", flipped


def _codes(path: Path, rows: int, flipped: bool, window: tuple[slice, ...]) -> np.ndarray:
    features, ys, xs = window
    values = np.load(path, mmap_mode="r")[_southwards(ys, rows, flipped), xs, features]
    return np.moveaxis(np.array(values[::-1] if flipped else values), -1, 0)


def _decoded(path: Path, scales: Path, rows: int, flipped: bool, window: tuple[slice, ...]) -> np.ndarray:
    features, ys, xs = window
    factors = np.load(scales, mmap_mode="r")[_southwards(ys, rows, flipped), xs]
    factors = np.array(factors[::-1] if flipped else factors, dtype=np.float32)
    factors = np.moveaxis(factors[..., features], -1, 0) if factors.ndim == 3 else factors[None]
    factors[~np.isfinite(factors)] = np.nan
    return _codes(path, rows, flipped, window).astype(np.float32) * factors


def _southwards(ys: slice, rows: int, flipped: bool) -> slice:
    """The rows of the file that are rows ``ys`` from the north."""
    return slice(rows - ys.stop, rows - ys.start) if flipped else ys
