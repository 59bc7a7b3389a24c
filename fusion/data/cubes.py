"""Cubes: several sensors' series over one piece of ground, on one pixel grid, each at its own dates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .files import DamagedFile
from .given import calendar_dates, flags, numbers, unpacked
from .modality import Modality
from .tiles import Geo
from .units import require_no_fill

__all__ = ["Cube", "SensorCube", "observed_statistics", "smooth_backscatter"]

_ROWS = 64  # read at a time of what is read whole


@dataclass(frozen=True)
class SensorCube:
    """One sensor's series.

    Attributes:
        modality: bands, unit; ``patch_size`` is not used here.
        dates: (T,) datetime64[D], strictly increasing; whole numbers are taken as days since 1970-01-01.
        values: (T, C, H, W), anything that NumPy slices can be taken of (array, h5py, zarr, netCDF4). NaN, an infinite
            value and what a mask covers were not observed.
        clear: (T, H, W) bool of the same kind: False for cloud, shadow, nodata; None where every finite value counts.

    Raises:
        ValueError: a date that is missing or none, or values of xarray, h5py or zarr that their attributes call packed.
    """

    modality: Modality
    dates: np.ndarray
    values: Any
    clear: Any = None

    def __post_init__(self) -> None:
        what = f"sensor {self.modality.name!r}"
        object.__setattr__(self, "dates", calendar_dates(self.dates, what))
        unpacked(self.values, what)

    @property
    def epoch_days(self) -> np.ndarray:
        """(T,) int64 days since 1970-01-01, to calculate with."""
        return self.dates.astype(np.int64)

    def read(self, rows: slice, columns: slice, margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """A window of ground with ``margin`` pixels around it; what lies outside the cube was not observed.

        Returns:
            values (T, C, h, w) float32, 0 where not observed, and observed (T, C, h, w) bool.
        """
        height, width = self.values.shape[-2:]
        top, bottom = rows.start - margin, rows.stop + margin
        left, right = columns.start - margin, columns.stop + margin
        inside = np.s_[..., max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        values = numbers(self.values[inside], f"sensor {self.modality.name!r}").astype(np.float32, copy=False)
        observed = np.isfinite(values)
        if self.clear is not None:
            observed &= flags(self.clear[inside])[:, None]
        values = np.where(observed, values, np.float32(0))
        frame = ((0, 0), (0, 0), (max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)))
        if any(map(any, frame)):
            values, observed = np.pad(values, frame), np.pad(observed, frame)
        return values, observed

    def strips(self, rows: int = _ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The whole cube as :meth:`read` gives it, some rows at a time: it may be larger than memory."""
        height, width = self.values.shape[-2:]
        for row in range(0, height, rows):
            yield self.read(slice(row, min(row + rows, height)), slice(0, width))

    def observed_share(self) -> np.ndarray:
        """(T,) share of the pixels with at least one observed band; of those that can be read, where files are damaged.

        Raises:
            DamagedFile: none can be read.
        """
        height, width = self.values.shape[-2:]
        pixels, read = np.zeros(len(self.dates), dtype=np.int64), 0
        damaged: DamagedFile | None = None
        for row in range(0, height, _ROWS):
            rows = slice(row, min(row + _ROWS, height))
            try:
                _, observed = self.read(rows, slice(0, width))
            except DamagedFile as error:
                damaged = error
                continue
            pixels += observed.any(axis=1).sum(axis=(1, 2))
            read += (rows.stop - rows.start) * width
        if damaged is not None and not read:
            raise damaged
        return np.asarray(pixels / read)


