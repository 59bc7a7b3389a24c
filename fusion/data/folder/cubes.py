"""Whole cubes of a described folder instead of tiles; arrays are read when they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...settings import renamed
from ..cubes import Cube, SensorCube, smooth_backscatter
from ..limits import check_count, check_names
from ..modality import Modality
from ..tiles import Geo
from .dataset import FolderDataset
from .description import Description
from .layer import Layer
from .scene import Scene

__all__ = ["cube_of", "read_cubes"]


@renamed(looks="temporal_window")
def read_cubes(
    description: str | Path | Mapping[str, Any] | Description,
    folder: str | Path,
    sensors: Mapping[str, Sequence[str]] | None = None,
    *,
    temporal_window: int = 3,
    memory: int = 1 << 30,
) -> list[Cube]:
    """One cube a scene, all sensors on the grid of the finest one.

    Args:
        sensors: for each sensor the described modalities whose bands it joins, e.g. ``{"s2": ["s2", "s2-20m"], "s1":
            ["s1"]}``; they must have the same dates. A modality that a scene lacks is not observed there; a sensor
            none of whose modalities any scene has is left out. By default every series with pixels is a sensor of its
            own.
        temporal_window: acquisitions in the running mean over dates that smooths a sensor in dB; 1 leaves it.
        memory: bytes of arrays to keep in memory; what is larger is read from disk in windows.

    Raises:
        ValueError: what the reader refuses, an unknown modality, different dates, or a resolution that is no multiple
            of the finest.
    """
    check_count("read_cubes", "temporal_window", temporal_window)
    for name, names in (sensors or {}).items():
        check_names("read_cubes", f"sensor {name!r}", names)
    wanted = None if sensors is None else list(dict.fromkeys(m for members in sensors.values() for m in members))
    dataset = FolderDataset(description, folder, wanted, labels=False, memory=memory, complete=sensors is None)
    sources = dataset.description.modalities
    if sensors is None:
        sensors = {name: (name,) for name, source in sources.items() if source.spatial and source.kind == "series"}
    sensors = {name: [m for m in members if m in sources] for name, members in sensors.items()}
    known = {modality.name: modality for modality in dataset.modalities}
    members = {name: [known[m] for m in own] for name, own in sensors.items()}
    found = (cube_of(scene, members, temporal_window) for scene in dataset.scenes)
    return [cube for cube in found if cube is not None]


def cube_of(scene: Scene, sensors: Mapping[str, Sequence[Modality]], temporal_window: int = 3) -> Cube | None:
    """A scene as a cube; None where it has none of the sensors.

    Args:
        sensors: for each sensor the modalities whose bands it joins.
        temporal_window: see :func:`read_cubes`.

    Raises:
        ValueError: modalities of a sensor with different dates, or a resolution that is no multiple of the finest.
    """
    finest = min(modality.resolution for members in sensors.values() for modality in members)
    found = {
        name: sensor
        for name, members in sensors.items()
        if (sensor := _sensor(scene, name, members, finest, temporal_window)) is not None
    }
    return Cube(scene.name, found, _geo(scene, finest)) if found else None


def _sensor(
    scene: Scene, name: str, members: Sequence[Modality], finest: float, temporal_window: int
) -> SensorCube | None:
    layers = [scene.layers.get(member.name) for member in members]
    there = [layer for layer in layers if layer is not None]
    if not there:
        return None
    first = there[0]
    for layer in there[1:]:
        if not np.array_equal(layer.dates, first.dates):
            raise ValueError(
                f"scene {scene.name!r}: the parts of sensor {name!r} have different dates; keep them apart"
            )
    days, order = _days(first.dates)
    bands = tuple(band for member in members for band in member.bands)
    modality = replace(members[0], name=name, bands=bands, resolution=finest, patch_size=1, mean=(), std=())
    size = round(scene.extent[0] / finest), round(scene.extent[1] / finest)
    counts = [member.channels for member in members]
    masked = next((layer for layer in there if layer.mask is not None), None)
    parts = tuple(zip(layers, counts, strict=True))
    clear = None if masked is None else _Clear(scene, finest, size, order, masked)
    values = _Values(scene, finest, size, order, parts, modality.unit, temporal_window, clear)
    return SensorCube(modality, days, values, clear)


def _days(dates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The days (T,), ascending, and where each day's acquisitions are in the file, (T, most a day), -1 for none."""
    days, of_day, count = np.unique(dates, return_inverse=True, return_counts=True)
    order = np.full((len(days), count.max(initial=1)), -1)
    for position, day in enumerate(of_day):
        order[day, np.flatnonzero(order[day] < 0)[0]] = position
    return days, order


def _geo(scene: Scene, finest: float) -> Geo | None:
    if scene.geo is None:
        return None
    width, _, west, _, height, north = scene.geo.transform  # of a metre
    return Geo((width * finest, 0.0, west, 0.0, height * finest, north), scene.geo.crs)


