"""What who knows nothing would score: always the commonest class, or always the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Chance", "chance_by_class", "chance_scores"]


@dataclass(frozen=True)
class Chance:
    """
    Attributes:
        scores: by metric, with the names of :func:`fusion.evaluation.metrics.score`.
        told: how they are reached, in words.
    """

    scores: dict[str, float]
    told: str


def chance_scores(
    confusion: Sequence[Sequence[float]] | np.ndarray | None,
    classes: Sequence[str] = (),
    reached: Mapping[str, float] | None = None,
    targets: int = 1,
) -> Chance:
    """Scores without any knowledge of a sample, from what is known of a test split.

    Args:
        confusion: (K, K) counts with the reference in rows, or (K, 2, 2) of several classes a tile, as
            :func:`fusion.evaluation.metrics.confusion`; only the reference is looked at. None for quantities.
        classes: K names.
        reached: of quantities the ``r2`` and ``rmse`` of some prediction, from which the spread of the truth follows.
        targets: how many quantities; the spread of several does not follow from the mean of their scores.

    Returns:
        Of classes that exclude each other those of always the commonest one; of several a tile those of saying each
        where it is present in more than half of the tiles; of quantities those of the mean: R2 0, and the standard
        deviation of the truth as RMSE.
    """
    if confusion is None:
        scores = {"r2": 0.0}
        if targets == 1 and reached and reached.get("r2", 1.0) < 1 and "rmse" in reached:
            scores["rmse"] = float(reached["rmse"] / np.sqrt(1 - reached["r2"]))
        return Chance(scores, "always the mean of the test labels")
    counts = np.asarray(confusion, dtype=float)
    if counts.ndim == 3:
        present = counts[:, 1].sum(axis=1) / counts.sum(axis=(1, 2))  # (K,)
        said = present > 0.5
        f1 = np.where(said, 2 * present / (1 + present), 0.0)
        seen = present > 0
        there = present.sum()
        right, total = (present * said).sum(), said.sum() + there
        scores = {
            "macro_f1": float(f1[seen].mean()) if seen.any() else 0.0,
            "weighted_f1": float((f1 * present).sum() / there) if there else 0.0,
            "micro_f1": float(2 * right / total) if total else 0.0,
        }
        return Chance(scores, "each class in every tile if it is in more than half of the test tiles, else in none")
    there = counts.sum(axis=1)
    share, commonest = there / there.sum(), int(there.argmax())
    most, seen = float(share[commonest]), int((there > 0).sum())
    best = 2 * most / (1 + most)  # its F1
    scores = {
        "macro_f1": best / seen,
        "weighted_f1": most * best,
        "micro_f1": most,
        "accuracy": most,
        "miou": most / seen,
    }
    name = classes[commonest] if len(classes) else f"class {commonest}"
    return Chance(scores, f"always {name}, the commonest class of the test labels")


def chance_by_class(support: Mapping[str, float], samples: float) -> dict[str, dict[str, float]]:
    """F1 and IoU of each class for saying that class everywhere.

    Args:
        support: of each class the number of samples that have it.
        samples: of all of them.
    """
    shares = {name: count / samples for name, count in support.items()}
    return {name: {"f1": 2 * share / (1 + share), "iou": share} for name, share in shares.items()}
