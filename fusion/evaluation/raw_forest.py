"""Controls at equal labels: what simple methods make of the raw values of tiles, or of pixels where labels are maps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusion.data import Tile, TileDataset
from fusion.data.year import part_of_year

from .alignment import Alignment, by_place, standardised_by_place
from .baselines import forest_probe, raw_statistics
from .controls import Described, Strongest, strongest
from .dense import score_predictions
from .features import Features
from .ground import ground_blocks
from .probes import ProbeResult, require_labels, result_of
from .raw_dates import Calendar, filled
from .regressors import prepared, random_forest

__all__ = ["RawTiles", "pixel_statistics", "raw_best", "raw_forest"]

_PIXELS = 10_000  # to learn from; a forest gains little from more, and takes minutes
_TREES = 100


def raw_forest(train: TileDataset, test: TileDataset, *, seasons: int = 4, seed: int = 0) -> ProbeResult:
    """What a random forest makes of the same labels without any network, scored on ``test`` like a fine-tuned model.

    Of tiles it sees :func:`~fusion.evaluation.raw_statistics`; where labels are maps, :func:`pixel_statistics` of at
    most 10,000 labelled pixels, as many of each tile.

    Raises:
        ValueError: no labels, labels of two kinds, or one class only.
    """
    if train.dense != test.dense:
        raise ValueError("raw_forest: labels are maps in one of train and test, and of tiles in the other")
    if not train.dense:
        return forest_probe(*(raw_statistics(split, seasons) for split in (train, test)), seed=seed)
    fitted = _fit(train, seasons, seed)

    def predict(tile: Tile) -> np.ndarray:
        given = pixel_statistics(tile, test, seasons)
        return np.asarray(fitted.predict(given.reshape(-1, given.shape[-1])))

    return score_predictions(_predicted(predict, test), test, len(train), method="forest")


def raw_best(train: TileDataset, test: TileDataset, *, seasons: int = 4, seed: int = 0) -> ProbeResult:
    """The strongest of several simple methods on raw values, which held-out blocks of ``train`` choose, scored on
    ``test`` like a fine-tuned model.

    They are a linear model, a random forest and HistGradientBoosting, each on means of seasons and on
    values by date (:class:`~fusion.evaluation.raw_dates.Calendar`), see :func:`fusion.evaluation.controls.strongest`.
    The notes and ``setting["control"]`` name the winner.

    Raises:
        ValueError: as :func:`raw_forest`.
    """
    if train.dense != test.dense:
        raise ValueError("raw_best: labels are maps in one of train and test, and of tiles in the other")
    if train.dense:
        return _best_of_pixels(train, test, seasons, seed)
    return RawTiles.of(Alignment(train, test), seasons).best(seed=seed)


@dataclass(frozen=True)
class RawTiles:
    """Raw values of training and test tiles, read once for any draws of labels; standardised by place where these are.

    Attributes:
        known, unseen: :func:`~fusion.evaluation.raw_statistics` of the training and the test tiles.
        described, asked: what the methods of :func:`raw_best` are given of them.
    """

    known: Features
    unseen: Features
    described: Mapping[str, Described]
    asked: Mapping[str, Described]

    @classmethod
    def of(cls, ground: Alignment, seasons: int = 4) -> RawTiles:
        """Reads all tiles of ``ground``."""
        calendar = Calendar.of(ground.train)
        found: list[Any] = []
        for tiles, places in ((ground.train, ground.places), (ground.test, ground.test_places)):
            features = by_place(raw_statistics(tiles, seasons), places)
            dates = [standardised_by_place(one, places) for one in _tile_dates(calendar, tiles)]
            found.append((features, _described(features.x, dates, calendar, seasons)))
        (known, described), (unseen, asked) = found
        return cls(known, unseen, described, asked)

    def best(self, rows: np.ndarray | None = None, *, seed: int = 0) -> ProbeResult:
        """As :func:`raw_best`, learned from the training tiles ``rows``; from all by default."""
        known, described = self.known, self.described
        if rows is not None:
            known, described = known.subset(rows), {name: one.rows(rows) for name, one in described.items()}
        task = require_labels("raw_best", known, self.unseen)
        found = strongest(described, task, known.labels, groups=known.blocks, seed=seed)
        return _named(result_of("best", task, known, self.unseen, found.predict(self.asked), {}), found)


def pixel_statistics(tile: Tile, dataset: TileDataset, seasons: int = 4) -> np.ndarray:
    """(H, W, F) float32 of the pixels of a tile's label map: the bands of an image; of a series each band's mean and
    standard deviation over its valid dates, and its mean in each of ``seasons`` equal parts of the year.

    Bands of another resolution are taken at the nearest pixel. A part of the year without a date takes the mean; what
    the tile lacks is NaN.
    """
    if not dataset.dense or dataset.label_shape is None:
        raise ValueError("pixel_statistics: labels are no maps; see raw_statistics")
    shape = (int(dataset.label_shape[0]), int(dataset.label_shape[1]))
    columns = []
    for modality in dataset.modalities:
        values = tile.values.get(modality.name)
        count = modality.channels * (1 if modality.kind == "image" else 2 + seasons)
        if values is None:
            columns.append(np.full((count, *shape), np.nan))
        elif modality.kind == "image":
            columns.append(_nearest(values.numpy(), shape))
        else:
            columns.append(_nearest(_of_series(tile, modality.name, seasons), shape))
    return np.moveaxis(np.concatenate(columns), 0, -1).astype(np.float32)


def _of_series(tile: Tile, name: str, seasons: int) -> np.ndarray:
    """((2 + seasons) C, h, w)"""
    values, days = tile.values[name].numpy().astype(np.float64), tile.days[name].numpy()  # (L, C, h, w), (L,)
    valid = tile.valid[name].numpy() if name in tile.valid else np.ones(len(days), dtype=bool)
    values, days = values[valid], days[valid]
    if not len(values):
        return np.full(((2 + seasons) * tile.values[name].shape[1], *tile.values[name].shape[2:]), np.nan)
    mean = values.mean(axis=0)
    season = part_of_year(days, seasons)
    means = [values[season == s].mean(axis=0) if (season == s).any() else mean for s in range(seasons)]
    return np.concatenate([mean, values.std(axis=0), *means])


def _nearest(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(C, h, w) at the pixels of a map (C, H, W)."""
    rows, columns = (
        ((np.arange(n) + 0.5) * own / n).astype(int) for n, own in zip(shape, values.shape[-2:], strict=True)
    )
    return values[:, rows[:, None], columns]


