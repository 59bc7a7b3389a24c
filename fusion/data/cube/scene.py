"""One scene of a described folder: its files, checked against the description, and windows read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..tiles import Geo
from .calendar import parse_dates
from .description import AXES, Description, Labels, Mask, Source
from .place import locate
from .stores import Arrays, TiffStack, text

__all__ = ["Layer", "Scene", "open_scene", "read_map"]


@dataclass
class Layer:
    """One modality of one scene.

    Attributes:
        array: with the axes of the source, in memory or on disk.
        bands: positions of the bands to use along the band axis.
        dates: (L,) datetime64[D]; None for an image.
        available: (L, bands) bool.
        mask: array of the mask, and the position of its band or None.
    """

    source: Source
    path: Path
    array: Any
    names: tuple[str, ...]
    bands: list[int]
    dates: np.ndarray | None = None
    year_known: bool = True
    available: np.ndarray | None = None
    mask: Any = None
    mask_band: int | None = None

    @property
    def extent(self) -> tuple[float, float] | None:
        """Height and width in metres."""
        if not self.source.spatial:
            return None
        shape = dict(zip(self.source.axes, self.array.shape, strict=True))
        return shape["y"] * self.source.resolution, shape["x"] * self.source.resolution

    def values(self, dates: np.ndarray | None, window: tuple[int, int, int, int]) -> np.ndarray:
        """(L, bands, h, w) float32 physical values of some dates in a window (row, column, h, w), NaN where not
        observed; L is 1 for an image (no dates), h and w are 1 for weather."""
        source = self.source
        raw = _window(self.array, source.axes, dates, window)[:, self.bands]
        values = raw.astype(np.float32)
        missing = np.isin(raw, source.nodata)
        if source.range is not None:
            missing |= (raw < source.range[0]) | (raw > source.range[1])
        if source.decibels is not None:
            missing |= raw <= 0
            values = source.decibels * np.log10(np.where(missing, 1, values)) + source.offset
        elif (source.scale, source.offset) != (1, 0):
            values = values * source.scale + source.offset
        if dates is not None and self.available is not None:
            missing |= ~self.available[dates][:, :, None, None]
        return np.where(missing, np.nan, values).astype(np.float32)

    def empty_dates(self) -> int:
        """How many dates have data in less than 5 % of the pixels; of a central window, if the array is on disk."""
        shape = dict(zip(self.source.axes, self.array.shape, strict=True))
        height, width = shape.get("y", 1), shape.get("x", 1)
        window = (0, 0, height, width)
        if not isinstance(self.array, np.ndarray):
            side = min(64, height, width)
            window = ((height - side) // 2, (width - side) // 2, side, side)
        lacking = 0
        for date in range(len(self.dates)):
            missing = np.isnan(self.values(np.array([date]), window))
            lacking += bool(missing.mean() >= 0.95)
        return lacking

    def clear(self, dates: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
        """(L, h, w) bool in a window of the mask's own pixels."""
        mask = self.source.mask
        axes = AXES if self.mask_band is not None else ("time", "y", "x")
        values = _window(self.mask, axes, dates, window)[:, self.mask_band or 0]
        return np.isin(values, mask.classes) if mask.classes else values <= mask.at_most


def _window(
    array: Any, axes: tuple[str, ...], dates: np.ndarray | None, window: tuple[int, int, int, int]
) -> np.ndarray:
    """(L, band, h, w), whatever the order of the axes; a lacking axis has length 1."""
    row, column, height, width = window
    part = {"time": slice(None), "band": slice(None), "y": slice(row, row + height), "x": slice(column, column + width)}
    left = list(axes)
    if dates is None or isinstance(array, np.ndarray):
        values = np.asarray(array[tuple(part[axis] for axis in axes)])
        if dates is not None:
            values = values.take(dates, axis=axes.index("time"))
    else:  # on disk: only these dates
        picked = [array[tuple({**part, "time": int(date)}[axis] for axis in axes)] for date in dates]
        values = np.stack([np.asarray(v) for v in picked])
        left = ["time", *(axis for axis in axes if axis != "time")]
    missing = [axis for axis in AXES if axis not in left]
    values = values.reshape(*values.shape, *[1] * len(missing))
    return values.transpose([(left + missing).index(axis) for axis in AXES])


