"""What reads a quantity out of embeddings or bands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ...context.gpp import fit_regressor

__all__ = ["Reader", "forest", "ridge", "table_reader", "transformer"]

Reader = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows to learn from, rows to predict) to predictions."""


def ridge() -> Any:
    """Ridge regression on standardised inputs; its penalty comes from leave-one-out errors."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))


def forest(seed: int) -> Any:
    """The same random forest for bands and for embeddings."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(200, min_samples_leaf=2, max_features=1 / 3, random_state=seed)


def table_reader(make: Callable[[], Any], inputs: np.ndarray, target: np.ndarray) -> Reader:
    """A regressor of scikit-learn that sees one row of ``inputs`` (N, F) at a time."""

    def read(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return make().fit(inputs[train], target[train]).predict(inputs[test])

    return read


def transformer(
    embedding: np.ndarray,
    context: np.ndarray,
    day: np.ndarray,
    target: np.ndarray,
    settings: Mapping[str, Any],
    repeats: int,
    seed: int,
) -> Reader:
    """The temporal transformer on the embeddings (N, E) of a row's ``context`` (N, T), the mean of ``repeats`` seeds.

    Args:
        settings: of :func:`fusion.context.gpp.fit_regressor`.
    """
    return partial(_read_series, embedding, context, day, target, settings, [seed + k for k in range(repeats)])


def _read_series(
    embedding: np.ndarray,
    context: np.ndarray,
    day: np.ndarray,
    target: np.ndarray,
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    train: np.ndarray,
    test: np.ndarray,
) -> np.ndarray:
    scaled = (embedding - embedding[train].mean(0)) / (embedding[train].std(0) + 1e-6)
    near = np.maximum(context, 0)

    def inputs(rows: np.ndarray) -> list[torch.Tensor]:
        parts = scaled[near[rows]].astype(np.float32), day[near[rows]], context[rows] >= 0
        return [torch.from_numpy(part) for part in parts]

    mean, std = target[train].mean(), target[train].std()
    wanted = torch.from_numpy((target[train] - mean) / std).float()
    given, asked = inputs(train), inputs(test)
    guesses = [fit_regressor(*given, wanted, seed=seed, **settings)(*asked).detach().numpy() for seed in seeds]
    return np.mean(guesses, axis=0) * std + mean
