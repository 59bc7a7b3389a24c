"""Data sets of torchgeo as tiles, by the form of their samples; torchgeo itself is not imported.

Written after torchgeo 0.7 to 0.10, which were read and not run: they depend on torchvision. A sample is a dictionary:
``image``, or ``image_`` and a name where there are several, (C, H, W) or (T, C, H, W), of some data sets (T * C, H, W);
``mask`` (H, W) or ``label``; of places ``transform`` (newer versions) or ``bounds`` and ``crs`` (0.7, 0.8); of dates
``t`` or ``date``, seconds since 1970. Data sets of places are asked by a query of place and time, others by a number.

For torchgeo's trainers and weights: :class:`~fusion.adapters.backbone.Backbone` is the network, ``Backbone(run)(x)``. A
member of a ``WeightsEnum`` is of torchvision, names a file of weights for a constructor of torchgeo's own, and has no
place for a configuration; ``fusion.load`` and ``push_to_hub`` do what it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..arrays.names import positions
from ..data import Geo, Modality, Tile, TileDataset
from ..data.dataset import Task
from ..data.given import calendar_dates, january_before, numbers, words
from ..data.series import fill_gaps

__all__ = ["TorchgeoTiles"]

Sample = Mapping[str, Any]
_SECONDS = ("t", "date", "time")  # keys of seconds since 1970, one or T
_LONGEST = 31  # days that a query may be long for its middle to be a date


class TorchgeoTiles(TileDataset):
    """Samples of a data set of torchgeo, or of any data set that gives such samples, as tiles.

    ::

        eurosat = torchgeo.datasets.EuroSAT("data", bands=("B02", "B03", "B04", "B08"))
        s2 = Modality("s2", "series", ("B02", "B03", "B04", "B08"), 10.0, 8, "reflectance x 10000")
        tiles = TorchgeoTiles(eurosat, {"image": s2}, (8, 8), dates="2018-07-01", task="multiclass",
                              classes=eurosat.classes)
        features = fusion.evaluation.extract(model, tiles)

    Leave transforms out: a model standardises by its own statistics. NaN, and ``nodata``, are missing.

    Args:
        dataset: ``dataset[query]`` is a sample.
        modalities: by key of a sample the modality that it holds, with the bands that are wanted, in the model's order
            and in the unit that the values have.
        grid: patches per tile (rows, columns); larger samples lose their border on all sides alike.
        queries: of each tile what the data set is asked by; None for 0, 1, ... Of places e.g. the slices or boxes of a
            sampler, ``list(GridGeoSampler(dataset, size=128))``.
        bands: by key of a sample, names of its bands in order; None where they are those of the modality.
        dates: of series: one date or T, the same for all tiles; or a function of number and sample that returns them.
            None for what samples say (``t``, ``date``), or the middle of the time in ``bounds`` for single dates.
        nodata: a number that means missing, of all modalities.
        task, classes: of the labels, ``label`` or, where there is none, ``mask``, a map of pixels; None for no labels.
            They are read with their samples.
        ignore_index: class in maps that is no label.
        crs: of all tiles, e.g. ``"EPSG:32631"``; None for what data set or samples say.

    Raises:
        ValueError: when tiles are read: keys, bands, dates or sizes that are not there.
    """

    def __init__(
        self,
        dataset: Any,
        modalities: Mapping[str, Modality],
        grid: tuple[int, int],
        *,
        queries: Sequence[Any] | None = None,
        bands: Mapping[str, Sequence[str]] | None = None,
        dates: Any = None,
        nodata: float | None = None,
        task: Task | None = None,
        classes: Sequence[str] = (),
        ignore_index: int = -1,
        crs: str | None = None,
    ) -> None:
        self._dataset, self._keys = dataset, {m.name: key for key, m in modalities.items()}
        self._queries = list(range(len(dataset)) if queries is None else queries)
        self._order = {key: _order(key, m, (bands or {}).get(key)) for key, m in modalities.items()}
        self._sizes = {key: (grid[0] * m.patch_size, grid[1] * m.patch_size) for key, m in modalities.items()}
        self._given, self._nodata, self._crs = dates, nodata, crs
        shape = tuple(self._answer(self._dataset[self._queries[0]], task).shape) if task and self._queries else None
        names = [f"{number:06d}" for number in range(len(self._queries))]
        every = list(modalities.values())
        super().__init__(names, every, grid, task=task, classes=classes, label_shape=shape, ignore_index=ignore_index)

    def labels(self) -> Tensor:
        """See :meth:`fusion.data.TileDataset.labels`; one sample after the other, for not every data set may be asked
        by several threads."""
        if self.task is None:
            return super().labels()  # an error
        return torch.stack([self._label(int(row)) for row in self._rows])

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        sample = self._dataset[self._queries[row]]
        tile, dates = Tile(self._names[row], {}), {}
        for modality in self.modalities:
            name = modality.name
            values = self._values(modality, row, sample)
            if modality.kind == "series":
                dates[name] = self._dates(name, row, sample, len(values))
            filled, valid = fill_gaps(values if values.ndim == 4 else values[None], name=name)
            if modality.kind == "series":
                tile.values[name], tile.valid[name] = torch.from_numpy(filled), torch.from_numpy(valid)
            elif valid[0]:
                tile.values[name] = torch.from_numpy(filled[0])
        if dates:
            tile.origin = january_before(np.concatenate(list(dates.values())))
            tile.days = {n: torch.from_numpy((own - tile.origin).astype(np.int64)) for n, own in dates.items()}
        tile.geo = self._geo(sample)
        tile.label = None if self.task is None else self._answer(sample, self.task)
        return tile

    def _read_label(self, row: int) -> Tensor:
        return self._answer(self._dataset[self._queries[row]], cast(Task, self.task))

    def _values(self, modality: Modality, row: int, sample: Sample) -> np.ndarray:
        """(L, C, H, W) or (C, H, W) float32 of the size of a tile, NaN where missing."""
        key, series = self._keys[modality.name], modality.kind == "series"
        if key not in sample:
            raise ValueError(f"torchgeo: sample {row} has {', '.join(map(str, sample))}, and no {key!r}")
        values, order = numbers(sample[key], f"torchgeo: {key!r}"), self._order[key]
        given = len(modality.bands) if order is None else order[0]
        shape = values.shape
        if series and values.ndim == 3 and shape[0] % given == 0:
            values = values.reshape(-1, given, *shape[1:])  # dates one after the other
        if values.ndim != (4 if series else 3) or values.shape[-3] != given:
            raise ValueError(
                f"torchgeo: sample {row} has {key!r} {shape}; a {modality.kind} of {given} bands is "
                f"{'(T, C, H, W)' if series else '(C, H, W)'}; name the bands that it has, bands={{{key!r}: [...]}}"
            )
        values = values if order is None else np.take(values, order[1], axis=-3)
        values = _central(values, self._sizes[key], key).astype(np.float32)
        return values if self._nodata is None else np.where(values == self._nodata, np.float32(np.nan), values)

    def _dates(self, name: str, row: int, sample: Sample, count: int) -> np.ndarray:
        """(T,) datetime64[D]."""
        given: Any = self._given(row, sample) if callable(self._given) else self._given
        given = given.get(name) if isinstance(given, Mapping) else given
        dates = _told(sample) if given is None else np.atleast_1d(calendar_dates(given, f"torchgeo: dates of {name}"))
        if len(dates) != count:
            raise ValueError(
                f"torchgeo: sample {row} has {count} dates of {name}, and {len(dates)} are known; give dates=[...], or "
                "a function of number and sample that returns them"
            )
        return dates

    def _answer(self, sample: Sample, task: Task) -> Tensor:
        """The label, or the map of labels of the ground of a tile."""
        if "label" in sample:
            label = torch.as_tensor(sample["label"])
            return label.long() if task == "multiclass" else label.float().reshape(-1)
        if "mask" not in sample:
            raise ValueError(f"torchgeo: samples have {', '.join(map(str, sample))}, and neither label nor mask")
        mask = np.asarray(torch.as_tensor(sample["mask"]).cpu())
        mask = mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
        key, size = next(iter(self._sizes.items()))
        whole = tuple(sample[key].shape[-2:])  # the mask is of the same ground, and may have other pixels
        part = [m * s / w for m, s, w in zip(mask.shape, size, whole, strict=True)]
        if mask.ndim != 2 or any(p != int(p) for p in part):
            raise ValueError(
                f"torchgeo: a mask {mask.shape} over {key!r} {whole} has no whole pixels in a tile of {size}"
            )
        label = torch.from_numpy(np.ascontiguousarray(_central(mask, (int(part[0]), int(part[1])), "mask")))
        return label.long() if task == "multiclass" else label.float()

    def _geo(self, sample: Sample) -> Geo | None:
        """The place of a tile, by its coarsest pixels."""
        known = self._crs or sample.get("crs") or getattr(self._dataset, "crs", None)
        key, (height, width) = next(iter(self._sizes.items()))
        rows, columns = (int(n) for n in sample[key].shape[-2:])
        found = _transform(sample, rows, columns)
        if known is None or found is None:
            return None
        a, b, c, d, e, f = found
        top, left = (rows - height) // 2, (columns - width) // 2
        coarse = height / min(size[0] for size in self._sizes.values())
        corner = c + a * left + b * top, f + d * left + e * top
        crs = known if isinstance(known, str) else known.to_string()
        return Geo((a * coarse, b * coarse, corner[0], d * coarse, e * coarse, corner[1]), crs)


def _order(key: str, modality: Modality, bands: Sequence[str] | None) -> tuple[int, list[int]] | None:
    """How many bands a sample has, and where those of the modality are; None where it has just them, in order."""
    if bands is None:
        return None
    named = words(bands, f"torchgeo: bands of {key!r}")
    found = positions(modality.bands, named)
    if None in found:
        missing = ", ".join(band for band, at in zip(modality.bands, found, strict=True) if at is None)
        raise ValueError(f"torchgeo: no band {missing} of {modality.name} among those of {key!r}, {', '.join(named)}")
    return len(named), cast("list[int]", found)


def _central(values: np.ndarray, size: tuple[int, int], key: str) -> np.ndarray:
    """The middle of (..., H, W)."""
    (height, width), (rows, columns) = values.shape[-2:], size
    if height < rows or width < columns:
        raise ValueError(
            f"torchgeo: {key!r} has {height} x {width} pixels, a tile {rows} x {columns}; ask for larger samples, or "
            "take a smaller grid"
        )
    top, left = (height - rows) // 2, (width - columns) // 2
    return values[..., top : top + rows, left : left + columns]


def _told(sample: Sample) -> np.ndarray:
    """(T,) datetime64[D] that a sample says of itself; none where it says nothing, or a time too long for a date."""
    for key in _SECONDS:
        if key in sample:
            seconds = np.atleast_1d(numbers(sample[key], f"torchgeo: {key!r}")).astype(np.int64)
            return seconds.astype("datetime64[s]").astype("datetime64[D]")
    bounds = sample.get("bounds")
    if bounds is None:
        return np.zeros(0, "datetime64[D]")
    if isinstance(bounds, Tensor):  # of x, y and time: first, last, step
        first, last = (float(v) for v in bounds[6:8])
    elif hasattr(bounds, "mint"):
        first, last = (_seconds(v) for v in (bounds.mint, bounds.maxt))
    elif len(bounds) > 2 and bounds[2].start is not None:
        first, last = _seconds(bounds[2].start), _seconds(bounds[2].stop)
    else:
        return np.zeros(0, "datetime64[D]")
    if last - first > _LONGEST * 86400:
        return np.zeros(0, "datetime64[D]")
    return np.array([int((first + last) / 2)]).astype("datetime64[s]").astype("datetime64[D]")


def _seconds(time: Any) -> float:
    return time.timestamp() if hasattr(time, "timestamp") else float(time)


def _transform(sample: Sample, rows: int, columns: int) -> tuple[float, ...] | None:
    """(a, b, c, d, e, f) of the pixels of a sample."""
    if "transform" in sample:
        return tuple(float(v) for v in sample["transform"][:6])
    bounds = sample.get("bounds")
    if bounds is None:
        return None
    if isinstance(bounds, Tensor):
        west, east, south, north = (float(bounds[k]) for k in (0, 1, 3, 4))
    elif hasattr(bounds, "minx"):
        west, east, south, north = (float(v) for v in (bounds.minx, bounds.maxx, bounds.miny, bounds.maxy))
    else:
        x, y = bounds[:2]
        west, east, south, north = (float(v) for v in (x.start, x.stop, y.start, y.stop))
    return (east - west) / columns, 0.0, west, 0.0, (south - north) / rows, north
