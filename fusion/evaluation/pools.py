"""What stands for a tile: each pool that a model offers, and the one that labelled ground prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import nn

from fusion.data import TileDataset
from fusion.training.vectors import Pool, pools_of

from .features import Features, extract_pools
from .penalties import held_out_error, held_out_score, linear_model
from .probes import fitted_to, require_labels
from .regressors import prepared

__all__ = ["AnyPool", "chosen_pool", "extract_each"]

_CHOSEN_ON = 1500  # labelled tiles that the pool is chosen on

AnyPool = Pool | Literal["auto"]


def extract_each(
    model: nn.Module,
    dataset: TileDataset,
    modalities: Sequence[str] | None = None,
    *,
    pool: AnyPool = "mean",
    **extraction: Any,
) -> dict[Pool, Features]:
    """Features by pool: of the one that is named, or with ``"auto"`` of all that the model offers.

    Args:
        extraction: goes to :func:`~fusion.evaluation.extract`.
    """
    pools = pools_of(model) if pool == "auto" else (pool,)
    return extract_pools(model, dataset, modalities, pools=pools, **extraction)


def chosen_pool(features: Mapping[Pool, Features], seed: int = 0) -> Pool:
    """The pool that a linear probe learns most from, by folds of whole blocks of the labelled tiles; the folds are the
    same for all. The first where labels are too few to choose by.

    Of quantities it is that of fewest features within one standard error of the best, as with the penalty of a ridge:
    parts of one place are more alike than places, and with many features a ridge learns what holds in the first alone.

    Args:
        features: of the same labelled tiles, by pool. No other tile is looked at.
        seed: of the folds.
    """
    if len(features) == 1:
        return next(iter(features))
    found, errors = dict[Pool, float](), dict[Pool, float]()
    for pool, every in features.items():
        train = every.subset(np.sort(np.random.default_rng(seed).permutation(len(every))[:_CHOSEN_ON]))
        task = require_labels("choice of a pool", train, train)
        linear = linear_model(task, train.labels, seed, train.blocks, coarse=True)
        fitted = fitted_to(prepared(linear), train)[-1]
        found[pool], errors[pool] = held_out_score(fitted), held_out_error(fitted)
    known = [pool for pool in features if not np.isnan(found[pool])]
    if not known:
        return next(iter(features))
    best = max(known, key=lambda pool: found[pool])
    if task != "regression":
        return best
    enough = [pool for pool in known if found[pool] >= found[best] - errors[best]]
    return min(enough, key=lambda pool: features[pool].x.shape[1])
