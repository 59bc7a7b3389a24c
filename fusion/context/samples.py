"""Training samples from cubes: a pixel's window in space and time, for each sensor around its own nearest date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fusion.data import Cube, Geo, Tile, TileDataset
from fusion.data.given import flags
from fusion.data.partners import LONGEST_GAP
from fusion.data.spacing import evenly_spaced

from .config import SensorConfig

__all__ = ["ContextSamples", "context_frames", "nearest_frames", "site_splits"]

_NEVER = np.iinfo(np.int64).max


def context_frames(
    valid: np.ndarray, days: np.ndarray, middle: np.ndarray, frames: int, span: int, spacing: int = 0
) -> np.ndarray:
    """Which dates make up the temporal context of each pixel: the nearest ones on which it was observed.

    ``frames // 2`` dates before and as many after the middle one, none farther from it than half the span.

    Args:
        valid: (N, T) bool, by pixel and date: the pixel was observed.
        days: (T,) increasing.
        middle: (N,) position of the middle date, on which the pixel must have been observed; -1 for no date at all.
        spacing: least number of days from one date to the next.

    Returns:
        (N, frames) positions of dates, -1 where there is none.
    """
    steps, last = frames // 2, len(days) - 1
    after = _onward(valid, days, middle, steps, span // 2, spacing)
    mirrored = np.where(middle >= 0, last - middle, -1)
    before = _onward(valid[:, ::-1], -days[::-1], mirrored, steps, span // 2, spacing)
    before = np.where(before >= 0, last - before, -1)
    return np.concatenate([before[:, ::-1], middle[:, None], after], axis=1)


def _onward(valid: np.ndarray, days: np.ndarray, start: np.ndarray, steps: int, reach: int, spacing: int) -> np.ndarray:
    """(N, steps) positions of the dates that follow ``start``, each at least ``spacing`` days after the one before."""
    pixels, times = valid.shape
    position = np.where(valid, np.arange(times), times)
    following = np.full((pixels, times + 1), times)  # the first date on which the pixel was observed from a position on
    following[:, :times] = np.minimum.accumulate(position[:, ::-1], axis=1)[:, ::-1]
    chosen = np.full((pixels, steps), -1, dtype=np.int64)
    rows, here = np.flatnonzero(start >= 0), start[start >= 0]
    limit = days[here] + reach
    for step in range(steps):
        here = following[rows, np.searchsorted(days, days[here] + max(spacing, 1))]
        inside = here < times
        inside[inside] = days[here[inside]] <= limit[inside]
        rows, here, limit = rows[inside], here[inside], limit[inside]
        chosen[rows, step] = here
    return chosen


def nearest_frames(valid: np.ndarray, days: np.ndarray, day: int, most: int) -> np.ndarray:
    """(N,) position of the valid date of each pixel that is nearest to ``day``; -1 if none is within ``most`` days."""
    apart = np.where(valid, np.abs(days - day), np.iinfo(np.int64).max)  # (N, T)
    nearest = apart.argmin(axis=1)
    return np.where(apart.min(axis=1) <= most, nearest, -1)


def site_splits(
    cubes: Sequence[Cube], shares: Mapping[str, float] | None = None, *, seed: int = 0
) -> dict[str, list[Cube]]:
    """Deals whole sites to the splits (default train 0.6, val 0.2, test 0.2); every cube follows its site.

    Raises:
        ValueError: fewer sites than splits.
    """
    shares = shares or {"train": 0.6, "val": 0.2, "test": 0.2}
    sites = sorted({cube.site or cube.name for cube in cubes})
    if len(sites) < len(shares):
        raise ValueError(f"site_splits: {len(sites)} sites cannot make {len(shares)} splits without sharing a site")
    order = np.random.default_rng(seed).permutation(len(sites))
    # The first sites make sure that no split is empty; the others follow the shares.
    bounds = np.cumsum([share * (len(sites) - len(shares)) for share in shares.values()]).round().astype(int)
    owner = list(shares) + [name for name, n in zip(shares, np.diff(bounds, prepend=0), strict=True) for _ in range(n)]
    split_of = {sites[site]: owner[rank] for rank, site in enumerate(order)}
    return {name: [c for c in cubes if split_of[c.site or c.name] == name] for name in shares}


@dataclass(frozen=True)
class _Series:
    """A sensor of a cube in memory, with a margin for windows at the border."""

    days: np.ndarray  # since 1970-01-01
    values: np.ndarray  # (T, C, H + 2r, W + 2r)
    observed: np.ndarray
    valid: np.ndarray  # (T, H, W): at least one band was observed


class ContextSamples(TileDataset):
    """Windows of space and time around pixels and dates of cubes.

    The first sensor is the reference: a sample is one of its pixels on one of its dates, observed there. Every other
    sensor is represented by its window around the date nearest to that, at most ``longest_gap`` days away, or is
    absent. ``observed`` of a tile says by pixel and band what was; what was not has the band's mean. Days count from 1
    January of the year of the cube's first date, of any of these sensors.

    The evaluation view takes the nearest dates; a random view (training) half of twice as many, so that one pixel gives
    many different contexts. In the paper all eleven dates are such a draw; here the middle one is given.

    Args:
        cubes: in memory as long as the samples are; use pieces of large ones.
        sensors: one configuration each, the reference first.
        stride: pixels between samples in space.
        dates: at most so many dates a cube, evenly spaced among the reference's; None takes all.
        allowed: (H, W) bool, pixels that may be the middle of a sample (of cubes of that size); None allows all.
        longest_gap: in days.
        limit: at most so many samples, drawn with ``seed``.

    Raises:
        ValueError: no cube has the reference, or none of its pixels was observed.
    """

    def __init__(
        self,
        cubes: Iterable[Cube],
        sensors: Sequence[SensorConfig],
        *,
        stride: int = 9,
        dates: int | None = None,
        allowed: np.ndarray | None = None,
        longest_gap: int = LONGEST_GAP,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self.sensors = {s.modality.name: s for s in sensors}
        self.longest_gap = longest_gap
        reference = sensors[0].modality.name
        self._cubes = [cube for cube in cubes if reference in cube.sensors]
        if not self._cubes:
            raise ValueError(f"samples: no cube has the reference sensor {reference!r}")
        self._series = [self._load(cube) for cube in self._cubes]
        found = [_pixels(k, series[reference].valid, stride, dates, allowed) for k, series in enumerate(self._series)]
        self._middles = np.concatenate(found)  # (N, 4): cube, date, row, column
        if limit is not None and limit < len(self._middles):
            chosen = np.random.default_rng(seed).choice(len(self._middles), limit, replace=False)
            self._middles = self._middles[np.sort(chosen)]
        self._origins = [_january(series) for series in self._series]
        names = [f"{self._cubes[k].name}/{t}/{r}/{c}" for k, t, r, c in self._middles]
        super().__init__(names, [s.modality for s in sensors], (1, 1))

    def partnered(self, name: str) -> np.ndarray:
        """(N,) bool: which samples of this view have the sensor, on a date near enough to theirs."""
        return self._gaps(name) <= self.longest_gap

    def check_partners(self, names: Sequence[str] | None = None) -> None:
        """Refuses sensors (of ``names``, all by default) that no sample has.

        Raises:
            ValueError: a sensor has no date near enough to any of the reference; the message has the nearest gap.
        """
        reference = next(iter(self.sensors))
        for name in self.sensors if names is None else names:
            gaps = self._gaps(name)
            if (gaps <= self.longest_gap).any():
                continue
            if gaps.min() == _NEVER:
                raise ValueError(
                    f"context: {name!r} was not observed on any pixel on which {reference!r}, the reference, was; "
                    "check its nodata value, mask and place with fusion data check, or leave it out"
                )
            raise ValueError(
                f"context: no date of {name!r} lies within {self.longest_gap} days of one of {reference!r}, the "
                f"reference; the nearest is {gaps.min()} days away. Give --training.longest_gap {gaps.min()} or more "
                f"(longest_gap=), or leave {name!r} out"
            )

    def _gaps(self, name: str) -> np.ndarray:
        """(N,) days from each sample to the sensor's nearest date on which its pixel was observed; large for none."""
        reference, chosen = next(iter(self.sensors)), self._middles[self._rows]
        gaps = np.full(len(chosen), _NEVER)
        for cube, date in np.unique(chosen[:, :2], axis=0):
            series = self._series[cube]
            if name not in series:
                continue
            own = np.flatnonzero((chosen[:, 0] == cube) & (chosen[:, 1] == date))
            seen = series[name].valid[:, chosen[own, 2], chosen[own, 3]]  # (T, n)
            apart = np.abs(series[name].days - series[reference].days[date])[:, None]
            gaps[own] = np.where(seen, apart, _NEVER).min(axis=0, initial=_NEVER)
        return gaps

    def _load(self, cube: Cube) -> dict[str, _Series]:
        height, width = cube.shape
        loaded = {}
        for name, config in self.sensors.items():
            if name in cube.sensors:
                r = config.window // 2
                values, observed = cube.sensors[name].read(slice(0, height), slice(0, width), margin=r)
                mean = np.array(config.modality.mean or (0,) * config.modality.channels, dtype=np.float32)
                values = np.where(observed, values, mean[:, None, None])
                valid = np.any(observed[..., r : r + height, r : r + width], axis=1)
                loaded[name] = _Series(cube.sensors[name].epoch_days, values, observed, valid)
        return loaded

    def _place(self, row: int) -> Geo | None:
        cube, _, r, c = self._middles[row]
        geo = self._cubes[cube].geo
        if geo is None:
            return None
        a, b, x, d, e, y = geo.transform
        return replace(geo, transform=(a, b, x + a * float(c), d, e, y + e * float(r)))

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        cube, date, r, c = self._middles[row]
        series = self._series[cube]
        reference = next(iter(self.sensors))
        day = series[reference].days[date]
        wanted = {m.name for m in self.modalities}
        tile = Tile(self._names[row], {}, origin=self._origins[cube])
        first = self._origins[cube].astype(np.int64)
        for name, config in self.sensors.items():
            if name not in series or name not in wanted:
                continue
            own = series[name]
            usable = own.valid[None, :, r, c]  # (1, T)
            middle = np.array([date]) if name == reference else nearest_frames(usable, own.days, day, self.longest_gap)
            if middle[0] < 0:
                continue
            thinned = _thinned(usable, middle[0], config, rng)
            chosen = context_frames(thinned, own.days, middle, config.frames, config.span, config.spacing)[0]
            valid = chosen >= 0
            window = np.s_[chosen, :, r : r + config.window, c : c + config.window]
            tile.values[name] = torch.from_numpy(own.values[window])
            tile.observed[name] = torch.from_numpy(own.observed[window] & valid[:, None, None, None])
            tile.days[name] = torch.from_numpy(np.where(valid, own.days[chosen] - first, 0))
            tile.valid[name] = torch.from_numpy(valid)
        return tile


