"""One scene of a described folder: its files, checked against the description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import reading
from ..npy import open_array
from ..tiles import Geo
from .calendar import parse_dates
from .description import DATE_FILES, Description, Mask, Source
from .layer import Layer
from .place import locate
from .stores import NPY, Arrays, NpyStack, TiffStack, text

__all__ = ["Scene", "open_scene"]


@dataclass
class Scene:
    """
    Attributes:
        layers: by modality; one that this scene lacks is absent.
        extent: height and width in metres that every layer covers.
        geo: of a grid of 1 m (by the description's metres) at the upper left corner.
        flipped: row 0 is south in the arrays.
        origin: 1 January of the year in which the scene's series begin, datetime64[D]; None where no year is known.
    """

    name: str
    layers: dict[str, Layer]
    extent: tuple[float, float]
    geo: Geo | None
    flipped: bool
    origin: np.datetime64 | None

    def days(self, layer: Layer) -> np.ndarray:
        """(L,) int64 days since ``origin``; of months without a year, since 1 January of their own first one."""
        start = self.origin if layer.year_known and self.origin is not None else _january(layer.dates)
        days: np.ndarray = (layer.dates - start).astype(np.int64)
        return days


def open_scene(
    name: str,
    files: Mapping[str, list[tuple[Path, str | None]]],
    description: Description,
    arrays: Arrays,
    folder: Path,
) -> Scene:
    """Checks the headers of one scene.

    Args:
        files: by modality, those of this scene.
        folder: in which files of dates are looked for.

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
        dates: Path | Sequence[str] | str | None = source.dates
        if isinstance(dates, str) and Path(dates).suffix in DATE_FILES:
            dates = folder / dates.replace("{scene}", name)
        layers[modality] = _open_layer(modality, source, found, arrays, dates)
    extents = {modality: extent for modality, layer in layers.items() if (extent := layer.extent)}
    if not extents:
        raise ValueError(f"scene {name!r}: no modality with y and x")
    first = next(iter(extents))
    for modality, extent in extents.items():
        coarse = max(layers[m].resolution for m in (first, modality))
        if np.abs(np.subtract(extent, extents[first])).max() >= coarse:
            raise ValueError(
                f"{layers[modality].path}: {modality!r} covers {extent[0]:g} x {extent[1]:g} m and {first!r} "
                f"{extents[first][0]:g} x {extents[first][1]:g} m; check resolution and axes of both"
            )
    height, width = np.min(list(extents.values()), axis=0)
    geo, flipped = locate(description.georeference, layers[first], arrays)
    known = [layer.dates for layer in layers.values() if len(layer.dates) and layer.year_known]
    origin = _january(np.concatenate(known)) if known else None
    return Scene(name, layers, (float(height), float(width)), geo, flipped, origin)


def _january(dates: np.ndarray) -> np.datetime64:
    """1 January of the year of the first of the dates."""
    return np.datetime64(f"{dates.min().astype('datetime64[Y]')}-01-01", "D")


def _open_layer(
    modality: str,
    source: Source,
    found: list[tuple[Path, str | None]],
    arrays: Arrays,
    dates: Path | Sequence[str] | str | None,
) -> Layer:
    path = found[0][0]
    where = f"{path}: {modality!r}"
    what = "the array" if source.variable is None else repr(source.variable)
    array = _open_array(where, source, found, arrays)
    if len(array.shape) != len(source.axes):
        raise ValueError(f"{where}: {what} has shape {tuple(array.shape)}, axes ({', '.join(source.axes)}) wanted")
    shape = dict(zip(source.axes, array.shape, strict=True))
    names = source.bands
    if isinstance(names, str):
        names = tuple(text(v) for v in np.asarray(arrays.get(path, names)[...]))
    if len(names) != shape.get("band", 1):
        raise ValueError(
            f"{where}: {what} has {shape.get('band', 1)} bands (shape {tuple(array.shape)}, axes "
            f"{', '.join(source.axes)}), the description names {len(names)}: {', '.join(names)}"
        )
    use = source.use or tuple(n for n in names if source.mask is None or n != source.mask.band)
    unknown = [n for n in use if n not in names]
    if unknown:
        raise ValueError(f"{where}: no band {', '.join(unknown)}; the file has {', '.join(names)}")
    layer = Layer(source, path, array, use, [names.index(n) for n in use])
    if source.kind == "series":
        layer.dates, layer.year_known = _dates(where, dates, found, arrays)
        if len(layer.dates) != shape["time"]:
            raise ValueError(
                f"{where}: {len(layer.dates)} dates for {shape['time']} time steps of {what}; they must "
                "match one to one"
            )
        if source.available:
            layer.available = _availability(where, source, layer, np.asarray(arrays.get(path, source.available)[...]))
        if source.mask:
            _attach_mask(where, layer, source.mask, names, shape, arrays)
    return layer


def _open_array(where: str, source: Source, found: list[tuple[Path, str | None]], arrays: Arrays) -> Any:
    """The array of one modality: of several files where their names have dates."""
    path = found[0][0]
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        return TiffStack([p for p, _ in found], dated=source.kind == "series")
    if suffix != NPY:
        if source.variable is None:
            raise ValueError(f"{where}: variable is missing in the description; only GeoTIFF and .npy do without")
        return arrays.get(path, source.variable)
    if found[0][1] is None:
        return arrays.get(path, source.variable or "")
    if source.axes[0] != "time":
        raise ValueError(f"{where}: a file a date makes time the first axis, axes ({', '.join(source.axes)}) given")
    return NpyStack([p for p, _ in found])


def _dates(
    where: str, dates: Path | Sequence[str] | str | None, found: list[tuple[Path, str | None]], arrays: Arrays
) -> tuple[np.ndarray, bool]:
    """
    Args:
        dates: a file of dates, dates, the variable that holds them, or None for those in the names of the files.
    """
    path = found[0][0]
    units = None
    if dates is None:
        values: Any = [date for _, date in found]
    elif isinstance(dates, Path):
        where = f"{where}: {dates}"
        values = _dates_in(dates)
    elif isinstance(dates, str):
        values = np.asarray(arrays.get(path, dates)[...])
        units = arrays.attributes(path, dates).get("units")
    else:
        values = dates
    try:
        return parse_dates(values, text(units) if units is not None else None)
    except ValueError as error:
        raise ValueError(f"{where}: dates: {error}") from error


def _dates_in(path: Path) -> Any:
    """What a file of dates holds: an array, or a date a line."""
    if path.suffix == NPY:
        return np.array(open_array(path))
    with reading(path):
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]


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
    ratio = layer.mask_resolution / layer.resolution
    expected = (shape["time"], shape["y"] / ratio, shape["x"] / ratio)
    given = tuple(layer.mask.shape)
    if mask.band is None and (len(given) != 3 or given[0] != expected[0] or given[1:] != expected[1:]):
        raise ValueError(
            f"{where}: mask {mask.variable!r} has shape {given}, {tuple(map(int, expected))} (time, y, x) wanted; "
            "check its resolution, and that it has the dates of the series"
        )
