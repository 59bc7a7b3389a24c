"""Regression models: what predicts a quantity from embeddings, bands or other numbers.

Every experiment uses these and no others, so that only what they are given differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .temporal import fit_regressor

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

__all__ = [
    "PENALTIES",
    "Regressor",
    "forest",
    "gaussian_process",
    "on_rows",
    "prepared",
    "random_forest",
    "ridge",
    "temporal_transformer",
]

PENALTIES = np.logspace(-2, 4, 13)

Regressor = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows to learn from, rows to predict) to predictions."""


def prepared(estimator: Any, *, standardise: bool = True) -> Pipeline:
    """An estimator of scikit-learn for inputs with NaN, which take the training mean (0 where a column has none)."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()] if standardise else []
    return make_pipeline(SimpleImputer(keep_empty_features=True), *steps, estimator)


def ridge(penalties: np.ndarray = PENALTIES, *, per_target: bool = False) -> Pipeline:
    """Ridge regression on standardised inputs; its penalty comes from leave-one-out errors.

    Args:
        penalties: to choose from.
        per_target: each column of the target has a penalty of its own.
    """
    from sklearn.linear_model import RidgeCV

    return prepared(RidgeCV(penalties, alpha_per_target=per_target))


def forest(seed: int = 0) -> Pipeline:
    """A random forest of 200 trees with a third of the inputs at a split (Breiman's choice for regression)."""
    from sklearn.ensemble import RandomForestRegressor

    trees = RandomForestRegressor(200, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
    return prepared(trees, standardise=False)


def random_forest(task: str, trees: int, least: int, seed: int) -> Any:
    """A forest of scikit-learn for a task, on all cores: at a split a third of the inputs for quantities, for classes
    their root (Breiman's choices), and ``least`` rows in a leaf."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestRegressor if task == "regression" else RandomForestClassifier
    share = 1 / 3 if task == "regression" else "sqrt"
    return kind(trees, max_features=share, min_samples_leaf=least, random_state=seed, n_jobs=-1)


def gaussian_process(noise: float = 0.3, length: float = 2.0) -> Pipeline:
    """A Gaussian process on standardised inputs: a plane plus a smooth surface (Rasmussen & Williams 2006, chapter 2).

    Its kernel is fixed, for a few hundred rows do not tell the likeliest one reliably: plane and surface have unit
    variance each, at inputs one deviation from their means.

    Args:
        noise: its variance, that of the target being 1.
        length: over which the surface varies, in deviations of every input at once.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, DotProduct
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    kernel = DotProduct(0.0, "fixed") + RBF(length, "fixed")
    process = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None, normalize_y=True)
    return prepared(make_pipeline(FunctionTransformer(_per_root_of_width), process))


def _per_root_of_width(x: np.ndarray) -> np.ndarray:
    """Inputs (N, F) of which distances do not grow with their number."""
    return x / np.sqrt(x.shape[1])


def on_rows(make: Callable[[], Any], inputs: np.ndarray, target: np.ndarray) -> Regressor:
    """An estimator of scikit-learn that is given one row of ``inputs`` (N, F) at a time."""

    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return np.asarray(make().fit(inputs[train], target[train]).predict(inputs[test]))

    return predict


def temporal_transformer(
    embedding: np.ndarray,
    context: np.ndarray,
    day: np.ndarray,
    target: np.ndarray,
    settings: Mapping[str, Any],
    repeats: int,
    seed: int,
) -> Regressor:
    """The temporal transformer on the embeddings (N, E) of a row's ``context`` (N, T), the mean of ``repeats`` seeds.

    Args:
        context: rows, -1 where there is none; see :attr:`fusion.evaluation.rows.Rows.context`.
        day: (N,) whole days since any fixed date.
        settings: of :func:`fusion.evaluation.temporal.fit_regressor`.
    """
    return partial(_from_series, embedding, context, day, target, settings, [seed + k for k in range(repeats)])


def _from_series(
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

    def inputs(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        series = torch.from_numpy(scaled[near[rows]].astype(np.float32))  # (n, T, E)
        return series, torch.from_numpy(day[near[rows]]), torch.from_numpy(context[rows] >= 0)

    mean, std = target[train].mean(), target[train].std()
    wanted = torch.from_numpy((target[train] - mean) / std).float()
    given, asked = inputs(train), inputs(test)
    guesses = [fit_regressor(*given, wanted, seed=seed, **settings)(*asked).detach().numpy() for seed in seeds]
    return np.asarray(np.mean(guesses, axis=0) * std + mean)
