"""One scene of a described folder: its files, checked against the description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import reading
from ..given import january_before
from ..npy import open_array
from ..tiles import Geo
from .align import Warped
from .apart import apart
from .bands import check_bands
from .calendar import parse_dates
from .containers import NPY, text
from .conventions import Conventions
from .description import DATE_FILES, Source
from .layer import Layer
from .layered import DESCRIPTIONS, LayeredRaster
from .masks import MaskReader
from .opening import Opener, Tiles
from .patterns import Found
from .pixels import Pixels
from .raster import RASTERS

__all__ = ["Scene", "open_scene"]


_UNOBSERVED = (
    "and count as not observed: the store may be incomplete, then copy it again. Zarr leaves out chunks that hold "
    "nothing but the fill value: if that was measured, write empty_chunks: true"
)


@dataclass
class Scene:
    """
    Attributes:
        layers: by modality; one that this scene lacks is absent.
        extent: height and width in metres that every layer covers.
        tiles: where it lies; None where that is unknown.
        origin: 1 January of the year in which the scene's series begin, datetime64[D]; None where no year is known.
    """

    name: str
    layers: dict[str, Layer]
    extent: tuple[float, float]
    tiles: Tiles | None
    origin: np.datetime64 | None

    @property
    def geo(self) -> Geo | None:
        """Of a grid of 1 m (by the description's metres) at the upper left corner."""
        return None if self.tiles is None else self.tiles.grid.metre(self.tiles.resolution)

    def days(self, layer: Layer) -> np.ndarray:
        """(L,) int64 days since ``origin``; of months without a year, since 1 January of their own first one."""
        start = self.origin if layer.year_known and self.origin is not None else january_before(layer.dates)
        days: np.ndarray = (layer.dates - start).astype(np.int64)
        return days


def open_scene(name: str, files: Mapping[str, Found], masks: Mapping[str, Found], opener: Opener) -> Scene:
    """Checks the headers of one scene.

    Args:
        files: by modality, those of this scene; ``masks`` likewise, of masks in files of their own.

    Raises:
        ValueError: the first thing that is not as described, with the path.
    """
    description = opener.description
    layers: dict[str, Layer] = {}
    tiles: Tiles | None = None
    first = ""
    for modality, source in description.modalities.items():
        found = files.get(modality, [])
        if not found or (source.optional and source.named and not opener.arrays.has(found[0].path, source.named)):
            if not source.optional:
                raise ValueError(
                    f"scene {name!r}: no file for modality {modality!r} ({source.files or description.files}); copy "
                    "it, or mark the modality optional"
                )
            continue
        layer = _Reader(name, modality, source, found, opener).open(tiles, masks.get(modality, []))
        layers[modality] = layer
        if source.spatial and not first:
            first = modality
        if tiles is None and layer.pixels.grid is not None:
            tiles = Tiles(layer.pixels.grid, layer.resolution)
    extents = {modality: extent for modality, layer in layers.items() if (extent := layer.extent)}
    if not extents:
        raise ValueError(f"scene {name!r}: no modality with y and x")
    for modality, extent in extents.items():
        coarse = max(layers[m].resolution for m in (first, modality))
        if np.abs(np.subtract(extent, extents[first])).max() >= coarse:
            raise ValueError(
                f"{layers[modality].path}: {modality!r} covers {extent[0]:g} x {extent[1]:g} m and {first!r} "
                f"{extents[first][0]:g} x {extents[first][1]:g} m; check resolution and axes of both"
            )
    height, width = np.min(list(extents.values()), axis=0)
    known = [layer.dates for layer in layers.values() if len(layer.dates) and layer.year_known]
    origin = january_before(np.concatenate(known)) if known else None
    return Scene(name, layers, (float(height), float(width)), tiles, origin)


class _Reader:
    """Opens one modality of one scene."""

    def __init__(self, scene: str, modality: str, source: Source, files: Found, opener: Opener) -> None:
        self.scene, self.modality, self.source, self.opener = scene, modality, source, opener
        self.apart = apart(modality, source, files, opener)
        self.files = files if self.apart is None else self.apart.files  # one a date
        self.path = self.files[0].path
        self.where = f"{self.path}: {modality!r}"
        self.what = "the array" if source.named is None else repr(source.named)

    def open(self, tiles: Tiles | None, masks: Found) -> Layer:
        source = self.source
        named = len(source.bands) if not isinstance(source.bands, str) else None
        if self.apart is not None:
            pixels = self.apart.open(tiles)
        else:
            pixels = self.opener.open(
                repr(self.modality), self.files, source.named, source.axes, source.resolution, bands=named, tiles=tiles,
                resample=source.resample, empty_chunks=source.empty_chunks,
            )  # fmt: skip
        names = source.bands
        if isinstance(names, str):
            names = tuple(text(v) for v in self._variable(names))
        bands = pixels.sizes.get("band", 1)
        if len(names) != bands:
            raise ValueError(
                f"{self.where}: {self.what} has {bands} bands (shape {pixels.shape}), the description names "
                f"{len(names)}: {', '.join(names)}"
            )
        for part in pixels.of_files:
            if self.apart is None:
                check_bands(part.path, repr(self.modality), part.band_names, names)
                check_bands(part.path, repr(self.modality), part.band_names, pixels.of_files[0].band_names)
            held = source.override(part.conventions)
            if not source.empty_chunks:
                self.opener.absent.add(self.modality, [part], _UNOBSERVED, held)
            if held.low is not None and held.high is not None and held.low > held.high:
                raise ValueError(
                    f"{part.path}: {self.modality!r}: nothing is within the valid range {held.low:g}..{held.high:g}; "
                    "give range: [lowest, highest] in the description"
                )
            if not np.all(held.scale):
                raise ValueError(
                    f"{part.path}: {self.modality!r}: its scale is 0, which makes all values the same; give scale in "
                    "the description"
                )
        use = source.use or tuple(n for n in names if source.mask is None or n != source.mask.band)
        unknown = [n for n in use if n not in names]
        if unknown:
            raise ValueError(f"{self.where}: no band {', '.join(unknown)}; the file has {', '.join(names)}")
        layer = Layer(source, pixels, use, [names.index(n) for n in use])
        if source.kind == "series":
            layer.dates, layer.year_known = self._dates(pixels, names)
            if len(layer.dates) != pixels.sizes["time"]:
                raise ValueError(
                    f"{self.where}: {len(layer.dates)} dates for {pixels.sizes['time']} time steps of {self.what}; "
                    "they must match one to one"
                )
            if source.available:
                layer.available = self._availability(layer)
        layer.offsets = self._offsets(layer)
        if source.mask:
            reader = MaskReader(
                self.scene, self.modality, self.where, source, names, self.files, pixels, layer.dates, self.opener,
                self.apart is not None,
            )  # fmt: skip
            layer.mask = reader.open(source.mask, masks, tiles)
        return layer

    def _variable(self, name: str) -> np.ndarray:
        return np.asarray(self.opener.arrays.get(self.path, name)[...])

    def _numbers(self, name: str) -> np.ndarray:
        """Unpacked, NaN where there is none."""
        variable = self.opener.arrays.get(self.path, name)
        if variable.dtype.kind not in "iufb":
            raise ValueError(f"{self.where}: {name!r} holds {variable.dtype}, numbers are wanted")
        said = Conventions.of_attributes(variable.attributes, variable.dtype)
        return said.measured(np.asarray(variable[...]))

    # Dates, and what goes by them.

    def _dates(self, pixels: Pixels, names: Sequence[str]) -> tuple[np.ndarray, bool]:
        given = self.source.dates
        if given == DESCRIPTIONS and self.path.suffix.lower() in RASTERS:
            own = pixels.source if isinstance(pixels, Warped) else pixels
            if not isinstance(own, LayeredRaster):
                raise ValueError(
                    f"{self.where}: dates: {DESCRIPTIONS} is for a raster whose bands are dates; leave dates out where "
                    "names of files have them, else list them"
                )
            return own.dates(names), True
        where, units, calendar = self.where, None, None
        if given is None:
            values: Any = [file.date for file in self.files]
        elif isinstance(given, str) and Path(given).suffix.lower() in DATE_FILES:
            file = self.opener.folder / given.replace("{scene}", self.scene)
            where, values = f"{where}: {file}", _dates_in(file)
        elif isinstance(given, str):
            variable = self.opener.arrays.get(self.path, given)
            values, (units, calendar) = variable[...], (variable.attributes.get(key) for key in ("units", "calendar"))
            said = Conventions.of_attributes(variable.attributes, variable.dtype)
            if variable.dtype.kind in "iuf" and (said.packed or said.missing(values).any()):
                values = said.measured(values)
        else:
            values = given
        try:
            found = parse_dates(values, *(None if word is None else text(word) for word in (units, calendar)))
            named = (
                None if given is None or self.files[0].date is None else parse_dates([file.date for file in self.files])
            )
        except ValueError as error:
            raise ValueError(f"{where}: dates: {error}") from error
        if named is not None and len(named[0]) == len(found[0]) and (named[0] != found[0]).any():
            raise ValueError(
                f"{where}: the dates of the description differ from those in the names of the files; leave them out"
            )
        return found

    def _availability(self, layer: Layer) -> np.ndarray:
        name = self.source.available or ""
        flags = self._numbers(name)
        if (
            flags.shape[:1] != layer.dates.shape
            or flags.ndim > 2
            or (flags.ndim == 2 and flags.shape[1] <= max(layer.bands))
        ):
            raise ValueError(f"{self.where}: {name!r} has shape {flags.shape}, (time,) or (time, band) wanted")
        there: np.ndarray = ~np.isnan(flags) & (flags != 0)
        return there[:, layer.bands] if there.ndim == 2 else there[:, None].repeat(len(layer.bands), axis=1)

    def _offsets(self, layer: Layer) -> np.ndarray | None:
        """(L,) float32 of an offset that differs between dates."""
        offset = self.source.offset
        if offset is None or isinstance(offset, int | float):
            return None
        if self.source.kind != "series":
            raise ValueError(f"{self.where}: an offset by date, but no dates; give a number")
        if isinstance(offset, str):
            found = self._numbers(offset)
            if found.shape != layer.dates.shape:
                raise ValueError(f"{self.where}: offset {offset!r} has shape {found.shape}, one for each date wanted")
            return found.astype(np.float32)
        if not layer.year_known:
            raise ValueError(f"{self.where}: an offset by date, but the dates have no year; give a number")
        try:
            since, _ = parse_dates(list(offset))
        except ValueError as error:
            raise ValueError(f"{self.where}: offset: {error}") from error
        order = np.argsort(since)
        steps = np.array([0.0, *np.array(list(offset.values()), dtype=float)[order]], dtype=np.float32)
        return np.asarray(steps[np.searchsorted(since[order], layer.dates, side="right")])


def _dates_in(path: Path) -> Any:
    """What a file of dates holds: an array, or a date a line."""
    if path.suffix.lower() == NPY:
        return np.array(open_array(path))
    with reading(path):
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
