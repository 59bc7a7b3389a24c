"""What the files of a predicted map show, at the size of a screen, read from their overviews."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from ..data.opening import open_raster
from ..evaluation.viewer import NO_CLASS, ClassLayer, Ground, Layer, QuantityLayer

__all__ = ["MapFile", "hectares_of_rows", "map_file", "map_layers"]

_SIDE = 2048  # pixels of a layer
_EARTH = 6_371_007.2  # metres: the radius of the sphere with the surface of the ellipsoid WGS84
_MERCATOR = 6_378_137.0
_SHOWN = 12  # of several classes a tile, or of several quantities


@dataclass(frozen=True)
class MapFile:
    """What is known of a map without reading its pixels.

    Attributes:
        path: of the GeoTIFF.
        task: ``multiclass``, ``multilabel`` or ``regression``.
        names: of the classes, or of the quantities.
        colours: ``#rrggbb`` of each class.
        unit: of the quantity; empty where unknown.
        level: of the interval whose ends follow each quantity as two more bands; None without an interval.
        ground: of the pixels that are shown.
        hectares: (rows,) area of a pixel of each row of the file; None where the place is unknown.
        areas: of each class, ha, or number of pixels where the place is unknown; empty for quantities.
        tags: of the file.
    """

    path: Path
    task: str
    names: tuple[str, ...]
    colours: tuple[str, ...]
    unit: str
    level: float | None
    ground: Ground
    hectares: np.ndarray | None
    areas: tuple[float, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def area_unit(self) -> str:
        return "pixels" if self.hectares is None else "ha"


def map_file(path: Path) -> MapFile:
    """
    Raises:
        ValueError: no GeoTIFF that ``fusion predict`` has written.
    """
    from rasterio.errors import RasterioError

    try:
        file = open_raster(path)
    except RasterioError as error:
        raise ValueError(f"{path} is no map that can be read: {error}; give what `fusion predict` wrote") from error
    with file:
        tags = file.tags()
        if "FUSION_TASK" not in tags:
            raise ValueError(f"{path} has no tag FUSION_TASK; give a map that `fusion predict` wrote")
        task, bands = tags["FUSION_TASK"], [name or f"band {k}" for k, name in enumerate(file.descriptions, 1)]
        names = tuple(json.loads(tags["FUSION_CLASSES"])) if "FUSION_CLASSES" in tags else tuple(bands)
        level = _level(tags)
        if level is not None:  # each quantity is followed by the ends of its interval
            names = names[::3]
        place = file.crs is not None
        hectares = hectares_of_rows(file.transform, file.crs, file.height) if place else None
        colours = _colours(file, len(names)) if task == "multiclass" else ()
        areas = tuple(_areas(file, len(names), hectares)) if task == "multiclass" else ()
        return MapFile(
            path,
            task,
            names,
            colours,
            tags.get("FUSION_UNIT") or (file.units[0] or ""),
            level,
            _ground(file, hectares),
            hectares,
            areas,
            tags,
        )


def map_layers(known: MapFile) -> list[Layer]:
    """The map and what lies beside it of the same prediction: probability of the likeliest class and entropy, or the
    ends of the interval."""
    with open_raster(known.path) as file:
        if known.task == "multiclass":
            classes = _read(file, 1, known.ground.shape)
            areas = [f"{area:,.0f} {known.area_unit}" for area in known.areas]
            return [ClassLayer("Map", classes, known.names, known.colours, areas), *_doubt(known)]
        more = f" {len(known.names) - _SHOWN} more are in the file." if len(known.names) > _SHOWN else ""
        if known.task == "multilabel":
            found: list[Layer] = []
            for band, name in enumerate(known.names[:_SHOWN], 1):
                codes = _read(file, band, known.ground.shape)
                found.append(ClassLayer(name, codes, ("absent", "present"), ("#d9dee2", "#1f6f54"), note=more))
            return [*found, *_doubt(known)]
        return [layer for k in range(min(len(known.names), _SHOWN)) for layer in _quantity(file, known, k, more)]


def _quantity(file: Any, known: MapFile, k: int, more: str) -> Iterator[QuantityLayer]:
    """A quantity and the ends of its interval, in colours of one scale."""
    name, alone = known.names[k], len(known.names) == 1
    title, shape = "Map" if alone else name, known.ground.shape
    if known.level is None:
        yield QuantityLayer(title, _read(file, k + 1, shape), known.unit, note=f"{name}.{more}")
        return
    values, *ends = (_read(file, 3 * k + band, shape) for band in (1, 2, 3))
    titles = [end.capitalize() if alone else f"{name}, {end}" for end in ("lower end", "upper end")]
    first = QuantityLayer(title, values, known.unit, ends=(titles[0], titles[1]), note=f"{name}.{more}")
    yield first
    note = f"Of the {100 * known.level:g} % interval."
    for end, band in zip(titles, ends, strict=True):
        yield QuantityLayer(end, band, known.unit, first.range(), note=note)


def hectares_of_rows(transform: Affine, crs: Any, rows: int) -> np.ndarray:
    """(rows,) area of a pixel in hectares. Metres of a projection are taken for metres on the ground, but for those of
    Web Mercator, which grow towards the poles; degrees are of a sphere with the surface of the Earth."""
    edges = transform.f + transform.e * np.arange(rows + 1)
    if crs.is_geographic:
        latitudes = np.radians(np.clip(edges, -90, 90))
        return np.abs(np.diff(np.sin(latitudes))) * np.radians(abs(transform.a)) * _EARTH**2 / 1e4
    side = crs.linear_units_factor[1] if crs.is_projected else 1.0
    flat = np.full(rows, abs(transform.a * transform.e) * side**2 / 1e4)
    if crs.to_epsg() == 3857:
        flat /= np.cosh((edges[:-1] + edges[1:]) / 2 / _MERCATOR) ** 2
    return flat


def _ground(file: Any, hectares: np.ndarray | None) -> Ground:
    factor = max(1, math.ceil(max(file.shape) / _SIDE))
    rows, columns = (math.ceil(side / factor) for side in file.shape)
    a, _, c, _, e, f = file.transform[:6]  # north up
    transform = Affine(a * file.width / columns, 0, c, 0, e * file.height / rows, f)
    if hectares is None:
        return Ground((rows, columns), transform)
    down = abs(transform.e)  # metres
    if file.crs.is_geographic:
        down = np.radians(down) * _EARTH
    elif file.crs.to_epsg() == 3857:
        down /= math.cosh((file.transform.f + file.transform.e * file.height / 2) / _MERCATOR)
    else:
        down *= file.crs.linear_units_factor[1] if file.crs.is_projected else 1.0
    middle = hectares[len(hectares) // 2] * 1e4 * (file.width / columns) * (file.height / rows)  # m2
    epsg = file.crs.to_epsg()
    name = f"EPSG:{epsg}" if epsg else file.crs.to_wkt()[:60]
    return Ground((rows, columns), transform, name, (middle / down, down), file.crs.is_geographic)


def _read(file: Any, band: int, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) of a band: uint8 as it is, else float32 with NaN for no data."""
    values = file.read(band, out_shape=shape)  # nearest, of the overviews where there are some
    if values.dtype == np.uint8:
        return np.asarray(values)
    values = values.astype(np.float32)
    return values if file.nodata is None or np.isnan(file.nodata) else np.where(values == file.nodata, np.nan, values)