@dataclass
class Scene:
    """
    Attributes:
        layers: by modality; one that this scene lacks is absent.
        extent: height and width in metres that every layer covers.
        geo: of a grid of 1 m (by the description's metres) at the upper left corner.
        flipped: row 0 is south in the arrays.
        origin: 1 January of the year in which the scene's series begin.
    """

    name: str
    layers: dict[str, Layer]
    extent: tuple[float, float]
    geo: Geo | None
    flipped: bool
    origin: np.datetime64

    def days(self, layer: Layer) -> np.ndarray:
        """(L,) int64 days since ``origin`` (of its own first year, where months have no year)."""
        start = self.origin if layer.year_known else layer.dates.min().astype("datetime64[Y]").astype("datetime64[D]")
        return (layer.dates - start).astype(np.int64)


def open_scene(
    name: str, files: Mapping[str, list[tuple[Path, str | None]]], description: Description, arrays: Arrays
) -> Scene:
    """Checks the headers of one scene.

    Args:
        files: by modality, those of this scene.

    Raises:
        ValueError: the first thing that is not as described, with the path.
    """
    layers = {}
    for modality, source in description.modalities.items():
        found = files.get(modality, [])
        if not found or (source.optional and source.variable and not arrays.has(found[0][0], source.variable)):
            if not source.optional:
                raise ValueError(
                    f"scene {name!r}: no file for modality {modality!r} ({source.files or description.files}); copy "
                    "it, or mark the modality optional"
                )
            continue
        layers[modality] = _open_layer(modality, source, found, arrays)
    extents = {modality: layer.extent for modality, layer in layers.items() if layer.extent}
    if not extents:
        raise ValueError(f"scene {name!r}: no modality with y and x")
    first = next(iter(extents))
    for modality, extent in extents.items():
        coarse = max(description.modalities[m].resolution for m in (first, modality))
        if np.abs(np.subtract(extent, extents[first])).max() >= coarse:
            raise ValueError(
                f"{layers[modality].path}: {modality!r} covers {extent[0]:g} x {extent[1]:g} m and {first!r} "
                f"{extents[first][0]:g} x {extents[first][1]:g} m; check resolution and axes of both"
            )
    height, width = np.min(list(extents.values()), axis=0)
    geo, flipped = locate(description.georeference, layers[first], arrays)
    known = [layer.dates.min() for layer in layers.values() if layer.dates is not None and layer.year_known]
    origin = min(known, default=np.datetime64("1970-01-01", "D")).astype("datetime64[Y]").astype("datetime64[D]")
    return Scene(name, layers, (float(height), float(width)), geo, flipped, origin)