@dataclass(frozen=True)
class _Lazy:
    """Something that behaves like an array (dates, ..., rows, columns) and reads what is sliced.

    Attributes:
        finest: metres per pixel of its grid; ``size``: rows and columns.
        order: (T, most a day) positions in the file of the acquisitions of each day, -1 for none. Of several, such as
            the two halves of a swath, a pixel has the first in which it was observed and clear.
    """

    scene: Scene
    finest: float
    size: tuple[int, int]
    order: np.ndarray

    def __getitem__(self, index: Any) -> np.ndarray:
        raise NotImplementedError

    def _place(self, index: Any) -> tuple[np.ndarray, slice, slice]:
        """Rows of ``order``, rows and columns, of ``[dates]``, ``[..., rows, columns]`` or both."""
        index = index if isinstance(index, tuple) else (index, ...)
        dates = self.order if index[0] is Ellipsis else np.atleast_2d(self.order[index[0]])
        spatial = index[-2:] if len(index) > 2 and index[-1] is not Ellipsis else (slice(None), slice(None))
        rows, columns = (slice(*part.indices(n)[:2]) for part, n in zip(spatial, self.size, strict=True))
        return dates, rows, columns

    def _window(
        self, layer: Layer, resolution: float, rows: slice, columns: slice
    ) -> tuple[int, tuple[int, int, int, int]]:
        """How many fine pixels a pixel of ``resolution`` is across, and the window (row, column, h, w) that covers."""
        ratio = round(resolution / self.finest)
        if abs(ratio - resolution / self.finest) > 1e-6:
            raise ValueError(
                f"{layer.path}: {resolution:g} m is no multiple of the finest resolution {self.finest:g} m; resample it"
            )
        top, left = rows.start // ratio, columns.start // ratio
        height, width = -(-rows.stop // ratio) - top, -(-columns.stop // ratio) - left
        return ratio, (top, left, height, width)

    def _fine(self, values: np.ndarray, ratio: int, rows: slice, columns: slice) -> np.ndarray:
        """Coarse pixels repeated, cut to the rows and columns wanted."""
        if ratio > 1:
            values = values.repeat(ratio, axis=-2).repeat(ratio, axis=-1)
        top, left = rows.start % ratio, columns.start % ratio
        return values[..., top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)


@dataclass(frozen=True)
class _Values(_Lazy):
    """Physical values (T, C, H, W) of the layers of one sensor, NaN where not observed."""

    layers: tuple[tuple[Layer | None, int], ...]  # with the number of bands
    unit: str
    temporal_window: int
    clear: _Clear | None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.order), sum(bands for _, bands in self.layers), *self.size)

    def __getitem__(self, index: Any) -> np.ndarray:
        dates, rows, columns = self._place(index)
        joined = self._acquisitions(dates[:, 0], rows, columns)
        taken = None if self.clear is None or dates.shape[1] == 1 else self.clear.of(dates[:, 0], rows, columns)
        for further in dates.T[1:]:
            again = np.flatnonzero(further >= 0)
            other = self._acquisitions(further[again], rows, columns)
            better = np.isnan(joined[again])
            if taken is not None and self.clear is not None:
                clear = self.clear.of(further[again], rows, columns)
                better |= (clear & ~taken[again])[:, None] & ~np.isnan(other)
                taken[again] |= clear
            joined[again] = np.where(better, other, joined[again])
        smoothed = self.unit == "dB" and self.temporal_window > 1
        return smooth_backscatter(joined, self.temporal_window) if smoothed else joined

    def _acquisitions(self, dates: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """(L, C, h, w) of positions in the file."""
        extent = (rows.stop - rows.start, columns.stop - columns.start)
        parts = []
        for layer, bands in self.layers:
            if layer is None:
                parts.append(np.full((len(dates), bands, *extent), np.nan, np.float32))
                continue
            ratio, window = self._window(layer, layer.resolution, rows, columns)
            parts.append(self._fine(layer.values(dates, window), ratio, rows, columns))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class _Clear(_Lazy):
    """(T, H, W) bool of the mask of one layer."""

    layer: Layer

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.order), *self.size)

    def __getitem__(self, index: Any) -> np.ndarray:
        dates, rows, columns = self._place(index)
        clear = self.of(dates[:, 0], rows, columns)
        for further in dates.T[1:]:
            again = np.flatnonzero(further >= 0)
            clear[again] |= self.of(further[again], rows, columns)
        return clear

    def of(self, dates: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """(L, h, w) of positions in the file."""
        corner = rows.start * self.finest, columns.start * self.finest
        size = rows.stop - rows.start, columns.stop - columns.start
        return self.layer.clear(dates, corner, size, self.finest).copy()
