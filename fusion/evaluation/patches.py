"""Labels that are maps, brought to the patches that a model encodes: votes of pixels, and a sample of what is labelled.

The sample keeps the shares of all strata, so that a rare class is neither lost nor made frequent; memory is that of the
sample, however many patches there are.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn

from fusion.data import TileDataset
from fusion.embed.blend import device_of
from fusion.training.loading import evaluation_loader, require_fit

from .features import Features
from .ground import ground_blocks

__all__ = ["MOST", "patch_features", "stratified_sample", "vote"]

MOST = 200_000  # patches that an estimator learns from
_LEAST = 50  # of each class, or all that it has
_TILES = 64  # whose label maps are in memory at a time


def vote(labels: np.ndarray, cells: tuple[int, int], task: str, classes: int, ignore_index: int) -> np.ndarray:
    """What the labelled pixels of each cell of tiles say: the class of most of them (of equally many the first), or the
    mean of a quantity.

    Args:
        labels: (B, H, W). Where a cell is smaller than a pixel, it has the label of the pixel that it lies in.
        cells: rows and columns of cells of a tile.

    Returns:
        (B, rows, columns) int64, -1 where no pixel is labelled, or float64, NaN there.
    """
    size = labels.shape[1:]
    fine = (max(size[0], cells[0]), max(size[1], cells[1]))
    if fine != size:  # each cell gets a pixel to ask
        row, column = (np.arange(n) * m // n for n, m in zip(fine, size, strict=True))
        labels = labels[:, row[:, None], column]
    # As F.interpolate(..., mode="nearest") enlarges cells to pixels.
    row, column = (np.arange(n) * m // n for n, m in zip(fine, cells, strict=True))
    count = cells[0] * cells[1]
    cell = np.arange(len(labels))[:, None, None] * count + row[:, None] * cells[1] + column  # (B, H, W)
    known = np.isfinite(labels) if task == "regression" else labels != ignore_index
    every = len(labels) * count
    if task == "regression":
        total = np.bincount(cell[known], labels[known], minlength=every)
        with np.errstate(invalid="ignore"):
            found = total / np.bincount(cell[known], minlength=every)
    else:
        flat = cell[known] * classes + labels[known].astype(np.int64)
        votes = np.bincount(flat, minlength=every * classes).reshape(every, classes)
        found = np.where(votes.any(axis=1), votes.argmax(axis=1), -1)
    return cast(np.ndarray, found.reshape(len(labels), *cells))


def stratified_sample(strata: np.ndarray, most: int, seed: int, classes: np.ndarray | None = None) -> np.ndarray:
    """Numbers (ascending) of at most ``most`` of the rows, every stratum by its share, the same for the same seed.

    Args:
        strata: (N,) stratum of each row.
        classes: (N,) of which 50 rows each are kept, or all, as long as that is less than half of the sample.
    """
    if len(strata) <= most:
        return np.arange(len(strata))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(strata))
    rank, size = _ranks(np.asarray(strata)[shuffled])
    key = (rank + rng.random(len(rank))) / size  # of a stratum of n rows one falls into each n-th part of 0 to 1
    if classes is not None:
        own, _ = _ranks(np.asarray(classes)[shuffled])
        least = min(_LEAST, most // 2 // max(1, len(np.unique(classes))))
        key[own < least] -= 1
    return np.sort(shuffled[np.argsort(key, kind="stable")[:most]])


def _ranks(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row its place among the rows of its group, from 0, and how many these are."""
    order = np.argsort(groups, kind="stable")
    _, first, inverse, size = np.unique(groups[order], return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - first[inverse]
    sizes = np.empty(len(groups), dtype=np.int64)
    sizes[order] = size[inverse]
    return rank, sizes


def strata_of(labels: np.ndarray, task: str) -> np.ndarray:
    """Classes as they are, quantities as tenths of their order."""
    if task != "regression":
        return labels
    return np.searchsorted(np.quantile(labels, np.linspace(0, 1, 11)[1:-1]), labels, side="right")


def patch_features(
    model: nn.Module, dataset: TileDataset, *, most: int = MOST, seed: int = 0, batch_size: int = 16
) -> tuple[Features, np.ndarray]:
    """Encodings of labelled patches with what their pixels say; only tiles that the sample has are encoded.

    Args:
        model: ``model(batch).patches`` is (B, P, D).
        dataset: with label maps.
        most: patches, sampled by class (by tenths of a quantity).

    Returns:
        The features with labels (n,) or (n, 1), and (n,) the block of ground of each: that of its tile, or where none
        are known (:func:`~fusion.evaluation.ground.ground_blocks`) the tile.

    Raises:
        ValueError: no pixel is labelled, or the data do not fit the model.
    """
    require_fit(model, dataset)
    task, patches = str(dataset.task), dataset.grid[0] * dataset.grid[1]
    parts = [
        vote(dataset.subset(some).labels().numpy(), dataset.grid, task, len(dataset.classes), dataset.ignore_index)
        for some in np.array_split(np.arange(len(dataset)), -(-len(dataset) // _TILES))
    ]
    said = np.concatenate(parts).reshape(-1)  # (tiles * P,)
    labelled = np.flatnonzero(np.isfinite(said) if task == "regression" else said >= 0)
    if not len(labelled):
        raise ValueError(f"probe: no pixel of {len(dataset)} tiles, e.g. {dataset.names[0]}, is labelled")
    strata = strata_of(said[labelled], task)
    chosen = labelled[stratified_sample(strata, most, seed, strata if task != "regression" else None)]
    tiles = np.unique(chosen // patches)
    rows, device, training = [], device_of(model), model.training
    model.eval()
    try:
        with torch.inference_mode():
            first = 0
            for batch in evaluation_loader(dataset.subset(tiles), batch_size):
                encoded = model(batch.to(device)).patches.float().cpu().numpy()  # (B, P, D)
                for tile, vectors in zip(tiles[first : first + len(batch)], encoded, strict=True):
                    begin, end = np.searchsorted(chosen, [tile * patches, (tile + 1) * patches])
                    rows.append(vectors[chosen[begin:end] - tile * patches])
                first += len(batch)
    finally:
        model.train(training)
    labels = said[chosen][:, None] if task == "regression" else said[chosen].astype(np.int64)
    names, blocks = np.array(dataset.names), ground_blocks(dataset)
    of = chosen // patches
    features = Features(np.concatenate(rows), labels, tuple(names[of]), task, dataset.classes)
    return features, (names if blocks is None else blocks)[of]