def _pixels(cube: int, valid: np.ndarray, stride: int, dates: int | None, allowed: np.ndarray | None) -> np.ndarray:
    """(n, 4) cube, date, row and column of the middles of samples."""
    usable = np.flatnonzero(valid.any(axis=(1, 2)))
    if dates is not None:
        usable = usable[evenly_spaced(len(usable), dates)]
    wanted = np.zeros_like(valid)
    wanted[usable, stride // 2 :: stride, stride // 2 :: stride] = True
    if allowed is not None:
        wanted &= flags(allowed)
    positions = np.argwhere(valid & wanted)
    return np.column_stack([np.full(len(positions), cube), positions])


def _thinned(valid: np.ndarray, middle: int, config: SensorConfig, rng: np.random.Generator | None) -> np.ndarray:
    """Forgets, on either side of the middle date, half of the ``frames - 1`` nearest dates at random; of a sensor
    whose frames are spaced, a random share of all dates, at most half."""
    if rng is None:
        return valid
    thinned = valid.copy()
    if config.spacing:
        thinned &= rng.random(valid.shape) >= rng.uniform(0, 0.5)
        thinned[0, middle] = True
        return thinned
    before, after = np.flatnonzero(valid[0, :middle]), middle + 1 + np.flatnonzero(valid[0, middle + 1 :])
    for near in (before[-(config.frames - 1) :], after[: config.frames - 1]):
        surplus = len(near) - config.frames // 2
        if surplus > 0:
            thinned[0, rng.choice(near, surplus, replace=False)] = False
    return thinned


def _january(series: Mapping[str, _Series]) -> np.datetime64:
    """1 January of the year of the first date of any sensor."""
    first = min(own.days.min() for own in series.values() if len(own.days))
    return np.datetime64(f"{first.astype('datetime64[D]').astype('datetime64[Y]')}-01-01", "D")
