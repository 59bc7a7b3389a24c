"""The control at equal labels: a random forest on the raw values of tiles, or of pixels where labels are maps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from fusion.data import Tile, TileDataset

from .baselines import forest_probe, raw_statistics
from .dense import score_predictions
from .probes import ProbeResult
from .regressors import prepared

__all__ = ["pixel_statistics", "raw_forest"]

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
    return score_predictions(_predicted(fitted, test, seasons), test, len(train), method="forest")


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
    season = (days % 365.25 * seasons / 365.25).astype(int).clip(0, seasons - 1)
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


def _fit(train: TileDataset, seasons: int, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    rng, most = np.random.default_rng(seed), max(1, _PIXELS // len(train))
    inputs, targets = [], []
    for i in range(len(train)):
        tile = train[i]
        label = np.asarray(tile.label)
        known = np.flatnonzero(_labelled(train, label))
        if not len(known):
            continue
        chosen = np.sort(rng.permutation(known)[:most])
        inputs.append(pixel_statistics(tile, train, seasons).reshape(label.size, -1)[chosen])
        targets.append(label.ravel()[chosen])
    if not targets:
        raise ValueError(f"raw_forest: no pixel of {len(train)} tiles, e.g. {train.names[0]}, is labelled")
    x, y = np.concatenate(inputs), np.concatenate(targets)
    if train.task != "regression" and len(np.unique(y)) < 2:
        raise ValueError(f"raw_forest: all {len(y)} labelled pixels are of class {train.classes[int(y[0])]}")
    kind = RandomForestRegressor if train.task == "regression" else RandomForestClassifier
    share = 1 / 3 if train.task == "regression" else "sqrt"  # Breiman's choices
    forest = kind(_TREES, max_features=share, min_samples_leaf=2, random_state=seed, n_jobs=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return prepared(forest, standardise=False).fit(x, y)


def _predicted(fitted: Any, test: TileDataset, seasons: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predicted and true map of each tile, (1, H, W)."""
    for i in range(len(test)):
        tile = test[i]
        label = np.asarray(tile.label)
        found = fitted.predict(pixel_statistics(tile, test, seasons).reshape(label.size, -1))
        yield found.reshape(1, *label.shape), label[None]
