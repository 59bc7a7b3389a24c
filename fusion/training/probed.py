"""A frozen encoder with an estimator on its embeddings: the face of a fine-tuned model without its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fusion.data import TileBatch

from .conformal import ConformalInterval
from .estimators import Estimator, ForestEstimator, LinearEstimator
from .systems import config_of
from .vectors import Pool, tile_vectors

__all__ = ["PROBE", "Probed"]

PROBE = "probe"  # kind of what is on top of the encoder in a file
_ESTIMATORS: dict[str, type[Estimator]] = {"linear": LinearEstimator, "forest": ForestEstimator}


class Probed(nn.Module):
    """What :func:`fusion.training.load_finetuned` returns of a saved probe.

    Args:
        model: the encoder.
        task: ``"multilabel"``, ``"multiclass"`` or ``"regression"``.
        classes: names of the classes or of the targets.
        estimator: ``"linear"`` or ``"forest"``.
        sizes: of its tensors, see :meth:`~fusion.training.estimators.Estimator.sizes`.
        features: of ``"tile"``, of ``"patch"``, or of ``"periods"``: the mean embedding of a pixel of a cube in each
            part of the year.
        pool: what stands for a tile.
        modalities: that the features are of; others in a batch are not looked at. None are all.
        label_shape: rows and columns of pixels of a label map, for features of patches.
        ignore_index: class of pixels without label.
        interval_level, intervals: of quantities, as those of :class:`~fusion.training.finetuning.Finetuning`.
        periods, longest_gap: parts of the year, and days to another sensor's nearest date, for features of periods.

    Attributes:
        dense: whether it labels pixels.
        intervals: a :class:`~fusion.training.conformal.ConformalInterval` for each quantity, or none.
        hparams: the arguments but the model, as a file holds them.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        task: Literal["multilabel", "multiclass", "regression"],
        classes: Sequence[str],
        estimator: Literal["linear", "forest"],
        sizes: Mapping[str, int],
        features: Literal["tile", "patch", "periods"] = "tile",
        pool: Pool = "mean",
        modalities: Sequence[str] = (),
        label_shape: Sequence[int] = (),
        ignore_index: int = -1,
        periods: int = 0,
        longest_gap: int = 0,
        interval_level: float = 0.9,
        intervals: Sequence[Mapping[str, Any]] = (),
        kind: str = PROBE,
    ) -> None:
        super().__init__()
        if estimator not in _ESTIMATORS:
            raise ValueError(f"Probed: estimator is {' or '.join(map(repr, _ESTIMATORS))}, not {estimator!r}")
        if features == "patch" and len(label_shape) != 2:
            raise ValueError(f"Probed: features of patches want label_shape=(rows, columns), not {label_shape!r}")
        self.model, self.task, self.classes = model, task, tuple(classes)
        self.features, self.pool, self.modalities = features, pool, tuple(modalities)
        self.label_shape, self.ignore_index = tuple(label_shape), ignore_index
        self.periods, self.longest_gap = periods, longest_gap
        self.intervals = tuple(ConformalInterval.from_dict(one) for one in intervals)
        self.estimator = _ESTIMATORS[estimator](**sizes)
        self.hparams: dict[str, Any] = {
            "kind": kind,
            "task": task,
            "classes": list(classes),
            "estimator": estimator,
            "sizes": dict(sizes),
            "features": features,
            "pool": pool,
            "modalities": list(modalities),
            "label_shape": list(label_shape),
            "ignore_index": ignore_index,
            "periods": periods,
            "longest_gap": longest_gap,
            "interval_level": interval_level,
            "intervals": [dict(one) for one in intervals],
        }
        model.requires_grad_(False)
        self.eval()

    @property
    def dense(self) -> bool:
        return self.features != "tile"

    @property
    def of_cubes(self) -> bool:
        """Whether the features are of pixels of cubes, which no batch of tiles holds."""
        return self.features == "periods"

    def forward(self, batch: TileBatch) -> Tensor:
        """(B, K) logits or quantities in their unit; (B, K, H, W) for maps, alike in all pixels of a patch.

        Raises:
            ValueError: a probe of the pixels of cubes.
        """
        if self.of_cubes:
            raise ValueError(
                "Probed: this probe is of pixels of cubes, not of tiles; map them with `fusion predict RUN --data "
                "DESCRIPTION`, or with fusion.embed.CubeProbe"
            )
        if self.modalities:
            batch = batch.select([name for name in batch.modalities if name in self.modalities])
        if not self.dense:
            names = self.modalities or batch.modalities
            out: Tensor = self.estimator(tile_vectors(self.model, batch, self.pool, names))
            return out
        patches = self.model(batch).patches  # (B, P, D)
        rows, columns = config_of(self.model).grid
        out = self.estimator(patches.flatten(0, 1)).unflatten(0, (-1, rows, columns))  # (B, *grid, K)
        return F.interpolate(out.movedim(-1, 1), self.label_shape)