def _open_layer(modality: str, source: Source, found: list[tuple[Path, str | None]], arrays: Arrays) -> Layer:
    path = found[0][0]
    where = f"{path}: {modality!r}"
    if path.suffix.lower() in (".tif", ".tiff"):
        array = TiffStack([p for p, _ in found], dated=source.kind == "series")
    elif source.variable is None:
        raise ValueError(f"{where}: variable is missing in the description; only GeoTIFF does without")
    else:
        array = arrays.get(path, source.variable)
    if len(array.shape) != len(source.axes):
        raise ValueError(
            f"{where}: {source.variable!r} has shape {tuple(array.shape)}, axes ({', '.join(source.axes)}) wanted"
        )
    shape = dict(zip(source.axes, array.shape, strict=True))
    names = source.bands
    if isinstance(names, str):
        names = tuple(text(v) for v in np.asarray(arrays.get(path, names)[...]))
    if len(names) != shape.get("band", 1):
        raise ValueError(
            f"{where}: {source.variable!r} has {shape.get('band', 1)} bands (shape {tuple(array.shape)}, axes "
            f"{', '.join(source.axes)}), the description names {len(names)}: {', '.join(names)}"
        )
    use = source.use or tuple(n for n in names if source.mask is None or n != source.mask.band)
    unknown = [n for n in use if n not in names]
    if unknown:
        raise ValueError(f"{where}: no band {', '.join(unknown)}; the file has {', '.join(names)}")
    layer = Layer(source, path, array, use, [names.index(n) for n in use])
    if source.kind == "series":
        layer.dates, layer.year_known = _dates(where, source, found, arrays)
        if len(layer.dates) != shape["time"]:
            raise ValueError(
                f"{where}: {len(layer.dates)} dates for {shape['time']} time steps of {source.variable!r}; they must "
                "match one to one"
            )
        if source.available:
            layer.available = _availability(where, source, layer, np.asarray(arrays.get(path, source.available)[...]))
        if source.mask:
            _attach_mask(where, layer, source.mask, names, shape, arrays)
    return layer


def _dates(where: str, source: Source, found: list[tuple[Path, str | None]], arrays: Arrays) -> tuple[np.ndarray, bool]:
    path = found[0][0]
    units = None
    if source.dates is None:
        values: Any = [date for _, date in found]
    elif isinstance(source.dates, str):
        values = np.asarray(arrays.get(path, source.dates)[...])
        units = arrays.attributes(path, source.dates).get("units")
    else:
        values = source.dates
    try:
        return parse_dates(values, text(units) if units is not None else None)
    except ValueError as error:
        raise ValueError(f"{where}: dates: {error}") from error


def _availability(where: str, source: Source, layer: Layer, flags: np.ndarray) -> np.ndarray:
    if (
        flags.shape[:1] != layer.dates.shape
        or flags.ndim > 2
        or (flags.ndim == 2 and flags.shape[1] <= max(layer.bands))
    ):
        raise ValueError(f"{where}: {source.available!r} has shape {flags.shape}, (time,) or (time, band) wanted")
    flags = flags.astype(bool)
    return flags[:, layer.bands] if flags.ndim == 2 else flags[:, None].repeat(len(layer.bands), axis=1)


def _attach_mask(
    where: str, layer: Layer, mask: Mask, names: tuple[str, ...], shape: Mapping[str, int], arrays: Arrays
) -> None:
    layer.mask = arrays.get(layer.path, mask.variable)
    if mask.band is not None:
        if mask.variable != layer.source.variable or mask.band not in names:
            raise ValueError(f"{where}: mask band {mask.band!r} is none of {', '.join(names)}")
        layer.mask_band = names.index(mask.band)
    ratio = (mask.resolution or layer.source.resolution) / layer.source.resolution
    expected = (shape["time"], shape["y"] / ratio, shape["x"] / ratio)
    given = tuple(layer.mask.shape)
    if mask.band is None and (len(given) != 3 or given[0] != expected[0] or given[1:] != expected[1:]):
        raise ValueError(
            f"{where}: mask {mask.variable!r} has shape {given}, {tuple(map(int, expected))} (time, y, x) wanted; "
            "check its resolution, and that it has the dates of the series"
        )


def read_map(labels: Labels, path: Path, arrays: Arrays) -> np.ndarray:
    """(y, x) of the label variable, or of the first band of a GeoTIFF."""
    if path.suffix.lower() in (".tif", ".tiff"):
        return TiffStack([path], dated=False)[(slice(None),) * 3][0]
    if labels.variable is None:
        raise ValueError(f"{path}: labels: variable is missing in the description; only GeoTIFF does without")
    values = np.asarray(arrays.get(path, labels.variable)[...]).squeeze()
    if values.ndim != 2:
        raise ValueError(f"{path}: labels {labels.variable!r} have shape {values.shape}, (y, x) wanted")
    return values