def _areas(file: Any, classes: int, hectares: np.ndarray | None) -> Iterator[float]:
    """Of each class, of all pixels of the file."""
    total = np.zeros(256)
    for _, window in file.block_windows(1):
        rows = file.read(1, window=window)
        weights = np.ones(len(rows)) if hectares is None else hectares[window.row_off :][: len(rows)]
        total += np.bincount(rows.ravel(), np.repeat(weights, rows.shape[1]), minlength=256)
    yield from (float(area) for area in total[:classes])


def _doubt(known: MapFile) -> Iterator[Layer]:
    """How sure the map is, of the files beside it that are of the same prediction."""
    shape, classes = known.ground.shape, len(known.names)
    with _Beside(known, "probabilities") as file:
        if file is not None and known.task == "multiclass":
            most, missing = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=bool)
            for band in range(1, classes + 1):
                stored = _read(file, band, shape)
                missing |= stored == NO_CLASS
                most = np.maximum(most, stored)
            note = "As the model gives it; whether it is as often right as it says is another question."
            yield _share("Probability of the likeliest class", np.where(missing, NO_CLASS, most), file, note)
    with _Beside(known, "entropy") as file:
        if file is not None:
            note = "0: the model is certain; 1: to the model all are as likely as each other."
            yield _share("Entropy", _read(file, 1, shape), file, note, "magma")


def _share(title: str, stored: np.ndarray, file: Any, note: str, ramp: str = "viridis") -> QuantityLayer:
    """Bytes that stand for 0 to 1."""
    values = np.where(stored == NO_CLASS, np.nan, stored.astype(np.float32) * np.float32(file.scales[0]))
    return QuantityLayer(title, values.astype(np.float32), "", (0.0, 1.0), note=note, ramp=ramp)


class _Beside:
    """The file beside a map if it is of the same prediction: same model and pixels; None otherwise."""

    def __init__(self, known: MapFile, what: str) -> None:
        self.known, self.path, self.file = known, known.path.with_name(f"{known.path.stem}_{what}.tif"), None

    def __enter__(self) -> Any:
        if not self.path.is_file():
            return None
        self.file = file = open_raster(self.path)
        with open_raster(self.known.path) as map_:
            same = file.shape == map_.shape and file.transform == map_.transform
        same = same and file.tags().get("FUSION_MODEL") == self.known.tags.get("FUSION_MODEL")
        return file if same else None

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()


def _colours(file: Any, classes: int) -> tuple[str, ...]:
    try:
        table = file.colormap(1)
    except ValueError:  # none in the file
        table = {}
    return tuple("#{:02x}{:02x}{:02x}".format(*table.get(k, (128, 128, 128))[:3]) for k in range(classes))


def _level(tags: dict[str, str]) -> float | None:
    """Of the intervals of quantities."""
    return float(json.loads(tags["FUSION_INTERVAL"])[0]["level"]) if "FUSION_INTERVAL" in tags else None