@dataclass(frozen=True)
class Cube:
    """Sensors over one piece of ground.

    Attributes:
        name: of the cube; ``site``: of the place. Cubes of one site never end up in different splits.
        sensors: by name; the order is the caller's.
        geo: of the pixel grid, None where unknown.
        skipped: by sensor, dates (datetime64[D]) left out because nothing was observed.

    Raises:
        ValueError: no sensor, arrays that do not fit each other, dates that do not increase; says which.
    """

    name: str
    sensors: Mapping[str, SensorCube]
    geo: Geo | None = None
    site: str = ""
    skipped: Mapping[str, Sequence[np.datetime64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sensors:
            raise ValueError(f"cube {self.name!r} has no sensor")
        sizes = {}
        for name, sensor in self.sensors.items():
            shape, dates = tuple(sensor.values.shape), len(sensor.dates)
            where = f"cube {self.name!r}, sensor {name!r}"
            if len(shape) != 4 or shape[0] != dates or shape[1] != sensor.modality.channels:
                bands = ", ".join(sensor.modality.bands)
                raise ValueError(
                    f"{where}: values of shape {shape}; (dates, bands, rows, columns) = ({dates}, "
                    f"{sensor.modality.channels}, ...) wanted for {dates} dates of {bands}"
                )
            if sensor.clear is not None and tuple(sensor.clear.shape) != (shape[0], *shape[2:]):
                raise ValueError(f"{where}: a mask of shape {tuple(sensor.clear.shape)} for values of shape {shape}")
            wrong = np.flatnonzero(np.diff(sensor.epoch_days) <= 0)
            if len(wrong):
                pair = sensor.dates[wrong[0] : wrong[0] + 2]
                raise ValueError(
                    f"{where}: dates must increase, but {pair[1]} follows {pair[0]}; sort, drop duplicates"
                )
            sizes[name] = shape[2:]
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {h} x {w}" for name, (h, w) in sizes.items())
            raise ValueError(f"cube {self.name!r}: sensors lie on different grids ({listed}); resample them to one")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        height, width = next(iter(self.sensors.values())).values.shape[-2:]
        return int(height), int(width)

    @property
    def whole(self) -> tuple[slice, slice]:
        """All rows and columns."""
        height, width = self.shape
        return slice(0, height), slice(0, width)

    def without_empty_dates(self, least: float = 0.0) -> Cube:
        """The cube without dates on which no more than a share ``least`` of the pixels was observed; lists them."""
        kept: dict[str, SensorCube] = {}
        skipped: dict[str, list[np.datetime64]] = {}
        for name, sensor in self.sensors.items():
            share = sensor.observed_share()
            keep = share > least
            if not keep.any():
                raise ValueError(
                    f"cube {self.name!r}, sensor {name!r}: none of {len(keep)} dates has more than {least:.1%} "
                    f"observed pixels (best {share.max(initial=0):.1%}); check nodata value and cloud mask"
                )
            skipped[name] = list(sensor.dates[~keep])
            if keep.all():
                kept[name] = sensor
                continue
            clear = None if sensor.clear is None else sensor.clear[keep]
            kept[name] = replace(sensor, dates=sensor.dates[keep], values=sensor.values[keep], clear=clear)
        return replace(self, sensors=kept, skipped=skipped)


def observed_statistics(cubes: Iterable[Cube], modality: Modality, allowed: np.ndarray | None = None) -> Modality:
    """``modality`` with mean and std per band over what was observed of it in ``cubes``.

    Args:
        allowed: (H, W) bool, use these pixels only (the training part of a split within cubes of that size).

    Raises:
        ValueError: a band was never observed, or has a value that can only be a fill value.
    """
    count, total, squares = (np.zeros(modality.channels) for _ in range(3))
    for cube in cubes:
        if modality.name not in cube.sensors:
            continue
        top = 0
        for values, observed in cube.sensors[modality.name].strips():
            if allowed is not None:
                observed = observed & flags(allowed)[top : top + observed.shape[2]]
            require_no_fill(values, modality.name, f"cube {cube.name}")
            values = np.where(observed, values, 0).astype(np.float64)
            top += observed.shape[2]
            count += observed.sum(axis=(0, 2, 3))
            total += values.sum(axis=(0, 2, 3))
            squares += (values**2).sum(axis=(0, 2, 3))
    if not count.all():
        never = [band for band, n in zip(modality.bands, count, strict=True) if not n]
        raise ValueError(
            f"sensor {modality.name!r}: {', '.join(never)} was observed nowhere; check nodata and cloud mask"
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return modality.with_statistics(tuple(mean), tuple(np.where(std > 0, std, 1.0)))


def smooth_backscatter(decibel: np.ndarray, acquisitions: int = 3) -> np.ndarray:
    """Centred running mean over dates (first axis) in linear power, as Peters et al. calm Sentinel-1's speckle.

    What is NaN or masked counts as absent; at the ends the mean is over fewer acquisitions.
    """
    power = 10 ** (numbers(decibel, "smooth_backscatter").astype(np.float32) / 10)
    observed = np.isfinite(power)
    power = np.where(observed, power, 0)
    half, length = acquisitions // 2, len(power)
    total, count = np.zeros_like(power), np.zeros(power.shape, dtype=np.float32)
    for shift in range(-half, half + 1):
        here, there = slice(max(0, -shift), length - max(0, shift)), slice(max(0, shift), length - max(0, -shift))
        total[here] += power[there]
        count[here] += observed[there]
    with np.errstate(divide="ignore", invalid="ignore"):
        smooth = 10 * np.log10(total / count)
    return np.where(observed, smooth, np.nan).astype(np.float32)
