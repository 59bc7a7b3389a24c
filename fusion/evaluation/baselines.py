"""What pretraining has to beat: raw band statistics, and the same encoder with random weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fusion.data import Tile, TileDataset
from fusion.data.spacing import evenly_spaced
from fusion.data.year import part_of_year
from fusion.training.loading import evaluation_loader
from fusion.training.systems import config_of, reinitialised

from .features import Features
from .ground import ground_blocks
from .probes import ProbeResult, fit_and_score
from .regressors import random_forest

__all__ = [
    "forest_probe",
    "random_encoder",
    "raw_statistics",
]


def raw_statistics(dataset: TileDataset, seasons: int = 4) -> Features:
    """Mean and standard deviation of every band: of an image over its pixels, of a series over dates and pixels,
    and the mean of each season (the year cut into ``seasons`` equal parts).

    Only valid dates count. A season without a date takes the tile's own mean of that band; a missing modality is
    NaN, for the probe to fill with the training mean. D = 2 C an image and (2 + seasons) C a series.
    """
    if seasons < 1:
        raise ValueError(f"raw_statistics: seasons must be at least 1, not {seasons}")
    x = np.stack([_describe(dataset[i], dataset, seasons) for i in range(len(dataset))])
    labels, blocks = (dataset.labels().numpy(), ground_blocks(dataset)) if dataset.task else (None, None)
    return Features(x, labels, tuple(dataset.names), dataset.task, dataset.classes, blocks=blocks)


def random_encoder(model: nn.Module, dataset: TileDataset, seed: int = 0, tiles: int = 256) -> nn.Module:
    """The same architecture with fresh random weights, and batch-norm statistics of the data.

    Without the statistics a random encoder would be a weaker control than it fairly is: its layers would see
    badly scaled inputs that the pretrained one never sees. They are those of ``tiles`` tiles, evenly spaced.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = reinitialised(model)
        norms = [m for m in fresh.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
        own = [norm.momentum for norm in norms]
        if norms:
            names = [m.name for m in config_of(model).modalities if m.name in {d.name for d in dataset.modalities}]
            some = evenly_spaced(len(dataset), tiles)
            fresh.train()
            with torch.no_grad():
                for i, batch in enumerate(evaluation_loader(dataset.with_modalities(names).subset(some), 32)):
                    for norm in norms:
                        norm.momentum = 1 / (i + 1)  # plain average over the batches
                    fresh(batch)
            for norm, momentum in zip(norms, own, strict=True):
                norm.momentum = momentum
    return fresh.eval().to(next(model.parameters()).device)


def forest_probe(train: Features, test: Features, *, trees: int = 300, seed: int = 0) -> ProbeResult:
    """A random forest on the features: the usual strong baseline on band statistics.

    Raises:
        ValueError: as :func:`fusion.evaluation.linear_probe`.
    """
    return fit_and_score("forest", random_forest(str(train.task), trees, 1, seed), train, test)[1]


def _describe(tile: Tile, dataset: TileDataset, seasons: int) -> np.ndarray:
    columns = []
    for modality in dataset.modalities:
        values = tile.values.get(modality.name)
        if modality.kind == "image":
            size = 2 * modality.channels
            columns.append(np.full(size, np.nan) if values is None else _moments(values.numpy()))
        else:
            size = (2 + seasons) * modality.channels
            columns.append(np.full(size, np.nan) if values is None else _seasonal(tile, modality.name, seasons))
    return np.concatenate(columns).astype(np.float32)


def _moments(values: np.ndarray) -> np.ndarray:
    """(..., C, H, W) -> (2 C,): mean and standard deviation per band."""
    flat = np.moveaxis(values.astype(np.float64), -3, 0).reshape(values.shape[-3], -1)
    return np.concatenate([flat.mean(1), flat.std(1)])


def _seasonal(tile: Tile, name: str, seasons: int) -> np.ndarray:
    values, days = tile.values[name].numpy(), tile.days[name].numpy()  # (L, C, H, W), (L,)
    valid = tile.valid[name].numpy() if name in tile.valid else np.ones(len(days), dtype=bool)
    values, days = values[valid], days[valid]
    if not len(values):
        return np.full((2 + seasons) * tile.values[name].shape[1], np.nan)
    overall = _moments(values)
    by_date = values.astype(np.float64).mean(axis=(2, 3))  # (L, C)
    season = part_of_year(days, seasons)
    means = [by_date[season == s].mean(0) if (season == s).any() else by_date.mean(0) for s in range(seasons)]
    return np.concatenate([overall, *means])
