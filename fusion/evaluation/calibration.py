"""The interval of predicted quantities, from a validation split, into the file of a fine-tuned model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fusion.data import TileDataset
from fusion.training.checkpoints import load_finetuned, read_header, save_model
from fusion.training.conformal import ConformalInterval, fewest_residuals
from fusion.training.loading import evaluation_loader

__all__ = ["calibrate"]

_KEPT = 400_000  # pairs of prediction and label
_BATCH = 8  # tiles


def calibrate(best: Path, validation: TileDataset | None, level: float) -> str:
    """Adds the interval of every quantity to the file of a fine-tuned model, from tiles it was not fitted to.

    Args:
        best: the file; it is replaced as a whole. One that has the interval of its level stays as it is.
        validation: tiles that are no neighbours of those fitted to. None: there is no interval.
        level: of the interval.

    Returns:
        Why there is no interval, as a part of a sentence; empty where there is one, and where there are classes.
    """
    module: Any = load_finetuned(best)
    if module.task != "regression" or (module.intervals and module.intervals[0].level == level):
        return ""
    if validation is None:
        return (
            "the quantity has no interval, which takes a validation split; tiles held out of the training split lie "
            "beside those that were learnt from, and their errors are too small"
        )
    pairs = [_Thinned(_KEPT) for _ in module.classes]
    for predicted, labels in _predicted(module, validation):
        for k, kept in enumerate(pairs):
            kept.add(predicted[:, k].ravel(), labels[:, k].ravel())
    fewest = min(len(kept.prediction) for kept in pairs)
    if fewest < fewest_residuals(level):
        return (
            f"the quantity has no interval: {fewest} labels of the validation split are too few for a level of "
            f"{level:.0%}, which takes {fewest_residuals(level)}"
        )
    found = [ConformalInterval.fit(kept.prediction, kept.target, level) for kept in pairs]
    module.hparams["interval_level"] = level
    module.hparams["intervals"] = [one.to_dict() for one in found]
    save_model(best, cast(nn.Module, module.model), metrics=read_header(best).metrics, finetuned=module)
    return ""


def _predicted(module: Any, dataset: TileDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each batch the predicted quantities and their labels, both (B, K) or (B, K, H, W)."""
    with torch.inference_mode():
        for batch in evaluation_loader(dataset, _BATCH):
            out = module(batch).float()
            labels = cast(torch.Tensor, batch.labels).float().reshape(out.shape)
            yield out.numpy(), labels.numpy()


class _Thinned:
    """Pairs of which every second one is let go whenever there are too many: evenly spaced, in bounded memory."""

    def __init__(self, most: int) -> None:
        self.most, self.step, self.seen = most, 1, 0
        self.prediction = self.target = np.zeros(0, dtype=np.float32)

    def add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """(n,) each; those without a label (NaN) are left out."""
        labelled = np.isfinite(target)
        prediction, target = prediction[labelled], target[labelled]
        first, self.seen = -self.seen % self.step, self.seen + len(target)
        self.prediction = np.concatenate([self.prediction, prediction[first :: self.step]])
        self.target = np.concatenate([self.target, target[first :: self.step]])
        while len(self.target) > self.most:
            self.prediction, self.target, self.step = self.prediction[::2], self.target[::2], 2 * self.step