def _labelled(dataset: TileDataset, label: np.ndarray) -> np.ndarray:
    known: np.ndarray = np.isfinite(label) if dataset.task == "regression" else label != dataset.ignore_index
    return known


def _best_of_pixels(train: TileDataset, test: TileDataset, seasons: int, seed: int) -> ProbeResult:
    calendar = Calendar.of(train)
    seen, dates, y, of = _sampled(train, seasons, seed, calendar)
    blocks = ground_blocks(train)
    groups = (np.array(train.names) if blocks is None else blocks)[of]
    found = strongest(_described(seen, dates, calendar, seasons), str(train.task), y, groups=groups, seed=seed)

    def predict(tile: Tile) -> np.ndarray:
        given = pixel_statistics(tile, test, seasons)
        flat = given.reshape(-1, given.shape[-1])
        return found.predict(_described(flat, _pixel_dates(tile, test, calendar), calendar, seasons))

    return _named(score_predictions(_predicted(predict, test), test, len(train), method="best"), found)


def _fit(train: TileDataset, seasons: int, seed: int) -> Any:
    x, _, y, _ = _sampled(train, seasons, seed)
    forest = random_forest(str(train.task), _TREES, 2, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return prepared(forest, standardise=False).fit(x, y)


def _sampled(
    train: TileDataset, seasons: int, seed: int, calendar: Calendar | None = None
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """At most 10,000 labelled pixels, as many of each tile: their statistics, values by date (with and without gaps),
    labels, and number of their tile."""
    rng, most = np.random.default_rng(seed), max(1, _PIXELS // len(train))
    inputs, targets, of = [], [], []
    dates: list[list[np.ndarray]] = [[], []]
    for i in range(len(train)):
        tile = train[i]
        label = np.asarray(tile.label)
        known = np.flatnonzero(_labelled(train, label))
        if not len(known):
            continue
        chosen = np.sort(rng.permutation(known)[:most])
        inputs.append(pixel_statistics(tile, train, seasons).reshape(label.size, -1)[chosen])
        targets.append(label.ravel()[chosen])
        of.append(np.full(len(chosen), i))
        if calendar is not None:
            for part, values in zip(dates, _pixel_dates(tile, train, calendar), strict=True):
                part.append(values[chosen])
    if not targets:
        raise ValueError(f"raw_forest: no pixel of {len(train)} tiles, e.g. {train.names[0]}, is labelled")
    y = np.concatenate(targets)
    if train.task != "regression" and len(np.unique(y)) < 2:
        raise ValueError(f"raw_forest: all {len(y)} labelled pixels are of class {train.classes[int(y[0])]}")
    joined = [np.concatenate(part) for part in dates if part]
    return np.concatenate(inputs), joined, y, np.concatenate(of)


def _predicted(predict: Callable[[Tile], np.ndarray], test: TileDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predicted and true map of each tile, (1, H, W)."""
    for i in range(len(test)):
        tile = test[i]
        label = np.asarray(tile.label)
        yield predict(tile).reshape(1, *label.shape), label[None]


def _described(seen: np.ndarray, dates: Sequence[np.ndarray], calendar: Calendar, seasons: int) -> dict[str, Described]:
    """Raw values by what they are: seasons (N, F), and where there are series dates, with and without gaps (N, G)."""
    if not calendar.dates:
        return {"means and deviations": Described(seen)}
    return {f"{seasons} seasons": Described(seen), f"{calendar.dates} dates": Described(*dates)}


def _tile_dates(calendar: Calendar, dataset: TileDataset) -> list[np.ndarray]:
    """(N, G) by date, and the same without gaps: means of tiles, of images with deviations."""
    rows = [_pixel_dates(dataset[i], dataset, calendar, whole=True) for i in range(len(dataset))]
    return [np.concatenate(part).astype(np.float32) for part in zip(*rows, strict=True)]


def _pixel_dates(tile: Tile, dataset: TileDataset, calendar: Calendar, whole: bool = False) -> list[np.ndarray]:
    """(H W, G) of the pixels of a label map by date, and the same without gaps; ``whole`` (1, G) of the tile."""
    shape = (1, 1) if whole else tuple(int(side) for side in dataset.label_shape or ())
    gaps: list[np.ndarray] = []
    without: list[np.ndarray] = []
    for modality in dataset.modalities:
        name, days = modality.name, calendar.days.get(modality.name)
        if days is None:
            image = tile.values.get(name)
            values = np.full((1, modality.channels, *shape), np.nan) if image is None else image.numpy()[None]
            spread = [values.std(axis=(2, 3), keepdims=True)] if whole and image is not None else []
            spread = [np.full((1, modality.channels, 1, 1), np.nan)] if whole and image is None else spread
        else:
            found = calendar.values(tile, name)
            values = np.full((len(days), modality.channels, *shape), np.nan) if found is None else found
            spread = [values.std(axis=(2, 3), keepdims=True)] if whole else []
        values = values.mean(axis=(2, 3), keepdims=True) if whole else values
        for part in (values, *spread):
            for kept, one in ((gaps, part), (without, part if days is None else filled(part, days))):
                kept.append(
                    _nearest(one.reshape(-1, *one.shape[2:]), (shape[0], shape[1])).reshape(-1, shape[0] * shape[1])
                )
    return [np.concatenate(part).T.astype(np.float32) for part in (gaps, without)]


def _named(result: ProbeResult, found: Strongest) -> ProbeResult:
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.held_out.items() if not np.isnan(value))
    note = f"strongest control: {found.name}" + (f" (on held-out blocks: {told})" if told else "")
    return replace(result, setting=result.setting | {"control": found.name}, notes=(*result.notes, note))
